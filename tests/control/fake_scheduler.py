"""A fake scheduler that loses answers and delivers late, and sweeps that are handed to it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Sequence
from pathlib import Path

import msgspec
import pytest

from hpcjobs import profiles
from hpcjobs.contract import CLAIM, EXIT_JSON
from hpcjobs.engine import folder, follow, state
from hpcjobs.engine.sweep import Sweep
from hpcjobs.errors import SchedulerUnreachable, SubmitRefused
from hpcjobs.files import write_json
from hpcjobs.plan import Terms, expand, make_plan
from hpcjobs.records import JobState, Limits, Order, RunState
from hpcjobs.rundir import SweepDir
from hpcjobs.spec import Experiment


class Killed(BaseException):
    """The process ends here."""


@dataclasses.dataclass
class FakeScheduler:
    """A scheduler that misbehaves on demand. Its tasks do what the job script does with claims, at once.

    `kills` is consumed call by call of submit: `before` and `after` the submission the caller dies; `late`
    dies, and the job arrives when `arrive` is called; `refuse` says no; `away` does not answer; else all is well.
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
            self._run(names[index], f"{number}_{index}", int(order.arguments[0]))
        return number

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
            rc = 0 if word == "COMPLETED" else 1
            record = {"run": run, "attempt": attempt.name, "job": task, "rc": rc, "signal": 0}
            write_json(attempt / EXIT_JSON, {**record, "nodelist": "n1", "start": 1.0, "end": 2.0})
        self.states[task] = JobState(state_, word, exit_code=0 if word == "COMPLETED" else 1)

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
    where: Path, monkeypatch: pytest.MonkeyPatch, *, repeats: int = 2, **terms: object
) -> tuple[Sweep, FakeScheduler]:
    cluster = msgspec.structs.replace(profiles.cluster("virtual"), python="/bin/true")
    plan = make_plan([1, 2, 4], expand(profiles.read(Experiment, "demo"), []), cluster, repeats, Terms(**terms))
    sweep = Sweep("261125120000abcd", SweepDir(where), plan)
    scheduler = FakeScheduler(sweep.where)
    monkeypatch.setattr(Sweep, "scheduler", scheduler)
    folder.write_folder(sweep, folder.scripts(sweep), ["hpcjobs"])
    return sweep, scheduler


def states(sweep: Sweep) -> set[RunState]:
    return {run.state for run in follow.snapshot(sweep)}


def quietly(text: str) -> None:
    pass
