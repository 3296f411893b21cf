"""The state of every run: a pure fold over the journal, the scheduler's answers and the files' evidence."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from hpcjobs.base.contract import EXIT_INTERRUPTED
from hpcjobs.base.records import ExitRecord, Failure, JobState, Progress, RunState
from hpcjobs.collect.failures import cancelled_by_slurm, classify, failure
from hpcjobs.jobs.group import ALLOCATION

# A job this young may not be in the scheduler's books yet, in seconds.
GRACE_S = 60.0


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What the newest attempt of a run left on disk.

    `claimed_by` is the task that made it and `submission` the number of the submission it belongs to.
    `measured`: some attempt has a measurement.
    """

    attempt: str = ""
    claimed_by: str = ""
    submission: int = 0
    measured: bool = False
    exit: ExitRecord | None = None
    aborts: tuple[Mapping[str, Any], ...] = ()
    line: str = ""
    progress: Progress = dataclasses.field(default_factory=Progress)
    nodes: tuple[str, ...] = ()
    start: float | None = None

    @property
    def settled(self) -> bool:
        """Whether nothing that a scheduler could say would change what became of the run."""
        return self.measured and self.exit is not None


@dataclasses.dataclass(frozen=True)
class Submission:
    """The newest submission of a run: its number within its group, its task (`JOB_INDEX`; None while no answer
    of the scheduler is recorded), when, whether a cancel was asked, and the older tasks whose end it waits for."""

    group: str
    number: int
    task: str | None
    at: float
    cancelled: bool = False
    after: tuple[str, ...] = ()

    def task_of(self, found: Evidence) -> str | None:
        """The task that runs it: the one that claimed it, which need not be the one that was recorded."""
        return found.claimed_by if found.submission == self.number and found.claimed_by else self.task


@dataclasses.dataclass(frozen=True)
class Intention:
    """What was about to be submitted: it starts after the end of the tasks `after`."""

    group: str
    number: int
    indices: tuple[int, ...]
    exclude: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class RunStatus:
    """One run as `status` shows it.

    `gpus` is its size; `word` and `said` are the scheduler's own; `start` and `end` are seconds since the epoch.
    `ending`: it was cancelled without a result, and the scheduler still shows its task alive.
    """

    run: str
    state: RunState
    gpus: int = 0
    task: str = ""
    word: str = ""
    said: str = ""
    failure: Failure | None = None
    attempt: str = ""
    nodes: tuple[str, ...] = ()
    start: float | None = None
    end: float | None = None
    progress: Progress = dataclasses.field(default_factory=Progress)
    ending: bool = False


def submissions(journal: Iterable[Mapping[str, Any]], groups: Mapping[str, list[str]]) -> dict[str, Submission]:
    """The newest submission of each run; `groups` are the run names of each submitted script by array index.

    All runs of the one allocation are in its one task.
    """
    sent: dict[str, list[Submission]] = {}
    for event in journal:
        kind, group = event["event"], event.get("group", "")
        if kind in ("submitting", "submitted") and group in groups:
            for index in event["indices"]:
                earlier = sent.setdefault(groups[group][index], [])
                task = f"{event['job']}_{0 if group == ALLOCATION else index}" if kind == "submitted" else None
                if not earlier or earlier[-1].number != event["submission"]:
                    after = tuple(event.get("after", ()))
                    earlier.append(Submission(group, event["submission"], task, event["time"], after=after))
                elif task is not None:  # sent again under its number: until then what was recorded before stands
                    earlier[-1] = dataclasses.replace(earlier[-1], task=task, at=event["time"])
        elif kind == "refused" and group in groups:
            for index in event["indices"]:
                del sent[groups[group][index]][-1:]
        elif kind == "cancel":
            for run in event["runs"]:
                if sent.get(run):
                    sent[run][-1] = dataclasses.replace(sent[run][-1], cancelled=True)
    return {run: earlier[-1] for run, earlier in sent.items() if earlier}


def unanswered(journal: Iterable[Mapping[str, Any]]) -> list[Intention]:
    """Submissions that were begun and of which no answer is recorded: they may or may not be there."""
    open_: dict[tuple[str, int], Intention] = {}
    for event in journal:
        if event["event"] == "submitting":
            lists = (tuple(event.get(key, ())) for key in ("indices", "exclude", "after"))
            intention = Intention(event["group"], event["submission"], *lists)
            open_[intention.group, intention.number] = intention
        elif event["event"] in ("submitted", "refused"):
            open_.pop((event["group"], event["submission"]), None)
    return list(open_.values())


def next_number(journal: Iterable[Mapping[str, Any]], group: str) -> int:
    """The number of the group's next submission, from 1."""
    return max((event["submission"] for event in journal if event.get("group") == group), default=0) + 1


def left_out(journal: Iterable[Mapping[str, Any]], group: str, indices: Iterable[int]) -> set[str]:
    """Nodes that earlier submissions of any of these runs left out."""
    found: set[str] = set()
    for event in journal:
        if event["event"] == "submitting" and event["group"] == group and set(event["indices"]) & set(indices):
            found.update(event.get("exclude", ()))
    return found


def retried(journal: Iterable[Mapping[str, Any]], groups: Mapping[str, list[str]]) -> Counter[tuple[str, str]]:
    """How often each (run, failure class) was submitted again because of that class."""
    count: Counter[tuple[str, str]] = Counter()
    for event in journal:
        if event["event"] == "submitting" and event["group"] in groups:
            for index, kind in event.get("retries", {}).items():
                count[groups[event["group"]][int(index)], kind] += 1
    return count


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
    task = sent.task_of(found) if sent else None
    answer = answers.get(task) if answers is not None and task is not None else None
    status = RunStatus(
        run=run,
        state=RunState.PLANNED,
        task=task or found.claimed_by,
        word=answer.word if answer else "",
        said=answer.reason if answer else "",
        attempt=found.attempt,
        nodes=(answer.nodes if answer else ()) or found.nodes,
        start=found.start or (answer.start if answer else None),
        end=found.exit.end if found.exit else answer.end if answer else None,
        progress=found.progress,
        ending=sent is not None and sent.cancelled and not found.measured and alive(answer),
    )
    if found.settled:
        # Of one allocation the scheduler's word may be that on another run.
        return dataclasses.replace(status, state=RunState.DONE, word="", said="")
    if found.measured:
        # After its measurement it may still score the test split and write what belongs to it.
        busy = answer is not None and answer.state is RunState.RUNNING
        return dataclasses.replace(status, state=RunState.RUNNING if busy else RunState.DONE)
    if sent is None:
        return status
    # An older submission's evidence says nothing of this one.
    mine = found if found.submission == sent.number else Evidence()
    if task is None:
        state = RunState.CANCELLED if sent.cancelled else RunState.SUBMITTING
        said = "" if sent.cancelled else "no answer of the scheduler is recorded; `hpcjobs resume` finds out"
        return dataclasses.replace(status, state=state, said=said)
    ended = _ended(sent, answer, mine, asked=answers is not None)
    if ended is RunState.FAILED:
        return dataclasses.replace(status, state=ended, failure=classify(answer, mine.exit, mine.aborts, mine.line))
    if ended is not None:
        return dataclasses.replace(status, state=ended)
    if sent.group == ALLOCATION and answer is not None and answer.state is RunState.RUNNING and not mine.claimed_by:
        return dataclasses.replace(status, state=RunState.PENDING)  # its turn in the job has not come
    if answer is not None and answer.state is not RunState.LOST:
        return dataclasses.replace(status, state=answer.state or RunState.RUNNING)
    if answers is None or (answer is None and now - sent.at < GRACE_S):
        return dataclasses.replace(status, state=RunState.RUNNING if mine.claimed_by else RunState.PENDING)
    if sent.cancelled:
        return dataclasses.replace(status, state=RunState.CANCELLED)  # as was asked, and since forgotten
    return dataclasses.replace(status, state=RunState.LOST, failure=failure("lost", mine.line or status.said))


def alive(answer: JobState | None) -> bool:
    """Whether the scheduler shows a task that has not ended; a word that hpcjobs does not know says no end."""
    return answer is not None and (answer.state is None or not answer.state.final)


def _ended(sent: Submission, answer: JobState | None, mine: Evidence, *, asked: bool) -> RunState | None:
    """How the task ended without a measurement, or None while it has not."""
    if answer is not None and answer.state is None:
        return None  # a word that hpcjobs does not know is neither success nor failure
    if not asked and mine.exit is not None and mine.exit.rc == EXIT_INTERRUPTED:
        return None  # it may be about to run again
    if answer is not None and answer.state is RunState.CANCELLED:
        # Slurm cancels a job that is over its memory; that is the job's failure, not anybody's wish.
        return RunState.FAILED if cancelled_by_slurm(mine.line) else RunState.CANCELLED
    if answer is not None and answer.state is RunState.PENDING:
        return None  # requeued: the attempt that ended was not the last
    if answer is not None and answer.state is RunState.RUNNING and mine.exit is not None and mine.exit.rc != 0:
        if sent.group == ALLOCATION and mine.exit.rc != EXIT_INTERRUPTED:
            return RunState.FAILED  # its job goes on with the next run
        return None  # the scheduler is about to say how it ended, or runs it again
    if mine.exit is not None:
        return RunState.CANCELLED if sent.cancelled and mine.exit.rc != 0 else RunState.FAILED
    if answer is not None and answer.state in (RunState.DONE, RunState.FAILED):
        return RunState.FAILED
    if answer is not None and answer.state is RunState.LOST:
        return RunState.CANCELLED if sent.cancelled else None
    return None
