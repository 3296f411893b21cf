"""The state of every run: a pure fold over the journal, the scheduler's answers and the files' evidence."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from hpcjobs.base.contract import EXIT_INTERRUPTED
from hpcjobs.base.hostlist import brief, expand_hosts
from hpcjobs.base.records import ExitRecord, Failure, JobState, Progress, RankRecord, RunState
from hpcjobs.collect.clocks import CLOSE_S
from hpcjobs.collect.failures import cancelled_by_slurm, classify, failure
from hpcjobs.jobs.group import ALLOCATION, COLLECTOR

# How much later, in seconds, accounting may learn of a job's end than the controller forgets it. slurmdbd may be loaded
# or away, and MinJobAge may be a few seconds.
LATE_S = 600.0
# A job that was submitted so much later than the journal says, in seconds, is another one. Clocks of hosts differ.
CLOCKS_S = 600.0
# How long, in seconds, this host may see older files than the node of a run has written.
NFS_CACHE_S = 60.0
# Of a scheduler's message so many characters are shown.
_LONGEST = 400


@dataclasses.dataclass(frozen=True)
class Evidence:
    """The files that the newest attempt of a run left.

    `claimed_by` is the task that made it and `submission` the number of the submission it belongs to.
    `measured`: some attempt finished. `ranks`: how its ranks ended, of those that rank.sh ran.
    `nodelist`: its hosts, as `hostlist.brief` writes them. `restarts`: EXIT_INTERRUPTED means that the run wrote a
    checkpoint. `seen` is when the run last gave a sign of life, in seconds since the epoch; it is looked for where the
    scheduler does not know the task.
    """

    attempt: str = ""
    claimed_by: str = ""
    submission: int = 0
    measured: bool = False
    exit: ExitRecord | None = None
    aborts: tuple[Mapping[str, Any], ...] = ()
    ranks: tuple[RankRecord, ...] = ()
    line: str = ""
    progress: Progress = dataclasses.field(default_factory=Progress)
    nodelist: str = ""
    start: float | None = None
    restarts: bool = True
    seen: float = 0.0

    @property
    def settled(self) -> bool:
        """Whether the run's state is final, whatever the scheduler answers."""
        return self.measured and self.exit is not None


@dataclasses.dataclass(frozen=True)
class Submission:
    """The newest submission of a run.

    `number` is that within its group. `task` is `JOB_INDEX`, or None while no answer of the scheduler is recorded.
    `at` is its time, and `asked` that of its first call (0.0 if that line of the journal is lost), in seconds since the
    epoch. `cancelled`: a cancel was requested. `after`: older tasks whose end it waits for.
    """

    group: str
    number: int
    task: str | None
    at: float
    cancelled: bool = False
    after: tuple[str, ...] = ()
    asked: float = 0.0

    def task_of(self, found: Evidence) -> str | None:
        """The task that runs it: the one that claimed it, which may differ from the recorded one."""
        return found.claimed_by if found.submission == self.number and found.claimed_by else self.task


@dataclasses.dataclass(frozen=True)
class Intention:
    """What is about to be submitted: tasks of a group, to start after the end of the tasks `after`."""

    group: str
    number: int
    indices: tuple[int, ...]
    exclude: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class RunStatus:
    """One run as `status` shows it.

    `gpus` is its size; `word` and `reason` are the scheduler's own; `start` and `end` are seconds since the epoch.
    `nodelist` is that of `hostlist.brief`. `ending`: the run was cancelled without a result, and the scheduler still
    shows its task as alive. `late`: the scheduler no longer knows its task, and how it ended may still be told.
    `clock`: how the clock of its first node contradicts this host's; then how long the run took until now is not known.
    """

    run: str
    state: RunState
    gpus: int = 0
    task: str = ""
    word: str = ""
    reason: str = ""
    failure: Failure | None = None
    attempt: str = ""
    nodelist: str = ""
    start: float | None = None
    end: float | None = None
    progress: Progress = dataclasses.field(default_factory=Progress)
    ending: bool = False
    late: bool = False
    clock: str = ""

    @property
    def said(self) -> str:
        """The scheduler's word, where it says more than the state, and its reason."""
        word = "" if self.word.lower() in (str(self.state), "completed") else self.word
        return " ".join(part for part in (word, self.reason) if part)

    @property
    def nodes(self) -> tuple[str, ...]:
        """The names of its hosts. They are made anew each time: a study may have millions."""
        return tuple(host for part in self.nodelist.split() for host in expand_hosts(part))


def planned(
    journal: Iterable[Mapping[str, Any]], groups: Mapping[str, list[str]]
) -> tuple[list[Mapping[str, Any]], list[str]]:
    """(the events about runs of the plan, what is wrong with the others).

    `groups` gives the run names of each submitted script by array index. An event of another index or group is damage:
    none of its indices counts.
    """
    kept: list[Mapping[str, Any]] = []
    wrong = []
    for event in journal:
        group = event.get("group")
        length = 1 if group == COLLECTOR else len(groups.get(str(group), ()))
        indices = (*event.get("indices", ()), *map(int, event.get("retries", ())))
        if group is not None and not length:
            wrong.append(f"the plan has no group {str(group)[:40]!r}: {str(event['event'])[:40]} is left out")
        elif group is not None and max(indices, default=0) >= length:
            wrong.append(
                f"the plan has no index {max(indices)} of group {group!r}: {str(event['event'])[:40]} is left out"
            )
        else:
            kept.append(event)
    return kept, wrong


def submissions(journal: Iterable[Mapping[str, Any]], groups: Mapping[str, list[str]]) -> dict[str, Submission]:
    """The newest submission of each run. `groups` gives the run names of each submitted script by array index.

    All runs of the one allocation belong to its only task.
    """
    submitted: dict[str, list[Submission]] = {}
    for event in planned(journal, groups)[0]:
        kind, group = event["event"], event.get("group", "")
        if kind in ("submitting", "submitted") and group in groups:
            for index in event["indices"]:
                earlier = submitted.setdefault(groups[group][index], [])
                task = f"{event['job']}_{0 if group == ALLOCATION else index}" if kind == "submitted" else None
                if not earlier or earlier[-1].number != event["submission"]:
                    after = tuple(event.get("after", ()))
                    at = event["time"]
                    asked = at if kind == "submitting" else 0.0
                    earlier.append(Submission(group, event["submission"], task, at, after=after, asked=asked))
                elif task is not None:  # a second call under the same number was answered: its job replaces the first
                    earlier[-1] = dataclasses.replace(earlier[-1], task=task, at=event["time"])
        elif kind == "refused" and group in groups:
            for index in event["indices"]:
                del submitted.get(groups[group][index], [])[-1:]
        elif kind == "cancel":
            for run in event["runs"]:
                if submitted.get(run):
                    submitted[run][-1] = dataclasses.replace(submitted[run][-1], cancelled=True)
    return {run: earlier[-1] for run, earlier in submitted.items() if earlier}


def refusals(journal: Iterable[Mapping[str, Any]], groups: Mapping[str, list[str]]) -> dict[str, str]:
    """The scheduler's words to each run whose newest submission it refused."""
    said: dict[str, str] = {}
    for event in planned(journal, groups)[0]:
        if event["event"] in ("submitting", "refused") and event["group"] in groups:
            for index in event["indices"]:
                text = str(event.get("said", ""))[:_LONGEST] if event["event"] == "refused" else ""
                said[groups[event["group"]][index]] = text
    return {run: text for run, text in said.items() if text}


def unanswered(journal: Iterable[Mapping[str, Any]], groups: Mapping[str, list[str]]) -> list[Intention]:
    """Intentions without a recorded answer: their jobs may or may not exist."""
    open_: dict[tuple[str, int], Intention] = {}
    for event in planned(journal, groups)[0]:
        if event["event"] == "submitting":
            lists = (tuple(event.get(key, ())) for key in ("indices", "exclude", "after"))
            intention = Intention(event["group"], event["submission"], *lists)
            open_[intention.group, intention.number] = intention
        elif event["event"] in ("submitted", "refused"):
            open_.pop((event["group"], event["submission"]), None)
    return list(open_.values())


def next_number(journal: Iterable[Mapping[str, Any]], group: str) -> int:
    """The number of the group's next submission, from 1."""
    return max((event.get("submission", 0) for event in journal if event.get("group") == group), default=0) + 1


def excluded_nodes(journal: Iterable[Mapping[str, Any]], group: str, indices: Iterable[int]) -> set[str]:
    """Nodes that earlier submissions of any of these runs excluded."""
    found: set[str] = set()
    for event in journal:
        if event["event"] == "submitting" and event["group"] == group and set(event["indices"]) & set(indices):
            found.update(event.get("exclude", ()))
    return found


def retried(journal: Iterable[Mapping[str, Any]], groups: Mapping[str, list[str]]) -> Counter[tuple[str, str]]:
    """How often each (run, failure class) was submitted again because of that class."""
    count: Counter[tuple[str, str]] = Counter()
    for event in planned(journal, groups)[0]:
        if event["event"] == "submitting" and event["group"] in groups:
            for index, kind in event.get("retries", {}).items():
                count[groups[event["group"]][int(index)], kind] += 1
    return count


def fold(
    runs: Iterable[str],
    submitted: Mapping[str, Submission],
    answers: Mapping[str, JobState] | None,
    evidence: Mapping[str, Evidence],
    now: float,
    refused: Mapping[str, str] | None = None,
) -> list[RunStatus]:
    """The state of each run. `answers` is None if the scheduler is unreachable; `refused` are those of `refusals`."""
    statuses = []
    for run in runs:
        submission, found = submitted.get(run), evidence.get(run, Evidence())
        status = _status(run, submission, answers, found, now)
        if status.state is RunState.PLANNED and (submitted or refused):
            words = (refused or {}).get(run, "not submitted")
            status = dataclasses.replace(status, reason=f"{words}; `hpcjobs resume` submits it")
        if clock := _clock(found, submission, now):
            status = dataclasses.replace(status, clock=clock)
        statuses.append(status)
    return statuses


def _clock(found: Evidence, submission: Submission | None, now: float) -> str:
    if found.start is None:
        return ""
    if (ahead := max(found.start, found.exit.end if found.exit else 0.0) - now) > CLOSE_S:
        return f"the clock of {_first_host(found.nodelist)} is {ahead:.0f} s or more ahead of this host's"
    mine = submission is not None and submission.number == found.submission
    if submission is not None and mine and (behind := submission.asked - found.start) > CLOSE_S:
        return f"the clock of {_first_host(found.nodelist)} is {behind:.0f} s or more behind that of the submission"
    return ""


def _first_host(nodelist: str) -> str:
    return next((expand_hosts(part)[0] for part in nodelist.split()), "its node")


def _status(
    run: str, submission: Submission | None, answers: Mapping[str, JobState] | None, found: Evidence, now: float
) -> RunStatus:
    task = submission.task_of(found) if submission else None
    answer = answers.get(task) if answers is not None and task is not None else None
    answered, silence = answers is not None, ""
    if answer is not None and answer.silent:
        answer, answered, silence = None, False, "waits for the accounting's answer"
    status = RunStatus(
        run=run,
        state=RunState.PLANNED,
        task=task or found.claimed_by,
        word=answer.word if answer else "",
        reason=answer.reason if answer else silence,
        attempt=found.attempt,
        nodelist=brief(answer.nodelist if answer else "") or found.nodelist,
        start=found.start or (answer.start if answer else None),
        end=found.exit.end if found.exit else answer.end if answer else None,
        progress=found.progress,
        ending=submission is not None and submission.cancelled and not found.measured and alive(answer),
    )
    if found.settled:
        # In one allocation the scheduler's word may be about another run.
        return dataclasses.replace(status, state=RunState.DONE, word="", reason="")
    if found.measured:
        # After its measurement it may still evaluate the test split and write the results.
        busy = answer is not None and answer.state is RunState.RUNNING
        return dataclasses.replace(status, state=RunState.RUNNING if busy else RunState.DONE)
    if submission is None:
        return status
    # Evidence of an older submission says nothing about this one.
    mine = found if found.submission == submission.number else Evidence()
    if task is None:
        state = RunState.CANCELLED if submission.cancelled else RunState.SUBMITTING
        reason = "" if submission.cancelled else "no answer of the scheduler is recorded; `hpcjobs resume` finds out"
        return dataclasses.replace(status, state=state, reason=reason)
    ended = _ended(submission, answer, mine, answered=answered)
    if ended is RunState.FAILED and _may_be_unseen(answer, mine, now):
        return dataclasses.replace(status, state=RunState.RUNNING)
    if ended is RunState.FAILED:
        return dataclasses.replace(
            status,
            state=ended,
            failure=classify(answer, mine.exit, mine.aborts, mine.line, mine.ranks, restarts=mine.restarts),
        )
    if ended is not None:
        return dataclasses.replace(status, state=ended)
    if (
        submission.group == ALLOCATION
        and answer is not None
        and answer.state is RunState.RUNNING
        and not mine.claimed_by
    ):
        return dataclasses.replace(status, state=RunState.PENDING)  # the job has not reached this run
    if answer is not None and answer.state is not RunState.LOST:
        return dataclasses.replace(status, state=answer.state or RunState.RUNNING)
    if submission.cancelled and (answered or silence):
        # The cancel took effect, and the controller, which answered, no longer has the task.
        return dataclasses.replace(status, state=RunState.CANCELLED, reason=status.reason if answered else "")
    if not answered:
        return dataclasses.replace(status, state=RunState.RUNNING if mine.claimed_by else RunState.PENDING)
    if answer is None and now - max(submission.at, found.seen) < LATE_S:
        state = RunState.RUNNING if mine.claimed_by else RunState.PENDING
        return dataclasses.replace(status, state=state, reason="its end may still be told", late=True)
    return dataclasses.replace(status, state=RunState.LOST, failure=failure("lost", mine.line or status.reason))


def _may_be_unseen(answer: JobState | None, mine: Evidence, now: float) -> bool:
    """Whether a task ended so lately, with success, that this host need not see its attempt or its exit.json yet."""
    if answer is None or answer.state is not RunState.DONE or answer.end is None:
        return False
    return mine.exit is None and now < answer.end + NFS_CACHE_S


def is_stranger(answer: JobState, marks: Iterable[str], at: float) -> bool:
    """Whether an answer is about another job that got the id, after the controller lost its state and began anew.

    A job of a sweep has one of `marks` (the sweep's id, its folder) in its name, comment or command. A site may rename
    jobs, and accounting has no comments unless it is told to keep them: there a job is a stranger only if it was also
    submitted long after the task, in seconds since the epoch `at`.
    """
    if not answer.label or any(mark in answer.label for mark in marks):
        return False
    return answer.submit is None or answer.submit > at + CLOCKS_S


def alive(answer: JobState | None) -> bool:
    """Whether the scheduler shows a task that has not ended. An unknown word is not an end."""
    return answer is not None and not answer.silent and (answer.state is None or not answer.state.final)


def _ended(submission: Submission, answer: JobState | None, mine: Evidence, *, answered: bool) -> RunState | None:
    """How the task ended without a measurement, or None while it has not ended."""
    if answer is not None and answer.state is None:
        return None  # an unknown word is neither success nor failure
    if not answered and mine.restarts and mine.exit is not None and mine.exit.rc == EXIT_INTERRUPTED:
        return None  # it may be requeued
    if answer is not None and answer.state is RunState.CANCELLED:
        # Slurm itself cancels a job that exceeds its memory: a failure of the job, not a user's cancel.
        return RunState.FAILED if cancelled_by_slurm(mine.line) else RunState.CANCELLED
    if answer is not None and answer.state is RunState.PENDING:
        return None  # requeued: another attempt follows
    if answer is not None and answer.state is RunState.RUNNING and mine.exit is not None and mine.exit.rc != 0:
        if submission.group == ALLOCATION and mine.exit.rc != EXIT_INTERRUPTED:
            return RunState.FAILED  # its job goes on with the next run
        return None  # the scheduler will soon say how it ended, or requeue it
    if mine.exit is not None:
        return RunState.CANCELLED if submission.cancelled and mine.exit.rc != 0 else RunState.FAILED
    if answer is not None and answer.state in (RunState.DONE, RunState.FAILED):
        return RunState.FAILED
    if answer is not None and answer.state is RunState.LOST:
        return RunState.CANCELLED if submission.cancelled else None
    return None
