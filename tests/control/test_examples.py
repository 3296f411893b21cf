"""examples/: every experiment can be read, and its pattern finds the figures in what its script prints."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hpcjobs.collect.pattern import Pattern
from hpcjobs.collect.pattern_numbers import figures
from hpcjobs.collect.signs import detect
from hpcjobs.config import Experiment, profiles
from hpcjobs.trainers.command_keys import CommandExperiment
from hpcjobs.trainers.registry import experiment_in
from tests.running import until

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
EXPERIMENTS = sorted(EXAMPLES.glob("*/*.yaml"))

# A line of each framework, as it was printed. Megatron-LM's was composed after `training_log` in its
# megatron/training/training.py (commit 001b00c27).
MEGATRON = (
    " [2025-11-28 18:48:17] iteration       50/    5000 | consumed samples:        51200 | elapsed time per iteration (ms): "
    "61674.3 | throughput per GPU (TFLOP/s/GPU): 68.2 | learning rate: 1.500000E-04 | global batch size:  1024 | "
    "lm loss: 6.681113E+00 | loss scale: 1.0 | grad norm: 2.137 | number of skipped iterations:   0 |"
)
LINES = {
    "torch_ddp": ("step 160 samples/s: 7077.6 loss: 2.1614", {"step": 160, "throughput": 7077.6}),
    "plain_sockets": ("step 690 samples/s: 9760.0", {"step": 690, "throughput": 9760.0}),
    "mpi_program": ("step 290 samples/s: 46889.1", {"step": 290, "throughput": 46889.1}),
    "horovod_keras": ("step 180 samples/s: 8981.1", {"step": 180, "throughput": 8981.1}),
    "lightning": ("step 260 samples/s: 10963.4", {"step": 260, "throughput": 10963.4}),
    "accelerate": ("step 260 samples/s: 16446.4", {"step": 260, "throughput": 16446.4}),
    "huggingface_trainer": ("step 110 sequences/s: 294.1", {"step": 110, "throughput": 294.1}),
    "megatron_lm": (MEGATRON, {}),
}


def read(path: Path) -> CommandExperiment:
    experiment = experiment_in(profiles.read(Experiment, str(path)))
    assert isinstance(experiment, CommandExperiment)
    return experiment


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_the_pattern_or_format_of_each_experiment_reads_its_frameworks_line(path: Path) -> None:
    about = read(path).measure
    line, expected = LINES[path.parent.name]
    if about.pattern is None:
        format, number = detect(line.encode())
        assert (about.format, number) == (format, 0)
        return
    match = Pattern(about.pattern or "", about.of, about.unit or "", about.warmup).search(line)
    assert match is not None
    found = figures(match)
    assert {group: getattr(found, group) for group in expected} == expected


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_each_folder_has_what_its_experiment_starts_and_stands_in_the_index(path: Path) -> None:
    index = (EXAMPLES / "README.md").read_text()
    assert f"]({path.parent.name}/README.md)" in index
    readme = (path.parent / "README.md").read_text()
    assert path.name in readme
    assert "Run by us" in readme or "What was run" in readme or "Not run by us" in readme
    for word in read(path).command:
        if word.endswith((".py", ".sh")) and path.parent.name != "megatron_lm":
            assert (path.parent / word).exists()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_ranks(folder: Path, *words: str) -> list[subprocess.Popen[str]]:
    """Two ranks of the example that needs nothing but Python."""
    meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    script = [sys.executable, str(EXAMPLES / "plain_sockets" / "train.py"), "--batch", "2", *words]
    return [
        subprocess.Popen(
            script,
            env={**os.environ, **meeting, "RANK": str(rank), "HPCJOBS_RUN_DIR": str(folder)},
            stdout=(folder / f"log-{rank}").open("w"),
            text=True,
        )
        for rank in range(2)
    ]


def test_the_plain_example_writes_a_checkpoint_when_one_rank_is_signalled_and_continues_from_it(tmp_path: Path) -> None:
    ranks = start_ranks(tmp_path, "--steps", "1000000")
    until(lambda: "step 10 samples/s: " in (tmp_path / "log-0").read_text())
    ranks[1].send_signal(signal.SIGUSR1)
    assert [rank.wait(60) for rank in ranks] == [75, 75]
    words = (tmp_path / "log-0").read_text().splitlines()[-1].split()
    assert (words[:3], words[4:]) == (["checkpoint", "of", "step"], ["written"])
    step = int(words[3])

    ranks = start_ranks(tmp_path, "--steps", str(step + 20))
    assert [rank.wait(60) for rank in ranks] == [0, 0]
    printed = (tmp_path / "log-0").read_text().splitlines()
    first = step // 10 * 10 + 10
    assert [line.split()[1] for line in printed if line.startswith("step")] == [str(first), str(first + 10)]
    assert printed[-1] == f"checkpoint of step {step + 20} written"
