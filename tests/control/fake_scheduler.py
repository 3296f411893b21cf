"""A fake scheduler that loses answers and delivers late, and sweeps that are handed to it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Sequence
from pathlib import Path

import msgspec
import pytest

from hpcjobs.base.contract import CLAIM, EXIT_JSON
from hpcjobs.base.errors import SchedulerUnreachable, SubmitRefused
from hpcjobs.base.files import write_json
from hpcjobs.base.records import JobState, Limits, Order, RunState
from hpcjobs.base.sweepdir import SweepDir
from hpcjobs.config import Experiment, profiles
from hpcjobs.engine import folder, follow, state
from hpcjobs.engine.sweep import Sweep
from hpcjobs.plan.planning import Terms, expand, make_plan


class Killed(BaseException):
    """The process ends here."""


@dataclasses.dataclass
class FakeScheduler:
    """A scheduler that misbehaves on demand. Its tasks do what the job script does with claims, at once.

    `kills` is consumed call by call of submit: `before` and `after` the submission the caller dies; `late`
    dies, and the job arrives when `arrive` is called; `refuse` says no; `away` does not answer; else all is well.
    Where it `lingers` a task is `at_work` until `end` is called, also one that was cancelled.
    """

    where: SweepDir
    kills: list[str] = dataclasses.field(default_factory=list)
    jobs: dict[str, tuple[str, Path, list[int], Order]] = dataclasses.field(default_factory=dict)
    late: list[tuple[str, Path, list[int], Order]] = dataclasses.field(default_factory=list)
    executed: list[str] = dataclasses.field(default_factory=list)
    ends: dict[str, tuple[RunState, str]] = dataclasses.field(default_factory=dict)
    states: dict[str, JobState] = dataclasses.field(default_factory=dict)
    away: bool = False
    polls: int = 0
    lingers: bool = False
    at_work: dict[str, Path] = dataclasses.field(default_factory=dict)  # attempts by task
    waiting: list[tuple[str, str, int, Order]] = dataclasses.field(default_factory=list)

    def submit(self, script: Path, indices: Sequence[int], name: str, order: Order) -> str:
        how = self.kills.pop(0) if self.kills else ""
        job = (name, script, list(indices), order)
        if how == "refuse":
            raise SubmitRefused("no")
        if how == "away":
            raise SchedulerUnreachable("nobody answers")
        if how == "late":
            self.late.append(job)
        elif how != "before":
            number = self._accept(job)
        if how:
            raise Killed(how)
        return number

    def _accept(self, job: tuple[str, Path, list[int], Order]) -> str:
        number = str(len(self.jobs) + 1)
        self.jobs[number] = job
        _, script, indices, order = job
        if script.stem == "collect":
            return number
        names = script.with_suffix(".runs").read_text().split()
        for index in indices:
            self.states[f"{number}_{index}"] = JobState(RunState.PENDING, "PENDING")
            self.waiting.append((names[index], f"{number}_{index}", int(order.arguments[0]), order))
        self.start()
        return number

    def start(self) -> None:
        """Run what waits for nothing more, and was not cancelled."""
        for job in [job for job in self.waiting if not any(task in self.at_work for task in job[3].after)]:
            self.waiting.remove(job)
            if self.states[job[1]].state is RunState.PENDING:
                self._run(*job[:3])

    def _run(self, run: str, task: str, submission: int) -> None:
        word, state_ = "COMPLETED", RunState.DONE
        claim = self.where.claim(run, submission)
        if not claim.exists():
            claim.write_text(json.dumps({"job": task}))
            self.executed.append(run)
            state_, word = self.ends.get(run, (state_, word))
            attempt = self.where.run(run) / f"a{len(self.where.attempts(run)) + 1:03d}"
            attempt.mkdir()
            write_json(attempt / CLAIM, {"job": task, "submission": submission, "start": 1.0})
            if self.lingers:
                assert attempt.parent not in {other.parent for other in self.at_work.values()}, "two at once"
                self.at_work[task] = attempt
                self.states[task] = JobState(RunState.RUNNING, "RUNNING")
                return
            self._leave(attempt, task, 0 if word == "COMPLETED" else 1)
        self.states[task] = JobState(state_, word, exit_code=0 if word == "COMPLETED" else 1)

    def _leave(self, attempt: Path, task: str, rc: int) -> None:
        record = {"run": attempt.parent.name, "attempt": attempt.name, "job": task, "rc": rc, "signal": 0}
        write_json(attempt / EXIT_JSON, {**record, "nodelist": "n1", "start": 1.0, "end": 2.0})

    def end(self, task: str, rc: int) -> None:
        """The end of a task that is at work; `start` starts what waited for it."""
        cancelled = self.states[task].word == "COMPLETING"
        self._leave(self.at_work.pop(task), task, rc)
        good = JobState(RunState.DONE, "COMPLETED", exit_code=rc)
        self.states[task] = JobState(RunState.CANCELLED, "CANCELLED") if cancelled else good

    def arrive(self) -> None:
        for job in self.late:
            self._accept(job)
        self.late.clear()

    def find(self, names: Collection[str]) -> dict[str, list[str]]:
        self._answer()
        found: dict[str, list[str]] = {}
        for number, (name, *_) in self.jobs.items():
            if name in names:
                found.setdefault(name, []).append(number)
        return found

    def poll(self, tasks: Collection[str]) -> dict[str, JobState]:
        self._answer()
        self.polls += 1
        return {task: self.states[task] for task in tasks if task in self.states}

    def _answer(self) -> None:
        if self.away:
            raise SchedulerUnreachable("nobody answers")

    def cancel(self, ids: Sequence[str]) -> None:
        self._answer()
        for task, state_ in self.states.items():
            if task not in ids and task.partition("_")[0] not in ids:
                continue
            if task in self.at_work:
                self.states[task] = JobState(RunState.RUNNING, "COMPLETING")
            elif state_.state is RunState.PENDING:
                self.states[task] = JobState(RunState.CANCELLED, "CANCELLED")

    def limits(self, partition: str | None) -> Limits:
        return Limits()

    def user_limit(self, qos: str | None) -> int | None:
        return None

    def test(self, text: str) -> str:
        return ""


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose exit code is 0 has a measurement: these tests are not about logs."""
    real = follow.look

    def look(where: SweepDir, run: str) -> state.Evidence:
        found = real(where, run)
        return dataclasses.replace(found, measured=found.exit is not None and found.exit.rc == 0)

    monkeypatch.setattr(follow, "look", look)


def new(
    where: Path, monkeypatch: pytest.MonkeyPatch, *, repeats: int = 2, lingers: bool = False, **terms: object
) -> tuple[Sweep, FakeScheduler]:
    cluster = msgspec.structs.replace(profiles.cluster("virtual"), python="/bin/true")
    plan = make_plan([1, 2, 4], expand(profiles.read(Experiment, "demo"), []), cluster, repeats, Terms(**terms))
    sweep = Sweep("261125120000abcd", SweepDir(where), plan)
    scheduler = FakeScheduler(sweep.where, lingers=lingers)
    monkeypatch.setattr(Sweep, "scheduler", scheduler)
    folder.write_folder(sweep, folder.scripts(sweep), ["hpcjobs"])
    return sweep, scheduler


def states(sweep: Sweep) -> set[RunState]:
    return {run.state for run in follow.snapshot(sweep)}


def quietly(text: str) -> None:
    pass
