"""`hpcjobs collect --logs`: the number of GPUs that is given, what a refused log shows, and the exit code."""

from __future__ import annotations

import errno
import json
import os
import shlex
from pathlib import Path

import pytest

from hpcjobs.collect.log_files import read_logs
from tests.running import hpcjobs

# NERSC/sc22-dl-tutorial, example_logs, shortened
EPOCHS = """\
2021-11-12 00:32:26,119 - root - INFO - global_batch_size 64
2021-11-12 00:46:23,492 - root - INFO - Time taken for epoch 1 is 752.9529612064362 sec, avg 87.03863770585806 samples/sec
2021-11-12 00:59:52,873 - root - INFO - Time taken for epoch 2 is 736.1673448085785 sec, avg 89.02323698837927 samples/sec
"""
# bigscience-workshop/bigscience, experiments/gpt2-meg, shortened; the batch of the second line is changed
CONTRADICTS = """\
using world size: 32, data-parallel-size: 1, tensor-model-parallel size: 4, pipeline-model-parallel size: 8
 iteration       40/    1000 | consumed samples:          160 | elapsed time per iteration (ms): 1625.2 | global batch size:     4 | lm loss: 1.377455E+01 |
 iteration       50/    1000 | consumed samples:          280 | elapsed time per iteration (ms): 1623.8 | global batch size:     4 | lm loss: 1.016227E+01 |
"""


def write(folder: Path, **texts: str) -> None:
    for name, text in texts.items():
        (folder / f"{name}.log").write_text(text)


def test_a_number_of_gpus_is_given_to_a_log_that_does_not_say_it(tmp_path: Path) -> None:
    write(tmp_path, a=EPOCHS)
    (row,) = json.loads(hpcjobs("collect", "--logs", "a.log", "--gpus", "2", "--json", cwd=tmp_path).stdout)
    assert (row["gpus"], row["throughput"]) == (2, pytest.approx(89.02, rel=1e-3))


@pytest.mark.parametrize("how", [(), ("--pattern", r"avg (?P<throughput>[\d.]+)", "--warmup", "1")])
def test_a_number_of_gpus_that_the_log_contradicts_gives_no_row(tmp_path: Path, how: tuple[str, ...]) -> None:
    write(tmp_path, a="world_size 4\n" + EPOCHS)
    refused = hpcjobs("collect", "--logs", "a.log", "--gpus", "2", "--json", *how, cwd=tmp_path, code=1)
    assert json.loads(refused.stdout) == []
    said = "the log says 4 GPUs (line 1), the run has 2" if how else "a.log:1: the log says 4 GPUs, --gpus 2"
    assert said in refused.stderr


@pytest.mark.parametrize(
    ("given", "gpus", "told"),
    [
        ("8", [8], ": --gpus 8 counts"),
        ("16", [16], ": --gpus 16 counts"),
        ("4", [], ", and --gpus 4 is neither: the number of GPUs is not known"),
        ("", [], ": the number of GPUs is not known"),
    ],
)
def test_of_two_numbers_of_gpus_in_a_log_the_one_that_is_given_counts(
    tmp_path: Path, given: str, gpus: list[int], told: str
) -> None:
    write(tmp_path, a="world_size 8\nmpirun -np 16 python train.py\n" + EPOCHS)
    words = ("--gpus", given) if given else ()
    done = hpcjobs("collect", "--logs", "a.log", *words, "--json", cwd=tmp_path, code=int(not gpus))
    assert [row["gpus"] for row in json.loads(done.stdout)] == gpus
    both = "a.log:1: world_size 8 (line 1: 8) and mpirun -np 16 (line 2: 16) contradict each other"
    assert f"{both}{told}" in done.stderr.splitlines()


def test_a_batch_that_the_log_contradicts_makes_no_rate_of_a_step_s_time(tmp_path: Path) -> None:
    write(tmp_path, a="world size: 2\nglobal batch size: 4\n" + "step ms: 100.0 rate: 40.0\n" * 20)

    def tried(pattern: str, *given: str, code: int) -> tuple[list[tuple[float, int | None]], list[str]]:
        words = ("collect", "--logs", "a.log", "--pattern", pattern, "--warmup", "0", "--json", *given)
        done = hpcjobs(*words, cwd=tmp_path, code=code)
        rows = [(row["throughput"], row["global_batch"]) for row in json.loads(done.stdout)]
        return rows, [line for line in done.stderr.splitlines() if not line.startswith("  ")][1:]

    refused = "a.log: the log says 4 as global batch (line 2), the run has 8"
    step, rate = r"ms: (?P<step_ms>[\d.]+)", r"rate: (?P<throughput>[\d.]+)"
    assert tried(step, code=0)[0] == [(40.0, 4)]
    # To give the batch again would be no remedy.
    assert tried(step, "--batch", "8", code=1) == ([], [refused, "no rate, 100 ms a step (mean of 20 matches)"])
    assert tried(rate, "--batch", "8", code=0) == ([(40.0, None)], [refused, "40 samples/s (mean of 20 matches)"])


def test_a_folder_without_files_and_one_that_cannot_be_read_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "none" / "below").mkdir(parents=True)
    told = hpcjobs("collect", "--logs", "none", cwd=tmp_path, code=2).stderr
    assert told == "hpcjobs: error: --logs none: no file lies below this folder\n"
    (tmp_path / "logs" / "closed").mkdir(parents=True)
    write(tmp_path / "logs", a="world_size 4\n" + EPOCHS)
    scandir = os.scandir

    def closed(path: str) -> object:
        """The superuser, as whom tests may run, can read every folder."""
        if str(path).endswith("closed"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    found = read_logs([tmp_path / "logs"])
    assert [run.gpus for run in found.runs] == [4]
    assert [Path(problem.path).name for problem in found.problems] == ["closed"]


def test_a_refused_log_shows_what_is_known_and_what_contradicts(tmp_path: Path) -> None:
    write(tmp_path, a=CONTRADICTS)
    told = hpcjobs("collect", "--logs", "a.log", cwd=tmp_path, code=1).stderr.splitlines()
    assert told == [
        "a.log:2: megatron, 32 GPUs, no rate",
        "a.log: the log contradicts itself: consumed samples of an iteration 12 (line 3); global batch size 4 (line 2): no figure counts",
    ]


def test_what_no_line_says_has_no_line(tmp_path: Path) -> None:
    five = "".join(
        f"2021-11-12 00:46:23,492 - root - INFO - Time taken for epoch {epoch} is 736.2 sec, avg 89.02 samples/sec\n"
        for epoch in range(1, 6)
    )
    write(tmp_path, a=EPOCHS, b=five * 2)
    single = hpcjobs("collect", "--logs", "a.log", cwd=tmp_path, code=1).stderr.splitlines()
    lacks = "the log does not say how many GPUs it used: give --gpus N, or --gpus-from REGEX for its path"
    assert single == ["a.log:2: epochs, GPUs not known, 89.0232 samples/s", f"a.log: {lacks}"]
    # Of several runs each is named.
    several = hpcjobs("collect", "--logs", "b.log", cwd=tmp_path, code=1).stderr.splitlines()
    assert several[2:] == [f"b.log: the run from line {line} on: {lacks}" for line in (1, 6)]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["read.log"], 0),
        (["read.log", "refused.log", "empty.log"], 0),
        (["tables.log"], 0),
        (["refused.log"], 1),
        (["refused.log", "empty.log"], 1),
        (["unknown.log"], 1),
        (["read.log", "--pattern", r"avg (?P<throughput>[\d.]+)", "--warmup", "1"], 0),
        (["read.log", "--pattern", "nothing (?P<throughput>.)"], 1),
        (["read.log", "--format", "imagenet"], 1),
        (["nowhere.log"], 2),
        (["read.log", "--batch", "8"], 2),
        (["read.log", "--gpus", "2", "--gpus-from", "(.)"], 2),
    ],
)
def test_the_exit_code_says_whether_a_log_gave_a_row(tmp_path: Path, words: list[str], code: int) -> None:
    tables = "# OSU MPI Allreduce Latency Test v7.0\n# Size       Avg Latency(us)\n8 1.50\n"
    write(tmp_path, read="world_size 4\n" + EPOCHS, refused=CONTRADICTS, empty="", unknown="hello\n", tables=tables)
    hpcjobs("collect", "--logs", *words, cwd=tmp_path, code=code)


def test_ranks_of_cpus_are_told_from_gpus(tmp_path: Path) -> None:
    write(tmp_path, a="Using device: cpu\nworld_size 1\ndevice: cpu\n" + EPOCHS, b="world_size 8\n" + EPOCHS)
    done = hpcjobs("collect", "--logs", "a.log", "b.log", "--json", cwd=tmp_path)
    assert "1 (CPU)" in done.stderr
    assert [(row["gpus"], row["params"]) for row in json.loads(done.stdout)] == [(1, "device=cpu"), (8, "")]


def test_a_hint_for_few_lines_leaves_few_out(tmp_path: Path) -> None:
    few = "".join(f"epoch {epoch}: 87.04 samples/sec\n" for epoch in range(10))
    write(tmp_path, few=few, many=few * 30)
    told = {
        name: hpcjobs("collect", "--logs", f"{name}.log", cwd=tmp_path, code=1).stderr.splitlines()[-1]
        for name in ("few", "many")
    }
    assert "--unit samples --warmup 1 --gpus N" in told["few"]
    assert "--unit samples --gpus N" in told["many"]


@pytest.mark.parametrize(
    ("line", "rate"),
    [
        ("step {step} samples/s: {rate}", 2000.0),
        ("step {step}: {rate} samples/s", 2000.0),
        ("step {step}: {rate} samples/s/GPU", 4000.0),
        ("step {step} | tokens/sec = {rate} | 3 images", 2000.0),
        ("{{'step': {step}, 'tokens_per_second': {rate}, 'loss': 0.3}}", 2000.0),
        ("[it {step}] elapsed time per iteration (ms): {rate}", 4.0),  # --batch 8
    ],
)
def test_the_command_of_a_hint_reads_the_rate_as_it_is_printed(tmp_path: Path, line: str, rate: float) -> None:
    write(tmp_path, a="".join(line.format(step=step, rate="2000.0") + "\n" for step in range(1, 21)))
    told = hpcjobs("collect", "--logs", "a.log", cwd=tmp_path, code=1).stderr.splitlines()[-1]
    assert told.startswith("try --pattern ")
    words = shlex.split(told.removeprefix("try ").partition(";")[0].replace("--gpus N", "--gpus 2").replace(" N", " 8"))
    (row,) = json.loads(hpcjobs("collect", "--logs", "a.log", *words, "--json", cwd=tmp_path).stdout)
    assert row["throughput"] == pytest.approx(rate)
