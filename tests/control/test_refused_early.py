"""Options that would only fail on a node, hours later, are refused when they are typed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.running import hpcjobs

OWN = """name: mine
trainer: chexnet
batch:
  global: 8
lr:
  base: 0.001
data:
  dir: /data
"""


def refusal(tmp_path: Path, *words: str, gpus: str = "1,2") -> str:
    """The line of a refused plan. Nothing is written."""
    (tmp_path / "mine.yaml").write_text(OWN)
    line = ("sweep", "--gpus", gpus, "--cluster", "local", *words, "--dry-run")
    said = hpcjobs(*line, cwd=tmp_path, code=2).stderr
    assert os.listdir(tmp_path) == ["mine.yaml"]
    assert said.count("\n") == 1
    return said.removeprefix("hpcjobs: error: ").rstrip("\n")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["seed=4294967296"],
            "--set: key 'seed': expected at most 4294967295, the most that NumPy takes, got 4294967296",
        ),
        # NumPy would take that of the first two repeats.
        (["seed=4294967294", "repeats=3"], "got 4294967294 (that of repeat 3 is 4294967296)"),
        (["lr.base=1e400"], "--set: key 'lr.base': expected a finite number, got inf"),
        (["lr.base=1e39"], "--set: key 'lr.base': expected 1.18e-38 to 3.4e+38, the numbers of float32, got 1e+39"),
        (["lr.base=1e-39"], "got 1e-39"),
        (["train.steps=99999999999999999999"], "--set: key 'train.steps': expected less than 2^63, got 1e+20"),
        (["train.steps=1e400"], "--set: key 'train.steps': expected a whole number, got inf"),
        (["mode=fast"], "--set: key 'mode': expected one of train, benchmark, got 'fast'"),
        (["lr.scaling=cubic"], "--set: key 'lr.scaling': expected one of none, linear, sqrt, got 'cubic'"),
        # What --set gave is not looked for in the file, whose section of that name may hold other keys.
        (["environment.X=1"], "--set: unknown key 'environment'"),
        (["data.synth.images=20"], "--set: key 'data.synth.size' is missing"),
        (["lr.rule=x"], "--set: unknown key 'lr.rule': known: base"),
        (["batch.global=7"], "--set: batch.global 7 does not divide over 2 GPUs"),
        (["batch.local=8", "batch.passes=3"], "--set: a local batch of 8 does not divide into batch.passes 3"),
    ],
    ids=lambda given: given[0] if isinstance(given, list) else "",
)
def test_a_setting_that_would_fail_on_a_node_is_refused_as_a_setting(
    words: list[str], says: str, tmp_path: Path
) -> None:
    settings = [word for setting in words for word in ("--set", setting)]
    said = refusal(tmp_path, "--experiment", "mine.yaml", *settings)
    assert said.startswith("--set: ")
    assert says in said


def test_what_the_file_says_is_named_by_its_line(tmp_path: Path) -> None:
    said = refusal(tmp_path, "--experiment", "mine.yaml", gpus="1,3")
    assert said == "mine.yaml:4: batch.global 8 does not divide over 3 GPUs"


def test_more_runs_than_any_site_holds_are_refused(tmp_path: Path) -> None:
    said = refusal(tmp_path, "--experiment", "demo", "--repeats", "1000000000")
    assert said == "a sweep has at most 1,000,000 runs: give fewer sizes, values or repeats"


def test_a_flag_is_named_where_the_flag_gave_the_value(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("name: own\ntrainer: command\ncommand: [train]\n")
    line = ("sweep", "--gpus", "1", "--cluster", "local", "--experiment", "own.yaml", "--dry-run")
    for words, name in ((("--pattern", "("), "--pattern"), (("--set", "measure.pattern=("), "--set")):
        said = hpcjobs(*line, *words, cwd=tmp_path, code=2).stderr
        assert said.startswith(f"hpcjobs: error: {name}: key 'measure.pattern': pattern '('")


def test_more_processes_than_this_machine_has_cores_are_a_warning(tmp_path: Path) -> None:
    cores = len(os.sched_getaffinity(0))
    line = ("sweep", "--experiment", "demo", "--cluster", "local", "--dry-run", "--gpus")
    said = hpcjobs(*line, f"{cores},1000000", cwd=tmp_path).stdout
    assert f"1000000 processes, but this machine has {cores} cores for them: sizes above {cores} share cores" in said
    assert "share cores" not in hpcjobs(*line, str(cores), cwd=tmp_path).stdout
