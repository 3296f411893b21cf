"""What is shown of a sweep's runs: at one look, and while somebody watches."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Collection, Mapping
from pathlib import Path

import pytest

from hpcjobs.base import sweepdir
from hpcjobs.base.contract import CLAIM, EXIT_JSON, JOB_LOG, RunConfig
from hpcjobs.base.errors import SchedulerUnreachable
from hpcjobs.base.files import write_json
from hpcjobs.base.records import ExitRecord, JobState, RunState
from hpcjobs.base.sweepdir import SweepDir
from hpcjobs.config import to_builtins
from hpcjobs.engine import follow
from tests.running import until

from .fake_scheduler import REFUSED, TAKEN
from .scenario import SweepScenario
from .test_command_trainer import variants_of

# --- one look --------------------------------------------------------------------------------------


def test_a_task_that_failed_before_its_attempt_says_why(tmp_path: Path) -> None:
    output = "hpcjobs: error: disk_full: cannot write x: No space left on device"
    scenario = SweepScenario(tmp_path).failing_before_its_attempt("g0001-r01", output).submitted()
    run = scenario.status("g0001-r01")
    assert run.failure is not None
    assert (run.state, run.failure.kind, run.failure.evidence) == ("failed", "disk_full", output)


def test_what_is_settled_is_not_asked_for_again(tmp_path: Path) -> None:
    scenario = SweepScenario(tmp_path).submitted()
    assert scenario.all_done
    assert scenario.scheduler.polls == 0


def test_a_job_that_claimed_and_has_not_begun_is_not_given_up(tmp_path: Path) -> None:
    """Job 77 came late and first; the one on record found the run claimed and ended."""
    scenario = SweepScenario(tmp_path).repeats(1).claimed("g0001-r01", by="77_0").submitted()
    found = scenario.status("g0001-r01")
    assert (found.state, found.task) == ("pending", "77_0")


def test_a_run_that_ends_after_its_files_were_read_and_before_the_scheduler_answers_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = SweepScenario(tmp_path).repeats(1).working().submitted()
    poll = scenario.scheduler.poll

    def ends_first(tasks: Collection[str]) -> Mapping[str, JobState]:
        scenario.ends(*scenario.runs)
        return poll(tasks)

    monkeypatch.setattr(scenario.scheduler, "poll", ends_first)
    assert {run.state for run in scenario.watch()()} == {"done"}


@pytest.mark.parametrize("reads", [1, 2, 3])
def test_an_exit_json_that_appears_during_a_look_counts_wholly_or_not_at_all(
    reads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It appears after so many reads of it."""
    (variant,) = variants_of(["python", "x.py"], "measure.pattern=rate (?P<throughput>.*)")
    config = RunConfig(
        sweep="s", run="g0001-r01", params="", repeat=1, seed=1, gpus=1, nodes=1, tasks_per_node=1, cpus_per_task=1,
        device="cpu", data_dir="", experiment=to_builtins(variant.experiment),
    )  # fmt: skip
    where = SweepDir(tmp_path)
    attempt = where.run(config.run) / "a001"
    attempt.mkdir(parents=True)
    write_json(attempt / CLAIM, {"job": "1_0", "submission": 1, "start": 1.0})
    (attempt / JOB_LOG).write_text("rate 10\n" * 20)
    found: list[ExitRecord | None] = []
    read_exit = sweepdir.read_exit

    def ends_meanwhile(attempt: Path) -> ExitRecord | None:
        found.append(read_exit(attempt))
        if len(found) == reads:
            record = {"run": config.run, "attempt": "a001", "job": "1_0", "rc": 0, "signal": 0}
            write_json(attempt / EXIT_JSON, {**record, "nodelist": "n1", "start": 1.0, "end": 2.0})
        return found[-1]

    monkeypatch.setattr(sweepdir, "read_exit", ends_meanwhile)
    readings = follow.Readings()
    for _ in range(4):
        seen = follow.look(where, config.run, lambda: config, readings)
        assert seen.measured == (seen.exit is not None)
    assert seen.measured


# --- a watch ---------------------------------------------------------------------------------------


def test_while_the_scheduler_is_away_its_last_answer_stands(tmp_path: Path) -> None:
    scenario = SweepScenario(tmp_path).working().submitted().says("SUSPENDED")
    look = scenario.watch()
    assert {run.word for run in look()} == {"SUSPENDED"}
    scenario.scheduler_away()
    for _ in range(3):
        assert {run.word for run in look()} == {"SUSPENDED"}
    scenario.scheduler_away(False)
    look()
    assert len(scenario.messages) == 2
    assert scenario.messages[0].startswith("nobody answers; showing its answer of ")
    assert scenario.messages[1] == "the scheduler answers again"


def test_a_job_that_vanishes_does_not_stay_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = SweepScenario(tmp_path).working().submitted().an_hour_later()
    look = scenario.watch()
    assert {run.state for run in look()} == {"running"}
    scenario.forgets_every_task()
    # Accounting may learn of its end minutes after the controller forgot it.
    assert {(run.state, run.late) for run in look()} == {("running", True)}
    assert scenario.resume().submitted_again == []
    assert scenario.messages == [
        "g0001-r01 and 5 more: the scheduler no longer knows the job; how it ended may be told up to 10 minutes later, "
        "so it is neither lost nor submitted again before"
    ]
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3600)
    assert {run.state for run in look()} == {"lost"}


def test_while_the_scheduler_is_away_no_run_becomes_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = SweepScenario(tmp_path).working().submitted().an_hour_later()
    look = scenario.watch()
    look()
    scenario.forgets_every_task()
    look()
    scenario.scheduler_away()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3600)
    assert {(run.state, run.late) for run in look()} == {("running", True)}
    scenario.scheduler_away(False)
    assert {run.state for run in look()} == {"lost"}


def test_runs_of_one_allocation_share_its_signs_of_life(tmp_path: Path) -> None:
    """What the second run wrote says that the job of the third was alive, too."""
    scenario = SweepScenario(tmp_path).repeats(1).terms(one_allocation=True)
    first, second, third = scenario.runs
    event = {"group": "all", "submission": 1, "indices": [0, 1, 2], "time": time.time() - 7200}
    lines = [{"event": "submitting", **event}, {"event": "submitted", "job": "7", **event}]
    scenario.where.journal.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    attempt = scenario.where.run(second) / "a001"
    attempt.mkdir()
    write_json(attempt / CLAIM, {"job": "7_0", "submission": 1, "start": time.time() - 60})
    look = scenario.watch()
    assert [(run.run, run.state.value, run.late) for run in look()] == [
        (first, "pending", True),
        (second, "running", True),
        (third, "pending", True),
    ]
    os.utime(attempt / CLAIM, (time.time() - 3600, time.time() - 3600))
    assert {run.state for run in look()} == {"lost"}


def test_a_run_that_was_refused_says_why_and_one_after_it_that_it_was_not_submitted(tmp_path: Path) -> None:
    scenario = SweepScenario(tmp_path).repeats(1).refused_while_submitting(TAKEN, REFUSED)
    assert scenario.status("g0002-r01").reason == "no; `hpcjobs resume` submits it"
    assert scenario.status("g0004-r01").reason == "not submitted; `hpcjobs resume` submits it"
    scenario.resume()
    assert scenario.all_done
    assert {scenario.status(run).reason for run in scenario.runs} == {""}


def test_while_accounting_is_away_only_what_it_alone_knows_is_not_known(tmp_path: Path) -> None:
    scenario = SweepScenario(tmp_path).repeats(1).working().submitted().an_hour_later()
    look = scenario.watch()
    (task,) = scenario.tasks("g0001-r01")
    scenario.scheduler.states[task] = JobState(None, "", "sacct gave no answer", silent=True)
    runs = {run.run: (run.state.value, run.reason) for run in look()}
    assert runs["g0001-r01"] == ("running", "waits for the accounting's answer")
    assert runs["g0002-r01"] == ("running", "")
    assert scenario.resume().submitted_again == []
    assert scenario.cancel("g0002-r01") == ["g0002-r01"]
    scenario.ends("g0001-r01")
    look()
    assert scenario.messages[-1] == "accounting answers again"


def test_a_strangers_job_with_the_same_id_is_neither_shown_nor_cancelled(tmp_path: Path) -> None:
    """The controller lost its state: its job ids begin anew."""
    scenario = SweepScenario(tmp_path).repeats(1).queueing().submitted()
    (task,) = scenario.tasks("g0001-r01")
    (renamed,) = scenario.tasks("g0002-r01")
    for job in scenario.scheduler.jobs.values():
        if job.group == "g0001":
            scenario.scheduler.jobs[job.number] = dataclasses.replace(job, name="stranger")
    scenario.scheduler.states[task] = JobState(RunState.RUNNING, "RUNNING", label="stranger||/home/else/job.sh")
    label = "site-7|hpcjobs sweep 261125120000abcd|"  # a site may rename jobs
    scenario.scheduler.states[renamed] = JobState(RunState.RUNNING, "RUNNING", label=label)
    assert (scenario.state("g0001-r01"), scenario.state("g0002-r01")) == ("pending", "running")
    assert scenario.status("g0001-r01").late
    scenario.cancel()
    assert task not in scenario.told_to_end
    assert task.partition("_")[0] not in scenario.told_to_end
    assert renamed.partition("_")[0] in scenario.told_to_end


def test_who_waits_for_the_scheduler_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """sacct of a loaded slurmdbd takes minutes."""
    scenario = SweepScenario(tmp_path).repeats(1).working().submitted()
    poll, look = scenario.scheduler.poll, scenario.watch()

    def waits_until_it_is_told(tasks: Collection[str]) -> Mapping[str, JobState]:
        until(lambda: scenario.messages)
        return poll(tasks)

    monkeypatch.setattr(scenario.scheduler, "poll", waits_until_it_is_told)
    monkeypatch.setattr(follow, "SLOW_S", 0.1)
    assert {run.state for run in look()} == {"running"}
    assert scenario.messages == ["the scheduler has not answered for 0 s: waiting"]


def test_a_query_that_takes_long_is_asked_rarely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """rl_enable makes the commands of who asks too often wait."""
    scenario = SweepScenario(tmp_path).repeats(1).working().submitted()
    poll, clock, slept = scenario.scheduler.poll, [0.0], []

    def takes_five_seconds(tasks: Collection[str]) -> Mapping[str, JobState]:
        clock[0] += 5
        if len(slept) == 3:
            raise SchedulerUnreachable("nobody answers")
        return poll(tasks)

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 4:
            scenario.ends(*scenario.runs)

    monkeypatch.setattr(scenario.scheduler, "poll", takes_five_seconds)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    scenario.watch_to_the_end(sleep)
    assert all(40 <= seconds <= 60 for seconds in slept[:3])
    assert slept[3] < 36  # one that does not answer is asked as ever: its return is to be seen soon


def test_who_watches_does_not_wait_for_runs_that_were_refused(tmp_path: Path) -> None:
    scenario = SweepScenario(tmp_path).refused_while_submitting(TAKEN, REFUSED)
    shown = scenario.watch_to_the_end(sleep=lambda seconds: pytest.fail("it waits"))
    assert [run.state for run in shown] == ["done"] * 2 + ["planned"] * 4


def test_the_interval_between_two_looks_grows_and_starts_anew_when_a_run_ends(tmp_path: Path) -> None:
    scenario = SweepScenario(tmp_path).working().submitted()
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 15:
            scenario.ends("g0001-r01")
        if len(slept) == 20:
            scenario.ends(*[run for run in scenario.runs if run != "g0001-r01"])

    scenario.watch_to_the_end(sleep)
    assert all(0.8 <= each <= 36 for each in slept)
    assert all(each > 20 for each in slept[10:15])
    assert slept[0] < 1.3
    assert slept[15] < 1.3
    assert len(slept) == 20
    # Some sooner, some later than the interval says.
    steady = slept[10:15]
    assert len(set(steady)) == len(steady)
