"""Looks at a sweep: its runs' states, once or until all have ended; and ends them."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from hpcjobs.base import contract, sweepdir
from hpcjobs.base.errors import InputError, SchedulerUnreachable, nearest
from hpcjobs.base.files import read_json
from hpcjobs.base.records import JobState, RunState
from hpcjobs.base.sweepdir import SweepDir
from hpcjobs.collect import evidence, mllog
from hpcjobs.engine.state import Evidence, RunStatus, Submission, fold, submissions
from hpcjobs.engine.sweep import Sweep
from hpcjobs.jobs import render
from hpcjobs.jobs.render import COLLECTOR

# Polling starts at the first of these intervals and grows to the second, in seconds; the end of a run
# starts it anew.
POLL_FIRST_S = 1.0
POLL_LAST_S = 30.0
POLL_GROWTH = 1.5
POLL_JITTER = 0.2  # a fraction of the interval, either way

_PLANNED = RunState.PLANNED


def look(where: SweepDir, run: str) -> Evidence:
    """What a run's files say."""
    entries = where.entries(run)
    attempts = where.attempts(run, entries)
    claimed, number = sweepdir.newest_claim(where, run, entries)
    if not attempts:
        return Evidence(claimed_by=claimed, submission=number)
    newest = attempts[-1]
    claim = read_json(newest / contract.CLAIM) or {}
    submission = claim.get("submission")
    left = sweepdir.read_exit(newest)
    log = mllog.read(newest / contract.TRAIN_LOG)
    measured = mllog.measure(log) is not None
    if not measured:
        measured = any(mllog.measure(mllog.read(old / contract.TRAIN_LOG)) is not None for old in attempts[:-1])
    task = str(claim.get("job", ""))
    if isinstance(submission, int) and submission < number and claimed:
        # Its job has claimed the run anew, and not begun: what older attempts left says no more than this.
        return Evidence(attempt=newest.name, claimed_by=claimed, submission=number, measured=measured)
    failed = not measured and (left is None or left.rc != 0)
    return Evidence(
        attempt=newest.name,
        claimed_by=task,
        submission=submission if isinstance(submission, int) else 0,
        measured=measured,
        exit=left,
        aborts=tuple(sweepdir.read_aborts(newest)),
        line=evidence.why(newest / contract.JOB_LOG, where.slurm / f"{task}.out") if failed else "",
        progress=mllog.progress(log),
        nodes=_hosts(log),
        start=claim.get("start"),
    )


def _stillborn(where: SweepDir, sent: Submission, task: str) -> Evidence:
    """What is known of a task that failed before it had made its attempt: what it left on Slurm's own output."""
    return Evidence(claimed_by=task, submission=sent.number, line=evidence.why(where.slurm / f"{task}.out"))


def _hosts(log: mllog.TrainLog) -> tuple[str, ...]:
    about = log.last(contract.LogKey.RUN)
    return tuple(about.value.get("hosts", ())) if about and isinstance(about.value, dict) else ()


class Watch:
    """Looks at a sweep again and again: one query of the scheduler for all of its jobs each time.

    What is settled is neither asked for nor read a second time. Where the scheduler is away its last answer
    is kept, and `told` is given a line about it, and one when it is back.
    """

    def __init__(self, sweep: Sweep, told: Callable[[str], None], *, must_answer: bool = False):
        self._sweep = sweep
        self._told = told
        # Raise SchedulerUnreachable instead.
        self._must_answer = must_answer
        self._settled: dict[str, Evidence] = {}
        self._answers: Mapping[str, JobState] = {}
        self._answered_at: float | None = None
        self._away = False

    def look(self) -> list[RunStatus]:
        """The state of every run. Raises SchedulerUnreachable only where it must answer."""
        sweep = self._sweep
        names = [run.name for run in sweep.plan.runs]
        sent = submissions(sweepdir.read_journal(sweep.where), sweep.groups)
        found = {name: self._settled.get(name) or look(sweep.where, name) for name in names}
        self._settled.update({name: evidence for name, evidence in found.items() if evidence.settled})
        tasks = {task for name, each in sent.items() if not found[name].settled and (task := each.task_of(found[name]))}
        answers = self._ask(tasks)
        for name, each in sent.items():
            task = each.task_of(found[name]) or ""
            answer = (answers or {}).get(task)
            mine = found[name].submission == each.number
            begun = found[name].measured or (mine and found[name].start is not None)
            if answer is not None and answer.state is RunState.FAILED and not begun:
                found[name] = _stillborn(sweep.where, each, task)
        sizes = {run.name: run.size.gpus for run in sweep.plan.runs}
        runs = fold(names, sent, answers, found, time.time())
        return [dataclasses.replace(run, gpus=sizes[run.run]) for run in runs]

    def _ask(self, tasks: Collection[str]) -> Mapping[str, JobState] | None:
        try:
            self._answers = self._sweep.scheduler.poll(tasks) if tasks else {}
        except SchedulerUnreachable as error:
            if self._must_answer:
                raise
            if not self._away:
                self._told(f"{error}; {self._meanwhile()}")
            self._away = True
            return self._answers if self._answered_at else None
        if self._away:
            self._told("the scheduler answers again")
        self._away, self._answered_at = False, time.time()
        return self._answers

    def _meanwhile(self) -> str:
        if self._answered_at is None:
            return "showing what the files say"
        return f"showing its answer of {time.strftime('%H:%M:%S', time.localtime(self._answered_at))}"


def snapshot(sweep: Sweep, told: Callable[[str], None] = lambda text: None) -> list[RunStatus]:
    """The state of every run, by one query of the scheduler.

    Where the scheduler is out of reach, `told` is given a line about it and the files alone speak.
    """
    return Watch(sweep, told).look()


def wait(sweep: Sweep, shown: Callable[[list[RunStatus]], None], told: Callable[[str], None]) -> list[RunStatus]:
    """Poll until every submitted run has ended, at least one; `shown` is given each snapshot."""
    watch, interval, ended = Watch(sweep, told), POLL_FIRST_S, -1
    while True:
        runs = watch.look()
        shown(runs)
        now = sum(run.state.final for run in runs)
        planned = sum(run.state is _PLANNED for run in runs)
        if now and now + planned == len(runs):
            return runs
        interval = POLL_FIRST_S if now != ended else min(interval * POLL_GROWTH, POLL_LAST_S)
        ended = now
        # Not in step with everybody else who waits.
        time.sleep(interval * random.uniform(1 - POLL_JITTER, 1 + POLL_JITTER))


def cancel(sweep: Sweep, names: Sequence[str]) -> list[str]:
    """End the named runs, or all where none is named; returns those that were ended.

    A run of which it is not known whether it was submitted is ended too: whatever arrives later finds its
    claim taken. Raises InputError for an unknown name, SchedulerUnreachable, or lock.Locked.
    """
    known = {run.name for run in sweep.plan.runs}
    for name in names:
        if name not in known:
            raise InputError(f"no run '{name}' in {sweep.where.root}: {nearest(name, known)}")
    if names and sweep.plan.allocation is not None:
        raise InputError(f"{sweep.where.root}: all runs are in one job, which ends as a whole: name none")
    with sweepdir.locked(sweep.where):
        runs = {run.run: run for run in Watch(sweep, lambda text: None, must_answer=True).look()}
        live = [run for name in (names or runs) if not (run := runs[name]).state.final and run.state is not _PLANNED]
        journal = sweepdir.read_journal(sweep.where)
        sent = submissions(journal, sweep.groups)
        jobs = _jobs(sweep, journal, {sent[run.run].group for run in live} | (set() if names else {COLLECTOR}))
        tasks = {run.task for run in live if run.task}
        for run in live:
            place = sweep.groups[sent[run.run].group].index(run.run)
            tasks |= {f"{job}_{place}" for job in jobs.get(sent[run.run].group, ())}
            sweepdir.revoke_claim(sweep.where, run.run, sent[run.run].number, "cancel")
        everything = [job for found in jobs.values() for job in found]
        if tasks or everything:
            # A job that a site renamed is not among those of the names.
            strays = {run.task for run in live if run.task and run.task.partition("_")[0] not in everything}
            sweep.scheduler.cancel(sorted(tasks) if names else [*everything, *sorted(strays)])
        if live:
            # After it: a cancel that failed must not make a later failure look like one.
            sweepdir.append(sweep.where, "cancel", runs=[run.run for run in live])
    return [run.run for run in live]


def _jobs(sweep: Sweep, journal: Sequence[Mapping[str, Any]], groups: set[str]) -> dict[str, list[str]]:
    """The ids of all jobs of these groups by their names, recorded or not."""
    names = {
        render.job_name(sweep.id, event["group"], event["submission"]): event["group"]
        for event in journal
        if event["event"] in ("submitting", "submitted") and event["group"] in groups
    }
    found: dict[str, list[str]] = {}
    for name, jobs in sweep.scheduler.find(list(names)).items():
        found.setdefault(names[name], []).extend(jobs)
    return found
