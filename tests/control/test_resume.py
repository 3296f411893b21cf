"""Killed at any moment, with a scheduler that loses answers and delivers late: nothing is lost or done twice."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpcjobs.base.errors import SchedulerUnreachable, SubmitRefused

from .fake_scheduler import KILLED_AFTER, KILLED_BEFORE, LATE, REFUSED, TAKEN, Answer, Killed
from .scenario import SweepScenario


@given(
    answers=st.lists(st.sampled_from(Answer), max_size=12),
    arrivals=st.lists(st.booleans(), min_size=12, max_size=12),
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_happens_each_run_is_executed_once(
    answers: list[Answer], arrivals: list[bool], tmp_path_factory: pytest.TempPathFactory
) -> None:
    scenario = SweepScenario(tmp_path_factory.mktemp("s"))
    for number, arrives in enumerate(arrivals):
        with contextlib.suppress(Killed, SubmitRefused, SchedulerUnreachable):
            # A resume meets the answers that the command before it did not use up.
            scenario.resume(*scenario.scheduler.answers) if number else scenario.submit(*answers)
        if arrives:
            scenario.late_jobs_arrive()
    scenario.resume().late_jobs_arrive()
    assert scenario.all_done
    assert sorted(scenario.executed) == scenario.runs


# --- a submission without an answer ----------------------------------------------------------------


def test_what_arrives_late_finds_its_runs_claimed(tmp_path: Path) -> None:
    scenario = SweepScenario(tmp_path).killed_while_submitting(LATE)
    assert scenario.state("g0001-r01") == "submitting"
    scenario.resume().late_jobs_arrive()
    assert scenario.submissions.count("g0001-s01") == 2
    assert sorted(scenario.executed) == scenario.runs


def test_an_unreachable_scheduler_is_never_not_submitted(tmp_path: Path) -> None:
    scenario = SweepScenario(tmp_path).killed_while_submitting(KILLED_AFTER)
    scenario.scheduler_away()
    before = scenario.journal
    with pytest.raises(SchedulerUnreachable):
        scenario.resume()
    assert scenario.journal == before
    scenario.scheduler_away(False).resume()
    assert scenario.adopted == ["hpcjobs-261125120000abcd-g0001-s01"]
    assert scenario.submissions == ["g0001-s01", "g0002-s01", "g0004-s01", "collect-s01"]


def test_a_lost_job_that_starts_after_all_finds_its_run_taken(tmp_path: Path) -> None:
    scenario = SweepScenario(tmp_path).forgets_a_task_of("g0001-r01").submitted().an_hour_later()
    assert scenario.state("g0001-r01") == "lost"
    scenario.resume()
    assert scenario.submitted_again == ["g0001-r01"]
    assert scenario.told_to_end == []  # its id may be another job's by now
    scenario.forgotten_task_starts("g0001-r01")
    assert scenario.executed.count("g0001-r01") == 1


def test_a_refusal_of_what_may_yet_arrive_does_not_say_that_it_is_not_there(tmp_path: Path) -> None:
    scenario = SweepScenario(tmp_path).killed_while_submitting(LATE)
    with pytest.raises(SubmitRefused):
        scenario.resume(REFUSED)
    assert scenario.state("g0001-r01") == "submitting"
    scenario.late_jobs_arrive().resume()
    assert scenario.adopted == ["hpcjobs-261125120000abcd-g0001-s01"]
    assert sorted(scenario.executed) == scenario.runs


# --- what failed -----------------------------------------------------------------------------------


def test_only_what_failed_is_run_again_beside_its_old_attempt(tmp_path: Path) -> None:
    scenario = SweepScenario(tmp_path).failing("g0002-r02").submitted()
    scenario.repaired().resume()
    assert scenario.submitted_again == ["g0002-r02"]
    assert scenario.executed.count("g0002-r02") == 2
    assert scenario.attempts("g0002-r02") == ["a001", "a002"]
    assert scenario.all_done
    scenario.resume()
    assert (scenario.submitted_again, scenario.adopted) == ([], [])


def test_a_failure_class_is_retried_as_often_as_the_profile_says(tmp_path: Path) -> None:
    scenario = SweepScenario(tmp_path).cluster(retry={"node_failure": 2})
    scenario.failing("g0001-r01", "NODE_FAIL").failing("g0001-r02", "OUT_OF_MEMORY").submitted()
    for _ in range(4):
        scenario.resume(retryable=True)
    assert scenario.executed.count("g0001-r01") == 1 + 2
    assert scenario.executed.count("g0001-r02") == 1


# --- nodes that are left out -----------------------------------------------------------------------


def test_nodes_that_were_left_out_once_stay_out(tmp_path: Path) -> None:
    scenario = SweepScenario(tmp_path).repeats(1).failing("g0001-r01", "NODE_FAIL", node="n1").submitted()
    scenario.failing("g0001-r01", "NODE_FAIL", node="n2").resume().resume()
    assert scenario.excluded("g0001") == [(), ("n1",), ("n1", "n2")]


def test_a_bad_node_is_left_out_beside_those_of_the_profile(tmp_path: Path) -> None:
    scenario = SweepScenario(tmp_path).cluster(exclude="n[7-8]").failing("g0001-r01", "NODE_FAIL").submitted()
    scenario.resume()
    assert scenario.excluded("g0001") == [(), ("n[7-8]", "n1")]


def test_a_suspect_node_is_better_than_none(tmp_path: Path) -> None:
    scenario = SweepScenario(tmp_path).failing("g0001-r01", "NODE_FAIL").submitted()
    with pytest.raises(SubmitRefused):
        scenario.resume(REFUSED, REFUSED)
    assert scenario.messages == []
    scenario.resume(REFUSED)
    assert scenario.submitted_again == ["g0001-r01"]
    assert scenario.messages == ["g0001: too few nodes are left without n1; the job may use them again"]
    # Each refusal used up a number: what is not there under the one may be under the next.
    assert scenario.arguments("g0001") == [("1",), ("5",)]
    assert scenario.excluded("g0001") == [(), ()]


def test_a_refused_exclusion_of_a_node_that_was_not_answered_stops_nothing(tmp_path: Path) -> None:
    scenario = SweepScenario(tmp_path).failing("g0004-r01", "NODE_FAIL").failing("g0004-r02", "NODE_FAIL").submitted()
    scenario.repaired().killed_while_resuming(KILLED_BEFORE)
    scenario.resume(REFUSED)
    assert scenario.submitted_again == ["g0004-r01", "g0004-r02"]
    assert scenario.all_done
    assert scenario.excluded("g0004") == [(), ()]


# --- what the site refuses -------------------------------------------------------------------------


def test_a_size_that_is_refused_does_not_keep_the_others(tmp_path: Path) -> None:
    scenario = SweepScenario(tmp_path).repeats(1).refused_while_submitting(REFUSED)
    with pytest.raises(SubmitRefused):
        scenario.resume(REFUSED)
    assert scenario.executed == ["g0002-r01", "g0004-r01"]


@pytest.mark.parametrize(
    ("terms", "throttle"), [({}, None), ({"throttle": 2}, 2), ({"throttle": 2, "one_allocation": True}, None)]
)
def test_every_array_is_throttled_also_by_resume_and_the_one_job_is_not(
    tmp_path: Path, terms: dict, throttle: int | None
) -> None:
    scenario = SweepScenario(tmp_path).terms(**terms).failing("g0001-r01").submitted()
    scenario.resume()
    assert scenario.submitted_again == ["g0001-r01"]
    assert scenario.throttles == {throttle}


# --- the job that collects -------------------------------------------------------------------------


def test_a_resume_brings_a_new_collecting_job(tmp_path: Path) -> None:
    scenario = SweepScenario(tmp_path).failing("g0001-r01").submitted()
    assert scenario.collectors == {"collect-s01": ["g0001-s01", "g0002-s01", "g0004-s01"]}
    scenario.resume()
    assert scenario.submissions[-2:] == ["g0001-s02", "collect-s02"]
    assert scenario.collectors["collect-s02"] == ["g0001-s02"]


def test_a_killed_sweep_gets_its_collecting_job_by_resume(tmp_path: Path) -> None:
    scenario = SweepScenario(tmp_path).working().killed_while_submitting(TAKEN, TAKEN, TAKEN, KILLED_BEFORE)
    scenario.resume()
    assert scenario.submitted_again == []
    assert scenario.collectors == {"collect-s02": ["g0001-s01", "g0002-s01", "g0004-s01"]}
    scenario.resume()
    assert scenario.submissions == ["g0001-s01", "g0002-s01", "g0004-s01", "collect-s02"]


def test_what_was_submitted_before_a_refusal_is_collected(tmp_path: Path) -> None:
    scenario = SweepScenario(tmp_path).refused_while_submitting(TAKEN, REFUSED)
    assert scenario.submissions == ["g0001-s01", "collect-s01"]
    assert scenario.collectors == {"collect-s01": ["g0001-s01"]}
