"""What is shown of runs, what is left behind of those that are given up, and what a submission asks for."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import msgspec
import pytest

from hpcjobs.base.contract import EXIT_JSON
from hpcjobs.base.errors import SubmitRefused
from hpcjobs.base.files import write_json
from hpcjobs.base.records import JobState, RunState
from hpcjobs.engine import follow, state, submit
from hpcjobs.engine import resume as going_on

from .fake_scheduler import FakeScheduler, new, quietly


def test_a_task_that_failed_before_its_attempt_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep, scheduler = new(tmp_path / "o", monkeypatch)
    scheduler.kills = ["", "late"]
    for run in ("g0001-r01", "g0001-r02"):  # their tasks find the claim taken and do nothing here
        write_json(sweep.where.claim(run, 1), {"job": "1_0"})
    with pytest.raises(BaseException, match="late"):
        submit.submit_all(sweep, {}, quietly)
    scheduler.states["1_0"] = JobState(RunState.FAILED, "FAILED", exit_code=1)
    said = "hpcjobs: error: disk_full: cannot write x: No space left on device"
    (sweep.where.slurm / "1_0.out").write_text(f"{said}\n")
    run = follow.snapshot(sweep)[0]
    assert run.failure is not None
    assert (run.state, run.failure.kind, run.failure.evidence) == (RunState.FAILED, "disk_full", said)


def test_a_lost_job_that_starts_after_all_finds_its_run_taken(
    measured: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sweep, scheduler = new(tmp_path / "o", monkeypatch)
    submit.submit_all(sweep, {}, quietly)
    # As if the task had never begun, and nobody knew it.
    shutil.rmtree(sweep.where.run("g0001-r01") / "a001")
    sweep.where.claim("g0001-r01", 1).unlink()
    del scheduler.states["1_0"]
    scheduler.executed.clear()
    ended: list[str] = []
    monkeypatch.setattr(FakeScheduler, "cancel", lambda self, ids: ended.extend(ids))
    monkeypatch.setattr(state, "GRACE_S", 0.0)
    assert follow.snapshot(sweep)[0].state is RunState.LOST
    assert going_on.resume(sweep, quietly).runs == ("g0001-r01",)
    scheduler._run("g0001-r01", "1_0", 1)
    assert scheduler.executed == ["g0001-r01"]
    assert ended == ["1_0"]


def test_one_run_of_a_job_that_nobody_recorded_is_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep, scheduler = new(tmp_path / "o", monkeypatch)
    scheduler.kills = ["", "after"]
    with pytest.raises(BaseException, match="after"):
        submit.submit_all(sweep, {}, quietly)
    # As if none had begun.
    for folder in sweep.where.runs.iterdir():
        shutil.rmtree(folder / "a001", ignore_errors=True)
        (folder / "claim-s001").unlink(missing_ok=True)
    ended: list[str] = []
    monkeypatch.setattr(FakeScheduler, "cancel", lambda self, ids: ended.extend(ids))
    assert follow.cancel(sweep, ["g0002-r02"]) == ["g0002-r02"]
    assert ended == ["2_1"]


@pytest.mark.parametrize(
    ("terms", "throttle"), [({}, None), ({"throttle": 2}, 2), ({"throttle": 2, "one_allocation": True}, None)]
)
def test_every_array_is_throttled_also_by_resume_and_the_one_job_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terms: dict, throttle: int | None
) -> None:
    sweep, scheduler = new(tmp_path / "o", monkeypatch, **terms)
    scheduler.ends = {"g0001-r01": (RunState.FAILED, "FAILED")}
    submit.submit_all(sweep, {}, quietly)
    going_on.resume(sweep, quietly)
    arrays = [order for _, script, _, order in scheduler.jobs.values() if script.stem != "collect"]
    assert len(arrays) > len(sweep.plan.submitted)
    assert {order.throttle for order in arrays} == {throttle}


def test_a_bad_node_is_left_out_beside_those_of_the_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep, scheduler = new(tmp_path / "o", monkeypatch)
    cluster = msgspec.structs.replace(sweep.plan.cluster, exclude="n[7-8]")
    sweep = dataclasses.replace(sweep, plan=dataclasses.replace(sweep.plan, cluster=cluster))
    submit.send(sweep, state.Intention("g0001", 1, (0,)))
    submit.send(sweep, state.Intention("g0001", 2, (0,), ("n1",)))
    assert [order.exclude for *_, order in scheduler.jobs.values()] == [(), ("n[7-8]", "n1")]


def test_what_was_submitted_before_a_refusal_is_collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep, scheduler = new(tmp_path / "o", monkeypatch)
    scheduler.kills = ["", "refuse"]
    with pytest.raises(SubmitRefused):
        submit.submit_all(sweep, {}, quietly)
    assert [script.stem for _, script, *_ in scheduler.jobs.values()] == ["g0001", "collect"]
    assert scheduler.jobs["2"][3].after == ("1",)


def test_a_suspect_node_is_better_than_none(
    measured: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sweep, scheduler = new(tmp_path / "o", monkeypatch)
    scheduler.ends = {"g0001-r01": (RunState.FAILED, "NODE_FAIL")}
    submit.submit_all(sweep, {}, quietly)
    said: list[str] = []
    scheduler.kills = ["refuse", "refuse"]
    with pytest.raises(SubmitRefused):
        going_on.resume(sweep, said.append)
    assert said == []
    scheduler.kills = ["refuse"]
    assert going_on.resume(sweep, said.append).runs == ("g0001-r01",)
    assert said == ["g0001: too few nodes without n1; they are used again"]
    again = [order for _, script, _, order in scheduler.jobs.values() if script.stem == "g0001"][1:]
    # Each refusal used up a number: what is not there under the one may be under the next.
    assert [(order.arguments, order.exclude) for order in again] == [(("5",), ())]


def test_the_interval_between_two_looks_grows_and_starts_anew_when_a_run_ends(
    measured: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sweep, scheduler = new(tmp_path / "o", monkeypatch)
    submit.submit_all(sweep, {}, quietly)
    records = {run.name: (sweep.where.run(run.name) / "a001" / EXIT_JSON) for run in sweep.plan.runs}
    texts = {run: path.read_text() for run, path in records.items()}
    for path in records.values():
        path.unlink()
    scheduler.states = {task: JobState(RunState.RUNNING, "RUNNING") for task in scheduler.states}
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 15:  # one ends
            records["g0001-r01"].write_text(texts["g0001-r01"])
        if len(slept) == 20:
            for run, path in records.items():
                path.write_text(texts[run])

    monkeypatch.setattr(follow.time, "sleep", sleep)
    follow.wait(sweep, lambda runs: None, quietly)
    assert all(0.8 <= each <= 36 for each in slept)
    assert all(each > 20 for each in slept[10:15])
    assert slept[0] < 1.3
    assert slept[15] < 1.3
    assert len(slept) == 20
    # Some sooner, some later than told.
    steady = slept[10:15]
    assert len(set(steady)) == len(steady)
