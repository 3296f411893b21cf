"""A local sweep of quick runs (a fake trainer) that is killed, cancelled, resumed, or run in one allocation."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pandas
import pytest
import yaml

from hpcjobs.config import profiles, to_builtins
from tests.control.logs import train_log
from tests.running import hpcjobs, status, until
from tests.slurm.quick import TRAINER


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with the fake trainer and a profile `quick.yaml` of this machine that uses it."""
    (tmp_path / "behave").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "train.log").write_text(train_log(gpus=1))
    trainer = tmp_path / "trainer"
    trainer.write_text(TRAINER.format(folder=tmp_path, python=sys.executable))
    trainer.chmod(0o755)
    about = {**to_builtins(profiles.cluster("local")), "name": "quick", "python": str(trainer)}
    (tmp_path / "quick.yaml").write_text(yaml.safe_dump(about))
    return tmp_path


def sweep(site: Path, *more: str, gpus: str = "1,2", code: int = 0) -> str:
    common = ("--experiment", "demo", "--set", "data.dir=data", "--cluster", str(site / "quick.yaml"), "--out", "o")
    return hpcjobs("sweep", "--gpus", gpus, *common, *more, cwd=site, code=code).stdout


def executions(site: Path) -> list[str]:
    path = site / "executions-o"
    return path.read_text().split() if path.exists() else []


def states(site: Path) -> list[str]:
    return [run["state"] for run in status("o", cwd=site, code=None).values()]


def runner(site: Path) -> int:
    about: dict[str, Any] = json.loads((site / "o" / "local" / "runner.lock").read_text())
    return int(about["pid"])


def test_a_killed_runner_is_followed_by_another_and_nothing_runs_twice(site: Path) -> None:
    (site / "behave" / "g0001-r01").write_text(f"until [ -e {site}/go ]; do sleep 0.1; done\n")
    sweep(site, "--repeats", "2")
    until(lambda: executions(site) == ["g0001-r01"])
    os.kill(runner(site), signal.SIGKILL)
    (site / "go").touch()
    until(lambda: states(site) == ["done", "lost", "lost", "lost"])
    again = hpcjobs("resume", "o", cwd=site).stdout.split()
    assert again == ["g0001-r02", "g0002-r01", "g0002-r02"]
    until(lambda: states(site) == ["done"] * 4)
    assert sorted(executions(site)) == ["g0001-r01", "g0001-r02", "g0002-r01", "g0002-r02"]
    # The last runner collects, like the last job of a sweep on Slurm.
    until(lambda: (site / "o" / "report" / "scaling-report.csv").exists())
    assert list(pandas.read_csv(site / "o" / "report" / "scaling-report.csv").runs) == [2, 2]


def test_a_cancelled_sweep_is_resumed_and_failed_runs_are_run_again(site: Path) -> None:
    (site / "behave" / "g0001-r01").write_text("exit 3\n")
    (site / "behave" / "g0002-r01").write_text("sleep 1000\n")
    sweep(site)
    until(lambda: states(site) == ["failed", "running"])
    hpcjobs("cancel", "o", cwd=site)
    assert states(site) == ["failed", "cancelled"]
    assert "1 failed, 1 cancelled" in hpcjobs("status", "o", "--watch", cwd=site, code=1).stderr
    for path in (site / "behave").iterdir():
        path.unlink()
    assert json.loads(hpcjobs("resume", "o", "--json", cwd=site).stdout)["runs"] == ["g0001-r01", "g0002-r01"]
    until(lambda: states(site) == ["done"] * 2)
    assert (site / "o" / "runs" / "g0001-r01" / "a002").is_dir()
    assert "nothing to submit" in hpcjobs("resume", "o", cwd=site).stderr


def test_one_allocation_takes_the_repeats_in_turn_through_all_sizes(site: Path) -> None:
    sweep(site, "--repeats", "2", "--one-allocation", "--wait")
    assert executions(site) == ["g0001-r01", "g0002-r01", "g0002-r02", "g0001-r02"]
    assert {run["job"] for run in status("o", cwd=site).values()} == {"1_0"}
    assert "give no names of runs" in hpcjobs("cancel", "o", "g0001-r01", cwd=site, code=2).stderr


def test_a_throttle_limits_how_many_runs_run_at_a_time(site: Path) -> None:
    for run in ("g0001-r01", "g0001-r02", "g0001-r03"):
        (site / "behave" / run).write_text(f"until [ -e {site}/go ]; do sleep 0.1; done\n")
    sweep(site, "--repeats", "3", "--throttle", "2", gpus="1")
    until(lambda: len(executions(site)) == 2)
    assert states(site) == ["running", "running", "pending"]
    (site / "go").touch()
    until(lambda: states(site) == ["done"] * 3)
