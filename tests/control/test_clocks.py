"""A node whose clock is five minutes off: what its files contradict is said, and left out of the figures."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from hpcjobs.base import contract, sweepdir
from hpcjobs.base.metrics import Run
from hpcjobs.base.records import JobState, RunState
from hpcjobs.base.sweepdir import SweepDir
from hpcjobs.cli import show_runs
from hpcjobs.collect import clocks, sweep_runs
from hpcjobs.engine import state
from hpcjobs.engine.follow import Readings
from hpcjobs.engine.state import Evidence
from hpcjobs.trainers.registry import check_run
from tests.control.sweeps import done, planned, states, sweep

from .scenario import SweepScenario

BEGAN, ENDED = 1000.0, 1100.0  # of a run, by the clock of its first node
RECORD = {"run": "r", "attempt": "a001", "job": "1_0", "rc": 0, "signal": 0, "nodelist": "n[1-2]", "start": BEGAN}


def attempt(folder: Path, *, written: float = ENDED, **more: Any) -> Path:
    """An attempt whose exit.json the file server has from `written` on."""
    (folder / contract.EXIT_JSON).write_text(json.dumps({**RECORD, "end": ENDED, **more}))
    os.utime(folder / contract.EXIT_JSON, (written, written))
    return folder


def rank(folder: Path, number: int, host: str, start: float, end: float, rc: int = 0) -> None:
    about = {"rank": number, "host": host, "rc": rc, "signal": 0, "start": start, "end": end}
    (folder / f"rank-r{number:03d}.json").write_text(json.dumps(about))


def differing(folder: Path) -> set[str]:
    ended = sweepdir.read_exit(folder)
    return clocks.differing_hosts(folder, {"start": BEGAN}, ended)


@pytest.mark.parametrize(("off", "found"), [(0, set()), (1, set()), (300, {"n2"}), (-300, {"n2"})])
def test_a_rank_cannot_begin_before_its_job_nor_end_a_minute_after_it(
    off: int, found: set[str], tmp_path: Path
) -> None:
    attempt(tmp_path)
    rank(tmp_path, 0, "n1", 1003, 1099)
    rank(tmp_path, 1, "n2", 1003 + off, 1099 + off)
    assert differing(tmp_path) == found


@pytest.mark.parametrize(("off", "found"), [(0, set()), (300, {"n2"}), (-300, {"n2"})])
def test_nor_can_a_sampler(off: int, found: set[str], tmp_path: Path) -> None:
    attempt(tmp_path)
    for host, ahead in (("n1", 0), ("n2", off)):
        rows = "".join(f"{at + ahead},0,GPU-a,1530\n" for at in range(1003, 1099))
        (tmp_path / contract.nvml_csv(host)).write_text(f"time,gpu,uuid,sm_mhz\n{rows}1099.")
    assert differing(tmp_path) == found


def test_a_file_is_not_written_before_the_time_in_it_was_taken(tmp_path: Path) -> None:
    def is_off(written: float, asked: float | None = 990) -> bool:
        ended = sweepdir.read_exit(attempt(tmp_path, written=written))
        return clocks.submitter_differs(tmp_path, {"start": BEGAN}, ended, asked)

    assert [is_off(ENDED), is_off(ENDED - 300)] == [False, True]
    # A copy of the study is younger.
    assert not is_off(ENDED + 10**6)
    # The job began before anybody asked for it.
    assert [is_off(ENDED, asked=BEGAN + 300), is_off(ENDED, asked=None)] == [True, False]


def test_a_job_whose_submission_was_found_out_later_began_before_that() -> None:
    """Of the journal the line of the intention is damaged; `resume` adopted the job an hour after its start."""
    adopted = {"event": "submitted", "group": "g", "submission": 1, "indices": [0], "job": "7", "time": BEGAN + 3600}
    (submitted,) = state.submissions([adopted], {"g": ["r"]}).values()
    found = Evidence("a001", "7_0", 1, start=BEGAN, nodelist="n1")
    (run,) = state.fold(["r"], {"r": submitted}, {}, {"r": found}, BEGAN + 7200)
    assert run.clock == ""
    assert sweep_runs._asked([adopted]) == {}


def collect(where: SweepDir) -> Run:
    (found,) = sweep_runs.collect(where, planned(where), states(where), Readings().attempt, check_run)
    return found


def test_a_run_before_its_submission_has_the_flag_and_no_time_in_the_queue(tmp_path: Path) -> None:
    where = sweep(tmp_path, [1])
    claim = done(where, "g0001-r01") / contract.CLAIM
    right = collect(where)
    claim.write_text(json.dumps({**json.loads(claim.read_text()), "start": 600}))  # 300 s before its submission
    wrong = collect(where)
    assert (right.queue_s, "clocks_differ" in right.flags) == (90, False)
    assert (wrong.queue_s, "clocks_differ" in wrong.flags) == (None, True)
    assert wrong.throughput == right.throughput


def test_who_failed_first_is_not_told_by_clocks_that_differ(tmp_path: Path) -> None:
    """Rank 0 failed first. By the clock of n2, which is five minutes behind, rank 1 did."""
    scenario = SweepScenario(tmp_path).gpus(2).repeats(1).failing("g0002-r01").submitted()
    folder = scenario.where.run("g0002-r01") / "a001"
    claim = json.loads((folder / contract.CLAIM).read_text())
    (folder / contract.CLAIM).write_text(json.dumps({**claim, "start": BEGAN}))
    attempt(folder, run="g0002-r01", rc=3)

    def evidence(behind: float) -> str:
        rank(folder, 0, "n1", BEGAN + 1, BEGAN + 5, rc=3)
        rank(folder, 1, "n2", BEGAN + 1 - behind, BEGAN + 7 - behind, rc=3)
        failure = scenario.status("g0002-r01").failure
        assert failure is not None
        return failure.evidence

    assert evidence(behind=0).startswith("rank 0 on n1 ended with exit code 3")
    assert "rank 1" not in evidence(behind=300)


@pytest.mark.parametrize(
    ("start", "now", "words", "elapsed"),
    [
        (1000.0, 1060.0, "", "0:01:00"),
        (1300.0, 1060.0, "the clock of n1 is 240 s or more ahead of this host's", ""),
        (700.0, 1060.0, "the clock of n1 is 290 s or more behind that of the submission", ""),
    ],
)
def test_status_says_so_and_shows_no_elapsed_time(
    start: float, now: float, words: str, elapsed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(show_runs.time, "time", lambda: now)
    journal = [{"event": "submitting", "group": "g", "submission": 1, "indices": [0], "time": 990.0}]
    journal += [{**journal[0], "event": "submitted", "job": "7", "time": 991.0}]
    found = {"r": Evidence("a001", "7_0", 1, nodelist="n1", start=start)}
    alive = {"7_0": JobState(RunState.RUNNING, "RUNNING")}
    (run,) = state.fold(["r"], state.submissions(journal, {"g": ["r"]}), alive, found, now)
    assert (run.clock, show_runs.elapsed(run)) == (words, elapsed)
    assert show_runs.reason(run).endswith(words)
