"""Looks at a sweep: the states of its runs, once or until all have ended."""

from __future__ import annotations

import dataclasses
import functools
import os
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hpcjobs.base import contract, sweepdir
from hpcjobs.base.contract import RunConfig
from hpcjobs.base.errors import InputError, SchedulerUnreachable
from hpcjobs.base.files import shown
from hpcjobs.base.hostlist import brief, union
from hpcjobs.base.records import ExitRecord, Failure, JobState, RankRecord, RunState
from hpcjobs.base.sweepdir import SweepDir
from hpcjobs.collect import clocks, evidence
from hpcjobs.collect.attempts import Reading
from hpcjobs.engine.state import (
    LATE_S,
    NFS_CACHE_S,
    Evidence,
    RunStatus,
    Submission,
    alive,
    fold,
    is_stranger,
    planned,
    refusals,
    submissions,
)
from hpcjobs.engine.sweep import Sweep, run_configs
from hpcjobs.trainers.registry import read_ended, trainer_of

# The polling interval starts at the first of these and grows to the second, in seconds. The end of a run resets it.
POLL_FIRST_S = 1.0
POLL_LAST_S = 30.0
POLL_GROWTH = 1.5
POLL_JITTER = 0.2  # a fraction of the interval, either way
# The interval is at least so many times the CPU time of a look: that at 20,000 runs takes seconds, of a shared node.
POLL_PER_CPU = 10.0
# A query that takes long is asked more rarely: Slurm is loaded, or makes a user wait who asks too often (rl_enable).
# The interval is this many times as long as the query, at most POLL_SLOWEST_S.
POLL_SHARE = 10.0
POLL_SLOWEST_S = 300.0
# After so many seconds without an answer the user is told what is waited for.
SLOW_S = 10.0

# So many lines of the journal that are wrong are named, and the others counted: there may be a million.
_TOLD = 10
_PLANNED = RunState.PLANNED
_OVER = (RunState.DONE, RunState.FAILED)


class Readings:
    """What attempts said, so that no log of an attempt that has ended is read twice by one command."""

    def __init__(self) -> None:
        self._ended: dict[Path, tuple[RunConfig, Reading]] = {}

    def read(self, run: RunConfig, attempt: Path, ended: ExitRecord | None) -> Reading:
        """What the files of an attempt say.

        `ended` is its exit.json as the caller read it: read twice, it may have appeared in between.
        """
        known, found = self._ended.get(attempt, (None, None))
        if found is None or known != run:  # a run.yaml may ask for what the plan does not
            found = read_ended(run, attempt, ended)
            if ended is not None and (found.finished or time.time() - ended.end > NFS_CACHE_S):
                self._ended[attempt] = run, found
        return found

    def attempt(self, run: RunConfig, attempt: Path) -> Reading:
        """The same for a caller that has not read its exit.json. Raises OSError if that cannot be read now."""
        return self.read(run, attempt, sweepdir.read_exit(attempt))


def look(where: SweepDir, name: str, config: Callable[[], RunConfig], readings: Readings) -> Evidence:
    """The evidence that a run's files hold. `config` gives what the run is; it is called if the run has begun.

    Raises OSError if the run's folder cannot be read.
    """
    entries = os.listdir(where.run(name))
    attempts = where.attempts(name, entries)
    claimed, number = sweepdir.newest_claim(where, name, entries)
    if not attempts:
        return Evidence(claimed_by=claimed, submission=number)
    run, newest = config(), attempts[-1]
    claim = sweepdir.read_claim(newest / contract.CLAIM)
    submission = claim.get("submission")
    exit_record = sweepdir.read_exit(newest)
    found = readings.read(run, newest, exit_record)
    measured = found.finished or any(readings.read(run, old, sweepdir.read_exit(old)).finished for old in attempts[:-1])
    task = str(claim.get("job", ""))
    if isinstance(submission, int) and submission < number and claimed:
        # A newer submission has claimed the run and has not begun: failures of older attempts no longer matter.
        return Evidence(attempt=newest.name, claimed_by=claimed, submission=number, measured=measured)
    failed = not measured and (exit_record is None or exit_record.rc != 0)
    ranks = _ends(newest, claim, exit_record) if failed else ()
    return Evidence(
        attempt=newest.name,
        claimed_by=task,
        submission=submission if isinstance(submission, int) else 0,
        measured=measured,
        exit=exit_record,
        aborts=(*sweepdir.read_aborts(newest), *found.errors),
        ranks=ranks,
        line=_why(newest / contract.JOB_LOG, where.slurm / f"{task}.out", ranks) if failed else found.problem,
        progress=found.progress,
        # Of most commands, the job script alone says where it ran.
        nodelist=union(found.hosts) or brief(str(claim.get("nodelist", ""))),
        start=claim.get("start"),
    )


def _ends(attempt: Path, claim: Mapping[str, Any], ended: ExitRecord | None) -> tuple[RankRecord, ...]:
    """How the ranks ended, the earliest first; empty if hosts whose clocks differ hold the order of their ends."""
    ranks = tuple(sweepdir.read_ranks(attempt))
    hosts = {rank.host for rank in ranks if rank.rc}
    return () if len(hosts) > 1 and hosts & clocks.differing_hosts(attempt, claim, ended) else ranks


def _why(log: Path, output: Path, ranks: Sequence[RankRecord]) -> str:
    return evidence.why(log, output, ends_known=any(rank.rc for rank in ranks))


def _failed_before_start(where: SweepDir, submission: Submission, task: str) -> Evidence:
    """The evidence of a task that failed before it made an attempt folder: its output file in slurm/."""
    return Evidence(claimed_by=task, submission=submission.number, line=evidence.why(where.slurm / f"{task}.out"))


def _last_written(folder: Path) -> float:
    """When a file of the folder was last written, in seconds since the epoch; 0.0 if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return max((entry.stat().st_mtime for entry in entries), default=0.0)
    except OSError:
        return 0.0


class Watch:
    """Looks at a sweep again and again, with one query of the scheduler for all of its jobs each time.

    A settled run is neither queried nor read a second time. While the scheduler is unreachable, its last answer is
    used; `tell` receives a line when it goes away and one when it is back. With `must_answer`, `look` raises
    SchedulerUnreachable instead. Of a run whose files cannot be read, `tell` receives a line, and only the scheduler's
    word counts; with `must_read`, `look` raises InputError instead, unless its folder is gone. `asked_s` is how long
    the last answer took, in seconds; 0.0 without one.
    """

    def __init__(
        self,
        sweep: Sweep,
        tell: Callable[[str], None],
        *,
        must_answer: bool = False,
        must_read: bool = False,
        readings: Readings | None = None,
    ):
        self._sweep = sweep
        self._tell = tell
        self._must_answer = must_answer
        self._must_read = must_read
        self._sizes = {run.name: run.size.gpus for run in sweep.plan.runs}
        self._hints = trainer_of(sweep.plan.variants[0].experiment).hints()
        self._restarts = all(trainer_of(each.experiment).restarts(each.experiment) for each in sweep.plan.variants)
        self._readings = readings or Readings()
        self._settled: dict[str, Evidence] = {}
        self._answers: Mapping[str, JobState] = {}
        self._answered_at: float | None = None
        self._away = False
        self._silence = ""
        self._late = False
        self._alive_at: dict[str, float] = {}  # by task: when the scheduler last showed it alive
        self.asked_s = 0.0
        self._told: set[str] = set()

    def look(self) -> list[RunStatus]:
        """The state of every run. Raises SchedulerUnreachable with `must_answer`, InputError with `must_read`."""
        sweep = self._sweep
        names = list(self._sizes)
        events = self._events()
        submitted = submissions(events, sweep.plan.run_names)
        found = {name: self._settled.get(name) or self._look(name) for name in names}
        self._settled.update({name: evidence for name, evidence in found.items() if evidence.settled})
        tasks = {
            task: each.at
            for name, each in submitted.items()
            if not found[name].settled and (task := each.task_of(found[name]))
        }
        answers = self._ask(tasks)
        signs: dict[str, float] = {}  # by task: all runs of one allocation share it
        for name, each in submitted.items():
            task = each.task_of(found[name]) or ""
            answer = (answers or {}).get(task)
            if answer is not None and answer.state in _OVER and found[name].exit is None:
                # It ended after its files were read: they say more now.
                found[name] = self._look(name)
            mine = found[name].submission == each.number
            begun = found[name].measured or (mine and found[name].start is not None)
            if answer is not None and answer.state is RunState.FAILED and not begun:
                found[name] = _failed_before_start(sweep.where, each, task)
            elif answer is None and answers is not None and task:
                sign = self._sign_of_life(name, found[name]) if mine else 0.0
                signs[task] = max(sign, signs.get(task, 0.0), self._alive_at.get(task, 0.0), each.at)
        for name, each in submitted.items():
            seen = signs.get(each.task_of(found[name]) or "")
            if seen is not None and found[name].exit is None:
                found[name] = dataclasses.replace(found[name], seen=seen + self._away_s())
        runs = fold(names, submitted, answers, found, time.time(), refusals(events, sweep.plan.run_names))
        self._tell_late([run for run in runs if run.late])
        return [dataclasses.replace(run, gpus=self._sizes[run.run], failure=self._hinted(run.failure)) for run in runs]

    def _sign_of_life(self, name: str, found: Evidence) -> float:
        """When a run last wrote, in seconds since the epoch."""
        return found.exit.end if found.exit else _last_written(self._sweep.where.run(name) / found.attempt)

    def _away_s(self) -> float:
        """For how many seconds the scheduler has been away: in that time it could not tell how a job ended."""
        return time.time() - self._answered_at if self._away and self._answered_at is not None else 0.0

    def _events(self) -> list[dict[str, Any]]:
        """The journal's events. What is wrong with a line of it is told once."""
        events, wrong = sweepdir.read_events(self._sweep.where)
        outside = planned(events, self._sweep.plan.run_names)[1]
        problems = [*wrong, *(f"{self._sweep.where.journal}: {text}" for text in outside)]
        for problem in problems[:_TOLD]:
            self._tell_once(problem)
        if len(problems) > _TOLD:
            self._tell_once(f"{self._sweep.where.journal}: {len(problems) - _TOLD:,} more lines are left out")
        return events

    def _tell_once(self, problem: str) -> None:
        if problem not in self._told:
            self._told.add(problem)
            self._tell(problem)

    def _look(self, name: str) -> Evidence:
        try:
            found = look(self._sweep.where, name, lambda: self._configs[name], self._readings)
        except OSError as error:
            path = shown(Path(str(error.filename or self._sweep.where.run(name))))
            if self._must_read and not isinstance(error, (FileNotFoundError, NotADirectoryError)):
                raise InputError(f"{path}: cannot be read: {error.strerror}; {name} may have a result") from None
            self._tell_once(f"{path}: cannot be read: {error.strerror}; of {name} only the scheduler's word counts")
            found = Evidence()
        return found if self._restarts else dataclasses.replace(found, restarts=False)

    @functools.cached_property
    def _configs(self) -> dict[str, RunConfig]:
        return run_configs(self._sweep)

    def _hinted(self, failure: Failure | None) -> Failure | None:
        """The failure with the trainer's own hint, if it has one."""
        if failure is None or failure.kind not in self._hints:
            return failure
        return dataclasses.replace(failure, hint=self._hints[failure.kind])

    def _ask(self, tasks: Mapping[str, float]) -> Mapping[str, JobState] | None:
        """The scheduler's answers about these tasks, which were submitted at those times."""
        begun = time.monotonic()
        slow = threading.Timer(SLOW_S, self._tell, [f"the scheduler has not answered for {SLOW_S:.0f} s: waiting"])
        slow.daemon = True
        try:
            slow.start()
            answers = self._sweep.scheduler.poll(tasks) if tasks else {}
            self._answers = ours(self._sweep, answers, tasks)
        except SchedulerUnreachable as error:
            if self._must_answer:
                raise
            if not self._away:
                self._tell(f"{error}; {self._meanwhile()}")
            self._away, self.asked_s = True, 0.0
            return self._answers if self._answered_at else None
        finally:
            slow.cancel()
        self.asked_s = time.monotonic() - begun
        self._tell_silence(next((each.reason for each in self._answers.values() if each.silent), ""))
        if self._away:
            self._tell("the scheduler answers again")
        self._away, self._answered_at = False, time.time()
        self._alive_at |= {task: self._answered_at for task, answer in self._answers.items() if alive(answer)}
        return self._answers

    def _tell_silence(self, silence: str) -> None:
        """Tell once that accounting is away, and once that it is back. `silence` says why; empty if it answers."""
        if silence and not self._silence:
            self._tell(f"{silence}; of jobs that the controller forgot, only the files say how they ended")
        if self._silence and not silence:
            self._tell("accounting answers again")
        self._silence = silence

    def _tell_late(self, late: Sequence[RunStatus]) -> None:
        if late and not self._late:
            which = late[0].run if len(late) == 1 else f"{late[0].run} and {len(late) - 1} more"
            self._tell(
                f"{which}: the scheduler no longer knows the job; how it ended may be told up to {LATE_S / 60:.0f} "
                "minutes later, so it is neither lost nor submitted again before"
            )
        self._late = bool(late)

    def _meanwhile(self) -> str:
        if self._answered_at is None:
            return "showing what the files say"
        return f"showing its answer of {time.strftime('%H:%M:%S', time.localtime(self._answered_at))}"


def ours(sweep: Sweep, answers: Mapping[str, JobState], tasks: Mapping[str, float]) -> dict[str, JobState]:
    """The answers without those about other jobs. `tasks` gives when each task was submitted."""
    marks = (sweep.id, f"{sweep.where.scripts}/")
    return {task: answer for task, answer in answers.items() if not is_stranger(answer, marks, tasks[task])}


@dataclasses.dataclass(frozen=True)
class Seen:
    """The state of every run, and what the logs of ended ones said: who collects reads none of them again."""

    statuses: list[RunStatus]
    readings: Readings


def seen(sweep: Sweep, tell: Callable[[str], None] = lambda text: None) -> Seen:
    """Look at a sweep once, by one query of the scheduler.

    If the scheduler is unreachable, `tell` receives a line about it, and the states come from the files only.
    """
    readings = Readings()
    return Seen(Watch(sweep, tell, readings=readings).look(), readings)


def snapshot(sweep: Sweep, tell: Callable[[str], None] = lambda text: None) -> list[RunStatus]:
    """The state of every run, as `seen` has it."""
    return seen(sweep, tell).statuses


def wait(sweep: Sweep, show: Callable[[list[RunStatus]], None], tell: Callable[[str], None]) -> list[RunStatus]:
    """Poll until every submitted run has ended, and at least one has; `show` receives each snapshot."""
    watch, interval, ended = Watch(sweep, tell), POLL_FIRST_S, -1
    while True:
        begun = time.process_time()
        runs = watch.look()
        show(runs)
        cost_s = time.process_time() - begun
        now = sum(run.state.final for run in runs)
        planned = sum(run.state is _PLANNED for run in runs)
        if now and now + planned == len(runs):
            return runs
        interval = POLL_FIRST_S if now != ended else min(interval * POLL_GROWTH, POLL_LAST_S)
        ended = now
        interval = max(interval, min(POLL_SHARE * watch.asked_s, POLL_SLOWEST_S))
        # The jitter keeps many waiting commands from polling at the same moment.
        time.sleep(max(interval, POLL_PER_CPU * cost_s) * random.uniform(1 - POLL_JITTER, 1 + POLL_JITTER))
