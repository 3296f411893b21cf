"""The fold: journal, scheduler's answers and files' evidence become a state, and failures get a class."""

from __future__ import annotations

import dataclasses

import pytest

from hpcjobs.base.records import ExitRecord, JobState, RunState
from hpcjobs.collect.failure_classes import FAILURE_CLASSES
from hpcjobs.collect.failures import classify
from hpcjobs.engine.state import Evidence, Intention, RunStatus, fold, is_stranger, next_number, submissions, unanswered

RUN = "g0002-r01"
GROUPS = {"g0002": [RUN, "g0002-r02"]}
SENT = [
    {"event": "submitting", "group": "g0002", "submission": 1, "indices": [0, 1], "time": 100.0},
    {"event": "submitted", "group": "g0002", "submission": 1, "indices": [0, 1], "job": "7", "time": 101.0},
]


def ended(rc: int, signal: int = 0) -> ExitRecord:
    return ExitRecord(RUN, "a001", "7_0", rc, signal, "n1", 102.0, 110.0)


def state(journal: list, answers: dict | None, found: Evidence | None = None, now: float = 1000.0) -> RunStatus:
    return fold([RUN], submissions(journal, GROUPS), answers, {RUN: found} if found else {}, now)[0]


def answer(state: RunState | None, word: str, **more) -> dict:
    return {"7_0": JobState(state, word, **more)}


def test_before_and_during_submission() -> None:
    assert state([], {}).state is RunState.PLANNED
    assert state(SENT[:1], {}).state is RunState.SUBMITTING
    refused = {"event": "refused", "group": "g0002", "submission": 1, "indices": [0, 1], "time": 100.5}
    assert state([SENT[0], refused], {}).state is RunState.PLANNED


def test_the_schedulers_word_is_taken_while_a_run_lives() -> None:
    assert state(SENT, answer(RunState.PENDING, "PENDING")).state is RunState.PENDING
    running = state(SENT, answer(RunState.RUNNING, "RUNNING", nodelist="n[1-2]", start=5.0))
    assert (running.state, running.nodes, running.start, running.task) == (RunState.RUNNING, ("n1", "n2"), 5.0, "7_0")


def test_an_unknown_word_is_neither_success_nor_failure() -> None:
    status = state(SENT, answer(None, "MARTIAN"))
    assert (status.state, status.word) == (RunState.RUNNING, "MARTIAN")


def test_an_unknown_word_is_no_failure_whatever_an_attempt_left() -> None:
    status = state(SENT, answer(None, "MARTIAN"), Evidence("a001", "7_0", 1, exit=ended(1)))
    assert (status.state, status.word) == (RunState.RUNNING, "MARTIAN")


def test_what_was_interrupted_may_run_again_where_nobody_can_be_asked() -> None:
    found = Evidence("a001", "7_0", 1, exit=ended(75))
    assert state(SENT, None, found).state is RunState.RUNNING
    assert state(SENT, answer(RunState.FAILED, "FAILED"), found).state is RunState.FAILED


def test_a_measurement_makes_a_run_done() -> None:
    found = Evidence("a001", "7_0", 1, measured=True, exit=ended(0))
    assert state(SENT, answer(RunState.DONE, "COMPLETED"), found).state is RunState.DONE
    assert state(SENT, None, found).state is RunState.DONE


def test_a_measured_run_that_still_scores_the_test_split_is_running() -> None:
    found = Evidence("a001", "7_0", 1, measured=True)
    assert state(SENT, answer(RunState.RUNNING, "RUNNING"), found).state is RunState.RUNNING
    left = dataclasses.replace(found, exit=ended(0))  # the scheduler's books lag behind
    assert state(SENT, answer(RunState.RUNNING, "RUNNING"), left).state is RunState.DONE


def test_completed_without_a_measurement_is_failed() -> None:
    status = state(SENT, answer(RunState.DONE, "COMPLETED", exit_code=0), Evidence("a001", "7_0", 1, exit=ended(0)))
    assert status.state is RunState.FAILED
    assert status.failure is not None
    assert status.failure.kind == "no_measurement"


def test_a_success_whose_exit_json_this_host_need_not_see_yet_is_no_failure() -> None:
    """NFS shows a new file up to a minute late."""
    over = answer(RunState.DONE, "COMPLETED", exit_code=0, end=990.0)
    assert state(SENT, over, Evidence("a001", "7_0", 1), now=1000.0).state is RunState.RUNNING
    assert state(SENT, over, Evidence("a001", "7_0", 1), now=1100.0).state is RunState.FAILED
    # The folder of the attempt may be as new as that; a task that found its run claimed made none.
    assert state(SENT, over, Evidence(), now=1000.0).state is RunState.RUNNING
    assert state(SENT, over, Evidence(), now=1100.0).state is RunState.FAILED


def test_an_exit_record_speaks_where_the_scheduler_does_not() -> None:
    found = Evidence("a001", "7_0", 1, exit=ended(137, 9), line="mpirun noticed ... exited on signal 9")
    status = state(SENT, None, found)
    assert status.state is RunState.FAILED
    assert status.failure is not None
    assert (status.failure.kind, status.end) == ("signal", 110.0)


def test_cancelled_by_the_user_is_no_failure() -> None:
    assert state(SENT, answer(RunState.CANCELLED, "CANCELLED")).state is RunState.CANCELLED
    journal = [*SENT, {"event": "cancel", "runs": [RUN], "time": 105.0}]
    assert state(journal, None, Evidence("a001", "7_0", 1, exit=ended(143, 15))).state is RunState.CANCELLED


def test_cancelled_before_it_began_and_forgotten_by_the_scheduler_is_not_lost() -> None:
    """Without accounting the controller knows nothing of it MinJobAge after its end."""
    journal = [*SENT, {"event": "cancel", "runs": [RUN], "time": 105.0}]
    assert state(journal, {}).state is RunState.CANCELLED


def test_a_cancelled_run_that_the_controller_no_longer_has_does_not_wait_for_accounting() -> None:
    """Accounting may be away for days. Until then it could neither be cancelled nor submitted again."""
    silent = {"7_0": JobState(None, "", "sacct gave no answer", silent=True)}
    claimed = Evidence("a001", "7_0", 1)
    assert state(SENT, silent, claimed).state is RunState.RUNNING
    journal = [*SENT, {"event": "cancel", "runs": [RUN], "time": 105.0}]
    cancelled = state(journal, silent, claimed)
    assert (cancelled.state, cancelled.reason) == (RunState.CANCELLED, "")
    assert state(journal, silent, dataclasses.replace(claimed, measured=True)).state is RunState.DONE
    # Nobody answers at all: it may still be at work.
    assert state(journal, None, claimed).state is RunState.RUNNING


def test_gone_without_a_trace_is_lost_but_not_at_once() -> None:
    claimed = Evidence("a001", "7_0", 1)
    assert state(SENT, {}, claimed, now=110.0).state is RunState.RUNNING
    assert state(SENT, {}, now=110.0).state is RunState.PENDING
    lost = state(SENT, {}, claimed, now=1000.0)
    assert lost.state is RunState.LOST
    assert lost.failure is not None
    assert lost.failure.kind == "lost"


def test_the_last_sign_of_life_counts_not_the_submission() -> None:
    """Accounting learns of the end of a job minutes after the controller forgot it (MinJobAge)."""
    found = Evidence("a001", "7_0", 1, seen=900.0)
    assert state(SENT, {}, found, now=1400.0).late
    assert state(SENT, {}, found, now=1600.0).state is RunState.LOST


def test_a_job_of_another_name_is_a_stranger_unless_its_site_renamed_it() -> None:
    marks = ("261125120000abcd", "/study/scripts/")
    for label in ("hpcjobs-261125120000abcd-g0001-s01", "x|hpcjobs sweep 261125120000abcd|y", "x||/study/scripts/a 1"):
        assert not is_stranger(JobState(None, "", label=label), marks, 100.0)
    other = JobState(None, "", label="x||/study2/scripts/a")
    assert is_stranger(other, marks, 100.0)
    # Accounting has neither comment nor command.
    assert not is_stranger(dataclasses.replace(other, submit=101.0), marks, 100.0)
    assert is_stranger(dataclasses.replace(other, submit=3700.0), marks, 100.0)


def test_an_unreachable_scheduler_loses_nothing() -> None:
    assert state(SENT, None, now=1e6).state is RunState.PENDING
    assert state(SENT, None, Evidence("a001", "7_0", 1), now=1e6).state is RunState.RUNNING


def test_an_older_attempts_exit_says_nothing_of_a_new_submission() -> None:
    again = [*SENT, {**SENT[1], "submission": 2, "indices": [0], "job": "9", "time": 500.0}]
    old = Evidence("a001", "7_0", 1, exit=ended(1))
    status = fold(
        [RUN], submissions(again, GROUPS), {"9_0": JobState(RunState.PENDING, "PENDING")}, {RUN: old}, 1000.0
    )[0]
    assert (status.state, status.task) == (RunState.PENDING, "9_0")
    assert state(again, None, old).state is RunState.PENDING


def test_the_task_that_claimed_a_run_counts_not_the_one_that_was_recorded() -> None:
    """A submission that was thought lost and sent again: job 9 is on record, job 7 came first."""
    journal = [SENT[0], {**SENT[1], "job": "9"}]
    found = Evidence("a001", "7_0", 1)
    answers = {"9_0": JobState(RunState.DONE, "COMPLETED"), "7_0": JobState(RunState.RUNNING, "RUNNING")}
    status = state(journal, answers, found)
    assert (status.state, status.task) == (RunState.RUNNING, "7_0")


def test_a_submission_without_an_answer_is_known_by_its_claim() -> None:
    assert state(SENT[:1], {}, Evidence("a001", "7_0", 1)).task == "7_0"
    assert state(SENT[:1], answer(RunState.RUNNING, "RUNNING"), Evidence("a001", "7_0", 1)).state is RunState.RUNNING


def test_runs_of_one_allocation_share_its_task_and_wait_their_turn() -> None:
    journal = [{**event, "group": "all"} for event in SENT]
    sent = submissions(journal, {"all": ["g0001-r01", RUN]})
    first = Evidence("a001", "7_0", 1, exit=ended(1), line="RuntimeError: boom")
    one, two = fold(["g0001-r01", RUN], sent, answer(RunState.RUNNING, "RUNNING"), {"g0001-r01": first}, 1000.0)
    assert (one.task, two.task) == ("7_0", "7_0")
    assert (one.state, two.state) == (RunState.FAILED, RunState.PENDING)


def test_a_cancelled_allocation_says_nothing_of_a_run_that_was_done_in_it() -> None:
    sent = submissions([{**event, "group": "all"} for event in SENT], {"all": ["g0001-r01", RUN]})
    done = Evidence("a001", "7_0", 1, measured=True, exit=ended(0))
    (one,) = fold([RUN], sent, answer(RunState.CANCELLED, "CANCELLED", reason="by 0"), {RUN: done}, 1000.0)
    assert (one.state, one.word, one.reason) == (RunState.DONE, "", "")


def test_a_requeued_job_is_pending_though_an_attempt_ended() -> None:
    found = Evidence("a001", "7_0", 1, exit=ended(75))
    assert state(SENT, answer(RunState.PENDING, "PENDING"), found).state is RunState.PENDING
    assert state(SENT, answer(RunState.PENDING, "REQUEUE_HOLD"), found).word == "REQUEUE_HOLD"


def test_cancelled_by_slurm_for_its_memory_is_a_failure() -> None:
    found = Evidence(
        "a001", "7_0", 1, line="slurmstepd: error: Step 7.0 exceeded memory limit (812 > 500), being killed"
    )
    status = state(SENT, answer(RunState.CANCELLED, "CANCELLED", reason="by 0"), found)
    assert status.state is RunState.FAILED
    assert status.failure is not None
    assert "memory" in status.failure.kind


def test_what_was_begun_and_not_answered() -> None:
    assert unanswered(SENT, GROUPS) == []
    assert unanswered(SENT[:1], GROUPS) == [Intention("g0002", 1, (0, 1))]
    refused = {**SENT[0], "event": "refused", "said": "no"}
    assert unanswered([SENT[0], refused], GROUPS) == []
    assert next_number(SENT, "g0002") == 2
    assert next_number(SENT, "g0004") == 1


@pytest.mark.parametrize(
    ("word", "kind"),
    [("TIMEOUT", "timeout"), ("OUT_OF_MEMORY", "out_of_memory"), ("NODE_FAIL", "node_failure"),
     ("PREEMPTED", "preempted"), ("BOOT_FAIL", "boot_failure"), ("DEADLINE", "deadline"), ("REVOKED", "revoked")],
)  # fmt: skip
def test_slurms_final_words_name_their_class(word: str, kind: str) -> None:
    failure = classify(JobState(RunState.FAILED, word, exit_code=0), None, [], "")
    assert (failure.kind, failure.evidence) == (kind, word)


def test_the_first_rank_that_gave_up_says_why() -> None:
    aborts = [{"code": "data_missing", "message": "no dataset.json in /x", "rank": 1, "host": "n2"}]
    failure = classify(None, ended(1), aborts, "hpcjobs: error: ...")
    assert str(failure) == "data_missing: no dataset.json in /x (rank 1 on n2)"
    assert "data prepare" in failure.hint


@pytest.mark.parametrize(
    ("line", "kind"),
    [("RuntimeError: boom", "traceback"), ("oom-kill event", "out_of_memory"), ("exited on signal 11", "signal"),
     ("bash: mpirun: command not found", "launch"), ("CANCELLED DUE TO TIME LIMIT", "timeout")],
)  # fmt: skip
def test_a_log_line_names_the_class(line: str, kind: str) -> None:
    assert classify(None, ended(1), [], line).kind == kind


def test_every_error_code_has_a_hint() -> None:
    from hpcjobs.base.contract import ErrorCode

    codes = {value for name, value in vars(ErrorCode).items() if name.isupper()}
    assert codes - {ErrorCode.UNEXPECTED} <= set(FAILURE_CLASSES)


def test_a_killed_run_waits_for_the_schedulers_own_word() -> None:
    found = Evidence("a001", "7_0", 1, exit=ended(143, 15), line="STEP 7.0 CANCELLED AT ...")
    assert state(SENT, answer(RunState.RUNNING, "COMPLETING"), found).state is RunState.RUNNING
    assert state(SENT, answer(RunState.CANCELLED, "CANCELLED"), found).state is RunState.CANCELLED
