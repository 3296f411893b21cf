"""`hpcjobs collect --logs`: the number of GPUs that is given, what a refused log shows, and the exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

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
