"""A scheduler in memory that misbehaves on demand: it loses answers, delivers late, refuses, and forgets tasks."""

from __future__ import annotations

import dataclasses
import enum
import json
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from hpcjobs.base.contract import CLAIM, EXIT_JSON, TRAIN_LOG
from hpcjobs.base.errors import SchedulerUnreachable, SubmitRefused
from hpcjobs.base.files import claim_link, write_json
from hpcjobs.base.records import JobState, Limits, Order, RunState
from hpcjobs.base.sweepdir import SweepDir
from tests.control.logs import train_log


class Killed(BaseException):
    """The process that called the scheduler ends here."""


class Answer(enum.Enum):
    """What becomes of one call of `submit`, and of who called."""

    TAKEN = "the job is accepted"
    REFUSED = "the job is refused"
    AWAY = "nobody answers"
    KILLED_BEFORE = "the caller dies before the job is sent"
    KILLED_AFTER = "the caller dies after the job was accepted"
    LATE = "the caller dies, and the job arrives later"


TAKEN, REFUSED, AWAY, KILLED_BEFORE, KILLED_AFTER, LATE = Answer


class Pace(enum.Enum):
    """How fast the tasks are."""

    AT_ONCE = "they begin and end as soon as they are submitted"
    WORKING = "they begin as soon as they are submitted, and work until `end`"
    QUEUED = "they stay pending"


@dataclasses.dataclass(frozen=True)
class Job:
    """One job that was accepted, as it was submitted."""

    number: str
    name: str
    script: Path
    indices: list[int]
    order: Order

    @property
    def group(self) -> str:
        return self.script.stem

    @property
    def tasks(self) -> list[tuple[str, str]]:
        """(run, task) of each run in it. The job that collects has none; the one allocation has one task for all."""
        if self.group == "collect":
            return []
        names = [line.split()[0] for line in self.script.with_suffix(".runs").read_text().splitlines()]
        if self.group == "all":
            return [(names[int(index)], f"{self.number}_0") for index in self.order.arguments[1].split(",")]
        return [(names[index], f"{self.number}_{index}") for index in self.indices]


@dataclasses.dataclass(frozen=True)
class Fate:
    """How a task of a run ends: Slurm's word for it, and the node that it had."""

    word: str = "COMPLETED"
    node: str = "n1"


@dataclasses.dataclass
class FakeScheduler:
    """A scheduler whose tasks do what the job script does with claims and attempts, in the caller's process.

    `answers` are consumed call by call of `submit`; without any, jobs are accepted. A task that ends with exit
    code 0 leaves a train.log with a measurement. Two tasks of one run at work together are an AssertionError.
    """

    where: SweepDir
    answers: list[Answer] = dataclasses.field(default_factory=list)
    pace: Pace = Pace.AT_ONCE
    fates: dict[str, Fate] = dataclasses.field(default_factory=dict)  # by run
    # Output of tasks that claim their run and end before they make an attempt, by run.
    outputs: dict[str, str] = dataclasses.field(default_factory=dict)
    forgotten: set[str] = dataclasses.field(default_factory=set)  # runs whose next task is accepted, and then unknown
    renames: bool = False
    away: bool = False
    jobs: dict[str, Job] = dataclasses.field(default_factory=dict)
    states: dict[str, JobState] = dataclasses.field(default_factory=dict)  # by task
    executed: list[str] = dataclasses.field(default_factory=list)  # runs, in the order of their starts
    at_work: dict[str, Path] = dataclasses.field(default_factory=dict)  # attempts, by task
    cancels: list[str] = dataclasses.field(default_factory=list)  # every id that `cancel` was given
    polls: int = 0
    _late: list[tuple[str, Path, list[int], Order]] = dataclasses.field(default_factory=list)
    _waiting: list[tuple[str, str, Order]] = dataclasses.field(default_factory=list)  # run, task, order

    # --- what the engine calls ---

    def submit(self, script: Path, indices: Sequence[int], name: str, order: Order) -> str:
        answer = self.answers.pop(0) if self.answers else TAKEN
        asked = (name, script, list(indices), order)
        if answer is REFUSED:
            raise SubmitRefused("no")
        if answer is AWAY:
            raise SchedulerUnreachable("nobody answers")
        if answer is LATE:
            self._late.append(asked)
        number = self._accept(*asked) if answer in (TAKEN, KILLED_AFTER) else ""
        if answer is not TAKEN:
            raise Killed(answer.value)
        return number

    def find(self, names: Collection[str], *, living: bool = False) -> dict[str, list[str]]:
        self._answer()
        found: dict[str, list[str]] = {}
        for job in self.jobs.values():
            if job.name in names and not self.renames:
                found.setdefault(job.name, []).append(job.number)
        return found

    def poll(self, tasks: Collection[str]) -> dict[str, JobState]:
        self._answer()
        self.polls += 1
        return {task: self.states[task] for task in tasks if task in self.states}

    def node_energy(self, tasks: Sequence[str], mark: str) -> tuple[str, dict[str, int]]:
        return "", {}

    def cancel(self, ids: Sequence[str]) -> None:
        self._answer()
        self.cancels.extend(ids)
        for task, answer in self.states.items():
            if task not in ids and task.partition("_")[0] not in ids:
                continue
            if task in self.at_work:
                self.states[task] = JobState(RunState.RUNNING, "COMPLETING")
            elif answer.state is RunState.PENDING:
                self.states[task] = JobState(RunState.CANCELLED, "CANCELLED")

    def limits(self, partition: str | None, reservation: str | None = None) -> Limits:
        return Limits()

    def user_limit(self, qos: str | None) -> int | None:
        return None

    def test(self, text: str) -> str:
        return ""

    # --- what happens at the site ---

    def arrive(self) -> None:
        """The jobs that were sent and are late are accepted now."""
        for asked in self._late:
            self._accept(*asked)
        self._late.clear()

    def start(self) -> None:
        """Start each pending task that waits for nothing more."""
        for entry in list(self._waiting):
            run, task, order = entry
            if any(other in self.at_work for other in order.after):
                continue
            self._waiting.remove(entry)
            if self.states[task].state is not RunState.CANCELLED:
                self.begin(run, task, int(order.arguments[0]))

    def begin(self, run: str, task: str, submission: int) -> None:
        """What the job script does: it claims its submission of the run, then makes an attempt."""
        if not claim_link(self.where.claim(run, submission), json.dumps({"job": task})):
            self.states[task] = JobState(RunState.DONE, "COMPLETED", exit_code=0)
            return
        if run in self.outputs:
            (self.where.slurm / f"{task}.out").write_text(f"{self.outputs[run]}\n")
            self.states[task] = JobState(RunState.FAILED, "FAILED", exit_code=1)
            return
        self.executed.append(run)
        attempt = self.where.run(run) / f"a{len(self.where.attempts(run)) + 1:03d}"
        attempt.mkdir()
        write_json(attempt / CLAIM, {"job": task, "submission": submission, "start": 1.0})
        assert attempt.parent not in {other.parent for other in self.at_work.values()}, "two at once"
        self.at_work[task] = attempt
        self.states[task] = JobState(RunState.RUNNING, "RUNNING")
        if self.pace is Pace.AT_ONCE:
            word = self.fates.get(run, Fate()).word
            rc = 0 if word == "COMPLETED" else 1
            self.leave(task, rc)
            del self.at_work[task]
            state = RunState.FAILED if rc else RunState.DONE
            self.states[task] = JobState(state, word, exit_code=rc, end=time.time())

    def leave(self, task: str, rc: int) -> None:
        """The attempt of a task that is at work gets its exit.json, with exit code 0 a measurement before it."""
        attempt = self.at_work[task]
        run = attempt.parent.name
        if rc == 0:
            (attempt / TRAIN_LOG).write_text(train_log(gpus=int(run[1:5])))
        record = {"run": run, "attempt": attempt.name, "job": task, "rc": rc, "signal": 0}
        node = self.fates.get(run, Fate()).node
        write_json(attempt / EXIT_JSON, {**record, "nodelist": node, "start": 1.0, "end": 2.0})

    def end(self, task: str, rc: int) -> None:
        """A task that is at work ends; `start` starts what waits for it."""
        cancelled = self.states[task].word == "COMPLETING"
        self.leave(task, rc)
        del self.at_work[task]
        good = JobState(RunState.DONE, "COMPLETED", exit_code=rc, end=time.time())
        self.states[task] = JobState(RunState.CANCELLED, "CANCELLED") if cancelled else good

    def _accept(self, name: str, script: Path, indices: list[int], order: Order) -> str:
        job = Job(str(len(self.jobs) + 1), name, script, indices, order)
        self.jobs[job.number] = job
        for run, task in job.tasks:
            if run in self.forgotten:
                self.forgotten.remove(run)
                continue
            self.states[task] = JobState(RunState.PENDING, "PENDING")
            self._waiting.append((run, task, order))
        if self.pace is not Pace.QUEUED:
            self.start()
        return job.number

    def _answer(self) -> None:
        if self.away:
            raise SchedulerUnreachable("nobody answers")
