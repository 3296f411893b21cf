"""What is shown of a sweep's runs: at one look, and while somebody watches."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import pytest

from hpcjobs.base import sweepdir
from hpcjobs.base.contract import CLAIM, EXIT_JSON, JOB_LOG, RunConfig
from hpcjobs.base.files import write_json
from hpcjobs.base.records import ExitRecord, JobState
from hpcjobs.base.sweepdir import SweepDir
from hpcjobs.config import to_builtins
from hpcjobs.engine import follow

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


def test_a_job_that_vanishes_does_not_stay_running(tmp_path: Path) -> None:
    scenario = SweepScenario(tmp_path).working().submitted()
    look = scenario.watch()
    assert {run.state for run in look()} == {"running"}
    scenario.forgets_every_task().an_hour_later()
    assert {run.state for run in look()} == {"lost"}


def test_a_run_that_was_refused_says_why_and_one_after_it_that_it_was_not_submitted(tmp_path: Path) -> None:
    scenario = SweepScenario(tmp_path).repeats(1).refused_while_submitting(TAKEN, REFUSED)
    assert scenario.status("g0002-r01").reason == "no; `hpcjobs resume` submits it"
    assert scenario.status("g0004-r01").reason == "not submitted; `hpcjobs resume` submits it"
    scenario.resume()
    assert scenario.all_done
    assert {scenario.status(run).reason for run in scenario.runs} == {""}


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
