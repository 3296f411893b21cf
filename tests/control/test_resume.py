"""Killed at any moment, with a scheduler that loses answers and delivers late: nothing is lost or done twice."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpcjobs.base import sweepdir
from hpcjobs.base.contract import EXIT_JSON
from hpcjobs.base.errors import SchedulerUnreachable, SubmitRefused
from hpcjobs.base.records import Failure, JobState, RunState
from hpcjobs.base.sweepdir import SweepDir
from hpcjobs.engine import follow, state, submit
from hpcjobs.engine import resume as going_on

from .fake_scheduler import FakeScheduler, Killed, new, quietly, states


@given(
    kills=st.lists(st.sampled_from(["", "before", "after", "late", "away", "refuse"]), max_size=12),
    arrivals=st.lists(st.booleans(), min_size=12, max_size=12),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_happens_each_run_is_executed_once(
    kills: list[str], arrivals: list[bool], measured: None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        sweep, scheduler = new(tmp_path_factory.mktemp("s") / "o", patch)
        scheduler.kills = list(kills)
        for number, arrives in enumerate(arrivals):
            with contextlib.suppress(Killed, SubmitRefused, SchedulerUnreachable):
                going_on.resume(sweep, quietly) if number else submit.submit_all(sweep, {}, quietly)
            if arrives:
                scheduler.arrive()
        scheduler.kills = []
        going_on.resume(sweep, quietly)
        scheduler.arrive()
        assert states(sweep) == {RunState.DONE}
        assert sorted(scheduler.executed) == sorted(run.name for run in sweep.plan.runs)


@given(
    deeds=st.lists(st.sampled_from(["cancel", "cancel one", "resume", "killed", "end", "finish"]), max_size=12),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_however_often_it_is_cancelled_a_run_is_never_at_work_twice(
    deeds: list[str], measured: None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The fake scheduler objects to two tasks of a run at once."""
    with pytest.MonkeyPatch.context() as patch:
        sweep, scheduler = new(tmp_path_factory.mktemp("s") / "o", patch, lingers=True)
        submit.submit_all(sweep, {}, quietly)
        for deed in [*deeds, "end", "resume", "finish"]:
            if deed.startswith("cancel"):
                follow.cancel(sweep, ["g0002-r01"] if deed == "cancel one" else [])
            elif deed in ("resume", "killed"):
                scheduler.kills = ["before"] if deed == "killed" else []
                with contextlib.suppress(Killed):
                    going_on.resume(sweep, quietly)
            else:
                for task in list(scheduler.at_work):
                    if (scheduler.states[task].word == "COMPLETING") == (deed == "end"):
                        scheduler.end(task, 143 if deed == "end" else 0)
            scheduler.start()
        assert states(sweep) == {RunState.DONE}
        records = [sweepdir.read_exit(path) for run in sweep.where.runs.iterdir() for path in run.glob("a*")]
        assert sorted(record.run for record in records if record is not None and record.rc == 0) == sorted(
            run.name for run in sweep.plan.runs
        )


def test_what_was_cancelled_and_is_still_ending_is_submitted_to_start_after_it(
    measured: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, scheduler = new(tmp_path / "o", monkeypatch, lingers=True)
    submit.submit_all(sweep, {}, quietly)
    follow.cancel(sweep, ["g0002-r01"])
    said: list[str] = []
    assert going_on.resume(sweep, said.append).runs == ("g0002-r01",)
    assert said == ["g0002: starts when what was cancelled has ended (2_0)"]
    assert scheduler.jobs["5"][3].after == ("2_0",)
    assert follow.snapshot(sweep)[2].state is RunState.PENDING
    # The new one is cancelled while it waits: the third waits for the first all the same.
    follow.cancel(sweep, ["g0002-r01"])
    going_on.resume(sweep, quietly)
    assert scheduler.jobs["7"][3].after == ("2_0",)
    scheduler.end("2_0", 143)
    scheduler.start()
    assert scheduler.executed.count("g0002-r01") == 2
    assert follow.snapshot(sweep)[2].task == "7_0"


def test_a_resume_that_was_killed_on_the_way_still_waits_for_what_was_cancelled(
    measured: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, scheduler = new(tmp_path / "o", monkeypatch, lingers=True)
    submit.submit_all(sweep, {}, quietly)
    follow.cancel(sweep, ["g0002-r01"])
    scheduler.kills = ["before"]
    with pytest.raises(Killed):
        going_on.resume(sweep, quietly)
    assert going_on.resume(sweep, quietly).runs == ("g0002-r01",)
    assert scheduler.jobs["5"][3].after == ("2_0",)


def test_a_result_that_comes_after_the_cancel_spares_the_new_task(
    measured: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, scheduler = new(tmp_path / "o", monkeypatch, lingers=True)
    submit.submit_all(sweep, {}, quietly)
    follow.cancel(sweep, ["g0002-r01"])
    going_on.resume(sweep, quietly)
    scheduler.end("2_0", 0)
    assert going_on.resume(sweep, quietly).runs == ()
    scheduler.start()
    assert scheduler.executed.count("g0002-r01") == 1
    assert follow.snapshot(sweep)[2].state is RunState.DONE
    # Nor is one with a result submitted, whatever becomes of what it does after it.
    follow.cancel(sweep, ["g0002-r02"])
    scheduler._leave(scheduler.at_work["2_1"], "2_1", 0)
    assert going_on.resume(sweep, quietly).runs == ()


def test_what_arrives_late_finds_its_runs_claimed(
    measured: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, scheduler = new(tmp_path / "o", monkeypatch)
    scheduler.kills = ["late"]
    with pytest.raises(Killed):
        submit.submit_all(sweep, {}, quietly)
    assert follow.snapshot(sweep)[0].state is RunState.SUBMITTING
    going_on.resume(sweep, quietly)
    scheduler.arrive()
    assert [name for name, *_ in scheduler.jobs.values()].count("hpcjobs-261125120000abcd-g0001-s01") == 2
    assert sorted(scheduler.executed) == sorted({run.name for run in sweep.plan.runs})


def test_what_arrives_after_a_cancel_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep, scheduler = new(tmp_path / "o", monkeypatch)
    scheduler.kills = ["late"]
    with pytest.raises(Killed):
        submit.submit_all(sweep, {}, quietly)
    assert follow.cancel(sweep, []) == ["g0001-r01", "g0001-r02"]
    scheduler.arrive()
    assert scheduler.executed == []
    assert [run.state for run in follow.snapshot(sweep)][:2] == [RunState.CANCELLED] * 2


def test_what_was_cancelled_before_any_answer_is_not_sent_under_its_burned_claim(
    measured: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, scheduler = new(tmp_path / "o", monkeypatch)
    scheduler.kills = ["late"]
    with pytest.raises(Killed):
        submit.submit_all(sweep, {}, quietly)
    follow.cancel(sweep, ["g0001-r01"])
    follow.cancel(sweep, [])
    going_on.resume(sweep, quietly, retryable=True)
    assert sorted(scheduler.executed) == ["g0002-r01", "g0002-r02", "g0004-r01", "g0004-r02"]
    assert [run.state for run in follow.snapshot(sweep)][:2] == [RunState.CANCELLED] * 2
    assert "g0001-r01" in going_on.resume(sweep, quietly).runs
    scheduler.arrive()
    assert sorted(scheduler.executed) == sorted(run.name for run in sweep.plan.runs)
    assert states(sweep) == {RunState.DONE}


def test_one_run_that_was_cancelled_before_any_answer_stays_so_when_its_array_arrives(
    measured: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, scheduler = new(tmp_path / "o", monkeypatch)
    scheduler.kills = ["late"]
    with pytest.raises(Killed):
        submit.submit_all(sweep, {}, quietly)
    follow.cancel(sweep, ["g0001-r01"])
    scheduler.arrive()
    assert going_on.resume(sweep, quietly, retryable=True).adopted == ("hpcjobs-261125120000abcd-g0001-s01",)
    assert [run.state for run in follow.snapshot(sweep)][:2] == [RunState.CANCELLED, RunState.DONE]


def test_a_refused_exclusion_of_a_node_that_was_not_answered_stops_nothing(
    measured: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, scheduler = new(tmp_path / "o", monkeypatch)
    bad = state.Intention("g0004", 1, (0, 1), ("n1",))
    scheduler.kills = ["before"]
    with pytest.raises(Killed), sweepdir.locked(sweep.where):
        submit.send(sweep, bad)
    scheduler.kills = ["refuse"]
    assert going_on.resume(sweep, quietly).runs[:2] == ("g0004-r01", "g0004-r02")
    assert states(sweep) == {RunState.DONE}
    assert scheduler.jobs["1"][3].exclude == ()


def test_a_job_that_the_site_renamed_is_cancelled_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep, scheduler = new(tmp_path / "o", monkeypatch)
    submit.submit_all(sweep, {}, quietly)
    for attempt in sweep.where.runs.glob("*/a001"):
        (attempt / EXIT_JSON).unlink()
    scheduler.states = {task: JobState(RunState.RUNNING, "RUNNING") for task in scheduler.states}
    scheduler.jobs = {number: ("renamed", *job[1:]) for number, job in scheduler.jobs.items()}
    ended: list[str] = []
    monkeypatch.setattr(FakeScheduler, "cancel", lambda self, ids: ended.extend(ids))
    follow.cancel(sweep, [])
    assert ended == ["1_0", "1_1", "2_0", "2_1", "3_0", "3_1"]


def test_who_watches_does_not_wait_for_runs_that_were_refused(
    measured: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, scheduler = new(tmp_path / "o", monkeypatch)
    scheduler.kills = ["", "refuse"]
    with pytest.raises(SubmitRefused):
        submit.submit_all(sweep, {}, quietly)
    monkeypatch.setattr(follow.time, "sleep", lambda seconds: pytest.fail("it waits"))
    shown = follow.wait(sweep, lambda runs: None, quietly)
    assert [run.state for run in shown] == [RunState.DONE] * 2 + [RunState.PLANNED] * 4


def test_an_unreachable_scheduler_is_never_not_submitted(
    measured: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, scheduler = new(tmp_path / "o", monkeypatch)
    scheduler.kills = ["after"]
    with pytest.raises(Killed):
        submit.submit_all(sweep, {}, quietly)
    scheduler.away = True
    before = sweep.where.journal.read_text()
    with pytest.raises(SchedulerUnreachable):
        going_on.resume(sweep, quietly)
    assert sweep.where.journal.read_text() == before
    scheduler.away = False
    assert going_on.resume(sweep, quietly).adopted == ("hpcjobs-261125120000abcd-g0001-s01",)
    assert len(scheduler.jobs) == 4  # three sizes, and the one that collects


def test_only_what_failed_is_run_again_beside_its_old_attempt(
    measured: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, scheduler = new(tmp_path / "o", monkeypatch)
    scheduler.ends = {"g0002-r02": (RunState.FAILED, "FAILED")}
    submit.submit_all(sweep, {}, quietly)
    scheduler.ends = {}
    assert going_on.resume(sweep, quietly).runs == ("g0002-r02",)
    assert scheduler.executed.count("g0002-r02") == 2
    assert [attempt.name for attempt in sweep.where.attempts("g0002-r02")] == ["a001", "a002"]
    assert states(sweep) == {RunState.DONE}
    assert going_on.resume(sweep, quietly) == going_on.Resumed()


def test_a_failure_class_is_retried_as_often_as_the_profile_says(
    measured: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, scheduler = new(tmp_path / "o", monkeypatch)
    scheduler.ends = {"g0001-r01": (RunState.FAILED, "NODE_FAIL"), "g0001-r02": (RunState.FAILED, "OUT_OF_MEMORY")}
    submit.submit_all(sweep, {}, quietly)
    for _ in range(4):
        going_on.resume(sweep, quietly, retryable=True)
    assert scheduler.executed.count("g0001-r01") == 1 + sweep.plan.cluster.retry["node_failure"]
    assert scheduler.executed.count("g0001-r02") == 1


def test_a_resume_brings_a_new_collecting_job(measured: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep, scheduler = new(tmp_path / "o", monkeypatch)
    scheduler.ends = {"g0001-r01": (RunState.FAILED, "FAILED")}
    submit.submit_all(sweep, {}, quietly)
    name, _, _, order = scheduler.jobs["4"]
    assert (name, order.after) == ("hpcjobs-261125120000abcd-collect-s01", ("1", "2", "3"))
    going_on.resume(sweep, quietly)
    name, _, _, order = scheduler.jobs["6"]
    assert (name, order.after) == ("hpcjobs-261125120000abcd-collect-s02", ("5",))


def test_a_killed_sweep_gets_its_collecting_job_by_resume(
    measured: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, scheduler = new(tmp_path / "o", monkeypatch)
    scheduler.kills = ["", "", "", "before"]
    with pytest.raises(Killed):
        submit.submit_all(sweep, {}, quietly)
    scheduler.states = {task: JobState(RunState.RUNNING, "RUNNING") for task in scheduler.states}
    for attempt in sweep.where.runs.glob("*/a001"):
        (attempt / EXIT_JSON).unlink()
    assert going_on.resume(sweep, quietly).runs == ()
    name, _, _, order = scheduler.jobs["4"]
    assert (name, order.after) == ("hpcjobs-261125120000abcd-collect-s02", ("1", "2", "3"))
    going_on.resume(sweep, quietly)
    assert len(scheduler.jobs) == 4


def test_while_the_scheduler_is_away_its_last_answer_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep, scheduler = new(tmp_path / "o", monkeypatch)
    submit.submit_all(sweep, {}, quietly)
    for attempt in sweep.where.runs.glob("*/a001"):
        (attempt / EXIT_JSON).unlink()
    scheduler.states = {task: JobState(RunState.RUNNING, "SUSPENDED") for task in scheduler.states}
    said: list[str] = []
    watch = follow.Watch(sweep, said.append)
    assert {run.word for run in watch.look()} == {"SUSPENDED"}
    scheduler.away = True
    for _ in range(3):
        assert {run.word for run in watch.look()} == {"SUSPENDED"}
    scheduler.away = False
    watch.look()
    assert len(said) == 2
    assert said[0].startswith("nobody answers; showing its answer of ")
    assert said[1] == "the scheduler answers again"


def test_a_job_that_vanishes_does_not_stay_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep, scheduler = new(tmp_path / "o", monkeypatch)
    submit.submit_all(sweep, {}, quietly)
    for attempt in sweep.where.runs.glob("*/a001"):
        (attempt / EXIT_JSON).unlink()
    scheduler.states = {task: JobState(RunState.RUNNING, "RUNNING") for task in scheduler.states}
    watch = follow.Watch(sweep, quietly)
    watch.look()
    scheduler.states = {}
    monkeypatch.setattr(state, "GRACE_S", 0.0)
    assert {run.state for run in watch.look()} == {RunState.LOST}


def test_what_is_settled_is_not_asked_for_again(
    measured: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, scheduler = new(tmp_path / "o", monkeypatch)
    submit.submit_all(sweep, {}, quietly)
    assert states(sweep) == {RunState.DONE}
    assert scheduler.polls == 0


def test_a_refusal_in_any_words_stands_in_the_journal(tmp_path: Path) -> None:
    where = SweepDir(tmp_path)
    sweepdir.append(where, "refused", group="g0001", submission=1, indices=[0], said="non\u2028merci\x85")
    assert [event["said"] for event in sweepdir.read_journal(where)] == ["non\u2028merci\x85"]


def test_a_journal_cut_short_loses_one_line_and_no_later_one(tmp_path: Path) -> None:
    where = SweepDir(tmp_path)
    sweepdir.append(where, "submitting", group="g0001", submission=1, indices=[0])
    with where.journal.open("a") as file:
        file.write('{"time": 1, "event": "submi')
    sweepdir.append(where, "submitted", group="g0001", submission=1, indices=[0], job="7")
    assert [event["event"] for event in sweepdir.read_journal(where)] == ["submitting", "submitted"]


def test_a_job_that_claimed_and_has_not_begun_is_not_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Job 77 came late and first; the one on record found the run claimed and ended."""
    sweep, scheduler = new(tmp_path / "o", monkeypatch, repeats=1)
    submit.submit_all(sweep, {}, quietly)
    run = "g0001-r01"
    shutil.rmtree(sweep.where.run(run) / "a001")
    sweep.where.claim(run, 1).write_text('{"job": "77_0", "submission": 1}')
    scheduler.states["77_0"] = JobState(RunState.PENDING, "PENDING")
    found = follow.snapshot(sweep)[0]
    assert (found.state, found.task) == (RunState.PENDING, "77_0")


def test_nodes_that_were_left_out_once_stay_out(
    measured: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, scheduler = new(tmp_path / "o", monkeypatch, repeats=1)
    scheduler.ends = {"g0001-r01": (RunState.FAILED, "NODE_FAIL")}
    submit.submit_all(sweep, {}, quietly)
    for bad in ("n1", "n2"):
        monkeypatch.setattr(state, "classify", lambda *given, bad=bad: Failure("node_failure", "", "", (bad,)))
        going_on.resume(sweep, quietly)
    orders = [order.exclude for name, _, _, order in scheduler.jobs.values() if "g0001" in name]
    assert orders == [(), ("n1",), ("n1", "n2")]


def test_a_size_that_is_refused_does_not_keep_the_others(
    measured: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, scheduler = new(tmp_path / "o", monkeypatch, repeats=1)
    scheduler.kills = ["refuse"]
    with pytest.raises(SubmitRefused):
        submit.submit_all(sweep, {}, quietly)
    scheduler.kills = ["refuse"]
    with pytest.raises(SubmitRefused):
        going_on.resume(sweep, quietly)
    assert scheduler.executed == ["g0002-r01", "g0004-r01"]
