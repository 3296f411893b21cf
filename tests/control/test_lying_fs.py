"""A study on a file system that lies, as NFS, Lustre and object stores do on bad days: nothing is lost or done twice."""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpcjobs.base.errors import HpcjobsError
from hpcjobs.base.files import claim_link
from hpcjobs.base.sweepdir import SweepDir
from tests.lying_fs import LyingFS, lying
from tests.running import hpcjobs, until

from .scenario import SweepScenario

STALE_S = 5


def test_a_file_system_without_hard_links_is_named_before_anything_is_submitted(tmp_path: Path) -> None:
    with lying(tmp_path / "back", tmp_path / "store", links="none"):
        line = ("sweep", "--gpus", "1", "--cluster", "local", "--out", "store/o", "--", "true")
        said = hpcjobs(*line, cwd=tmp_path, code=2).stderr
        assert "--out store/o: cannot be used: its file system makes no hard links; give another folder\n" in said
        assert not list((tmp_path / "back").iterdir())


def test_a_link_that_was_made_and_is_reported_as_failed_is_a_claim(tmp_path: Path) -> None:
    with lying(tmp_path / "back", tmp_path / "nfs", links="failed"):
        assert claim_link(tmp_path / "nfs/claim", "mine")
        assert not claim_link(tmp_path / "nfs/claim", "theirs")
        assert [path.name for path in (tmp_path / "nfs").iterdir()] == ["claim"]


def test_the_job_script_runs_each_run_once_where_links_are_reported_as_failed(tmp_path: Path) -> None:
    with lying(tmp_path / "back", tmp_path / "nfs", links="failed"):
        line = ("sweep", "--gpus", "1,2", "--repeats", "2", "--cluster", "local", "--out", "nfs/o", "--wait", "--")
        hpcjobs(*line, "sh", "-c", "echo ran >>ran-$HPCJOBS_RANK", cwd=tmp_path, code=None)
        attempts = sorted(str(path.relative_to(tmp_path / "back/o/runs")) for path in tmp_path.glob("back/o/runs/*/a*"))
        assert attempts == ["g0001-r01/a001", "g0001-r02/a001", "g0002-r01/a001", "g0002-r02/a001"]


def test_results_that_this_machine_sees_late_are_waited_for(tmp_path: Path) -> None:
    """As NFS keeps a listing and attributes for a while: the login node has looked before the runs began."""
    with (
        lying(tmp_path / "back", tmp_path / "login", stale_s=STALE_S) as login,
        lying(tmp_path / "back", tmp_path / "node") as node,
    ):
        scenario = SweepScenario(login.folder).working().written()
        scenario.scheduler.where = SweepDir(node.folder / "o")
        scenario.watch()()
        scenario.submit().all_end(cancelled=False)
        assert all((node.folder / f"o/runs/{run}/a001/exit.json").is_file() for run in scenario.runs)
        scenario.resume()
        assert scenario.submitted_again == []
        until(lambda: scenario.resume().all_done)
        assert sorted(scenario.executed) == scenario.runs


def error(call: str, name: str, number: str, times: int | None = 1) -> dict[str, Any]:
    return {"fail": [{"call": call, "name": name, "errno": number} | ({"times": times} if times else {})]}


# What the login node meets while a command runs.
LIES: list[dict[str, Any]] = [
    {},
    {"links": "failed"},
    *(error("open", name, "EIO") for name in ("exit.json", "train.log", "journal", "claim", "lock", "sweep.yaml")),
    *(error("open", name, "ESTALE", None) for name in ("exit.json", "train.log", "claim")),
    *(error("readdir", name, "EIO") for name in ("g0001-r01", "g0002-r02", "runs")),
    *(error(call, "", "EDQUOT", None) for call in ("write", "create")),
    *(error(call, "", "EIO") for call in ("rename", "fsync", "link", "unlink", "write")),
    error("write", "journal", "EDQUOT", None),
]
_numbers = itertools.count()


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LyingFS, LyingFS]]:
    """One folder as a login node sees it, which is lied to, and as compute nodes do."""
    here = tmp_path_factory.mktemp("lies")
    with lying(here / "back", here / "login") as login, lying(here / "back", here / "node") as node:
        yield login, node


@given(deeds=st.lists(st.tuples(st.sampled_from(LIES), st.sampled_from(["resume", "status", "end"])), max_size=8))
def check(deeds: list[tuple[dict[str, Any], str]], nodes: tuple[LyingFS, LyingFS]) -> None:
    login, node = nodes
    name = f"s{next(_numbers)}"
    scenario = SweepScenario(login.folder, name).gpus(1, 2).working().written()
    scenario.scheduler.where = SweepDir(node.folder / name)
    first = True
    for lies, deed in [*deeds, ({}, "resume"), ({}, "end"), ({}, "resume")]:
        login.lies(**lies)
        # A command may refuse, with one line. What it does before that must be right.
        with contextlib.suppress(HpcjobsError, OSError):
            if deed == "end":
                scenario.all_end(cancelled=False)
            elif deed == "status":
                scenario.watch()()
            elif first:
                first = False
                scenario.submit()
            else:
                scenario.resume()
    login.lies()
    assert sorted(scenario.executed) == scenario.runs, "lost or done twice"
    assert scenario.all_done
    shutil.rmtree(login.back / name)


@pytest.mark.timeout(1800)
def test_nothing_is_lost_or_done_twice_whatever_the_file_system_says(
    nodes: tuple[LyingFS, LyingFS], soak: bool
) -> None:
    """Lies as of `LIES` while any of the commands run; after them the study comes to its end, each run executed once."""
    settings(max_examples=1000 if soak else 15, suppress_health_check=list(HealthCheck))(check)(nodes=nodes)
