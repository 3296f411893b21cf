"""Sweeps on this machine of a Python script that has the meter in its loop, from the command line to the table."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest

import hpcjobs as face
from hpcjobs.base.errors import InputError
from tests.running import hpcjobs, status, until

# Steps of 2 ms. It waits in its last step until the file `go` is there.
SCRIPT = """\
import pathlib, sys, time
import meter

def loader(steps):
    for step in range(steps):
        while step == steps - 1 and not pathlib.Path("go").exists():
            time.sleep(0.05)
        yield [0] * 8

for batch in meter.steps(loader(int(sys.argv[1])), samples=8):
    time.sleep(0.002)
meter.score("accuracy", 0.5)
"""
RUN = "g0002-r01"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "train.py").write_text(SCRIPT)
    return tmp_path


def row(folder: Path) -> dict[str, str]:
    hpcjobs("report", folder.name, cwd=folder.parent)
    (found,) = csv.DictReader((folder / "report" / "runs.csv").read_text().splitlines())
    return found


def test_a_run_tells_its_progress_and_then_its_rate(place: Path) -> None:
    hpcjobs("sweep", "--gpus", "2", "--repeats", "1", "--cluster", "local", "--unit", "images", "--out", "o", "--", "python3", "train.py", "60", cwd=place)  # fmt: skip
    # 60 steps: 10 of warm-up, then windows of 5. The last step waits.
    until(lambda: status("o", cwd=place)[RUN]["step"] >= 55)
    now = status("o", cwd=place)[RUN]
    assert (now["state"], now["unit"], now["throughput"] > 0) == ("running", "images", True)
    (place / "go").touch()
    until(lambda: status("o", cwd=place)[RUN]["state"] == "done")
    found = row(place / "o")
    assert (found["unit"], found["local_batch"], found["global_batch"]) == ("images", "8", "16")
    assert (found["score"], found["score_name"], found["source"]) == ("0.5", "accuracy", f"runs/{RUN}/a001/train.log")
    assert float(found["throughput"]) == pytest.approx(16_000 / float(found["step_ms"]), rel=1e-3)
    assert found["time_to_train_kind"] == "measured_command"
    assert "input_in_loader" in found["flags"].split()


def test_a_benchmark_ends_the_script_and_the_run_is_done(place: Path) -> None:
    """The script would go on for an hour."""
    keys = ("measure.max_steps=20", "measure.control_passes=2")
    words = [word for key in keys for word in ("--set", key)]
    hpcjobs("sweep", "--gpus", "2", "--repeats", "1", "--cluster", "local", "--mode", "benchmark", *words, "--out", "o", "--wait", "--", "python3", "train.py", "1800000", cwd=place)  # fmt: skip
    attempt = place / "o" / "runs" / RUN / "a001"
    assert json.loads((attempt / "exit.json").read_text())["rc"] == 0
    found = row(place / "o")
    assert (found["state"], found["time_to_train_s"], found["unit"]) == ("done", "", "samples")
    assert float(found["throughput"]) > 0


def test_python_begins_a_benchmark_too(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    command = ["python3", "train.py", "100"]
    with pytest.raises(InputError, match="mode benchmark needs the meter"):
        face.sweep(
            [1], command=command, mode="benchmark", settings={"measure.format": "none"}, cluster="local", out="o"
        )
    assert os.listdir(place) == ["train.py"]


def test_a_mode_that_does_not_exist_is_refused_with_those_that_do(place: Path) -> None:
    wrong = hpcjobs("sweep", "--gpus", "1", "--mode", "fast", "--", "python3", "train.py", cwd=place, code=2)
    assert "'fast' is not one of 'train', 'benchmark'" in wrong.stderr
