"""The state of every run: a pure fold over the journal, the scheduler's answers and the files' evidence."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from hpcjobs.failures import classify, failure
from hpcjobs.records import ExitRecord, Failure, JobState, Progress, RunState

# A job this young may not be in the scheduler's books yet, in seconds.
GRACE_S = 60.0


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What the newest attempt of a run left on disk. `measured`: some attempt has a measurement."""

    attempt: str = ""
    claimed_by: str = ""
    measured: bool = False
    exit: ExitRecord | None = None
    aborts: tuple[Mapping[str, Any], ...] = ()
    line: str = ""
    progress: Progress = dataclasses.field(default_factory=Progress)
    nodes: tuple[str, ...] = ()
    start: float | None = None


@dataclasses.dataclass(frozen=True)
class Submission:
    """The newest submission of a run: its task id (`JOB_INDEX`), when, and whether a cancel was asked."""

    task: str | None
    at: float
    cancelled: bool = False


@dataclasses.dataclass(frozen=True)
class RunStatus:
    """One run as `status` shows it.

    `word` and `said` are the scheduler's own; `start` and `end` are seconds since the epoch.
    """

    run: str
    state: RunState
    task: str = ""
    word: str = ""
    said: str = ""
    failure: Failure | None = None
    attempt: str = ""
    nodes: tuple[str, ...] = ()
    start: float | None = None
    end: float | None = None
    progress: Progress = dataclasses.field(default_factory=Progress)


def submissions(journal: Iterable[Mapping[str, Any]], groups: Mapping[str, list[str]]) -> dict[str, Submission]:
    """The newest submission of each run; `groups` are the run names of each script by array index."""
    newest: dict[str, Submission] = {}
    for event in journal:
        kind = event["event"]
        runs = groups.get(event.get("group", ""), [])
        if kind in ("submitting", "submitted"):
            for index in event["indices"]:
                task = f"{event['job']}_{index}" if kind == "submitted" else None
                newest[runs[index]] = Submission(task, event["time"])
        elif kind == "refused":
            for index in event["indices"]:
                newest.pop(runs[index], None)
        elif kind == "cancel":
            for run in event["runs"]:
                if run in newest:
                    newest[run] = dataclasses.replace(newest[run], cancelled=True)
    return newest


def fold(
    runs: Iterable[str],
    sent: Mapping[str, Submission],
    answers: Mapping[str, JobState] | None,
    evidence: Mapping[str, Evidence],
    now: float,
) -> list[RunStatus]:
    """The state of each run. `answers` is None where the scheduler is out of reach."""
    return [_status(run, sent.get(run), answers, evidence.get(run, Evidence()), now) for run in runs]


def _status(
    run: str, sent: Submission | None, answers: Mapping[str, JobState] | None, found: Evidence, now: float
) -> RunStatus:
    answer = answers.get(sent.task) if answers is not None and sent is not None and sent.task else None
    status = RunStatus(
        run=run,
        state=RunState.PLANNED,
        task=(sent.task if sent else None) or found.claimed_by,
        word=answer.word if answer else "",
        said=answer.reason if answer else "",
        attempt=found.attempt,
        nodes=(answer.nodes if answer else ()) or found.nodes,
        start=found.start or (answer.start if answer else None),
        end=found.exit.end if found.exit else answer.end if answer else None,
        progress=found.progress,
    )
    if found.measured:
        # After its measurement it may still score the test split and write what belongs to it.
        busy = answer is not None and answer.state is RunState.RUNNING and found.exit is None
        return dataclasses.replace(status, state=RunState.RUNNING if busy else RunState.DONE)
    if sent is None:
        return status
    if sent.task is None:
        return dataclasses.replace(status, state=RunState.SUBMITTING)
    # An older attempt's evidence says nothing of this task.
    mine = found if found.claimed_by == sent.task else Evidence()
    state = _ended(sent, answer, mine)
    if state is RunState.FAILED:
        return dataclasses.replace(status, state=state, failure=classify(answer, mine.exit, mine.aborts, found.line))
    if state is not None:
        return dataclasses.replace(status, state=state)
    if answer is not None:
        return dataclasses.replace(status, state=answer.state or RunState.RUNNING)
    if answers is None or now - sent.at < GRACE_S:
        return dataclasses.replace(status, state=RunState.RUNNING if mine.claimed_by else RunState.PENDING)
    return dataclasses.replace(status, state=RunState.LOST, failure=failure("lost", found.line))


def _ended(sent: Submission, answer: JobState | None, mine: Evidence) -> RunState | None:
    """How the task ended without a measurement, or None while it has not."""
    if answer is not None and answer.state is RunState.CANCELLED:
        return RunState.CANCELLED
    if answer is not None and answer.state is RunState.PENDING:
        return None  # requeued: the attempt that ended was not the last
    if answer is not None and answer.state is RunState.RUNNING and mine.exit is not None and mine.exit.rc != 0:
        return None  # the scheduler is about to say how it ended, or runs it again
    if mine.exit is not None:
        return RunState.CANCELLED if sent.cancelled and mine.exit.rc != 0 else RunState.FAILED
    if answer is not None and answer.state in (RunState.DONE, RunState.FAILED):
        return RunState.FAILED
    return None
