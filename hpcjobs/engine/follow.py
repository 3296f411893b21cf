"""Looks at a sweep: its runs' states, once or until all have ended; and ends them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from hpcjobs import contract, rundir
from hpcjobs.engine.state import Evidence, RunStatus, fold, submissions
from hpcjobs.engine.sweep import Sweep
from hpcjobs.errors import InputError, SchedulerUnreachable, nearest
from hpcjobs.files import read_json
from hpcjobs.logs import evidence, mllog
from hpcjobs.records import JobState
from hpcjobs.rundir import SweepDir

# Polling starts at the first of these intervals and grows to the second, in seconds; the end of a run
# starts it anew.
POLL_FIRST_S = 1.0
POLL_LAST_S = 30.0
POLL_GROWTH = 1.5


def look(where: SweepDir, run: str) -> Evidence:
    """What a run's files say."""
    attempts = where.attempts(run)
    if not attempts:
        return Evidence()
    newest = attempts[-1]
    claim = read_json(newest / contract.CLAIM) or {}
    left = rundir.read_exit(newest)
    log = mllog.read(newest / contract.TRAIN_LOG)
    measured = mllog.measure(log) is not None
    if not measured:
        measured = any(mllog.measure(mllog.read(old / contract.TRAIN_LOG)) is not None for old in attempts[:-1])
    task = str(claim.get("job", ""))
    failed = not measured and (left is None or left.rc != 0)
    return Evidence(
        attempt=newest.name,
        claimed_by=task,
        measured=measured,
        exit=left,
        aborts=tuple(rundir.read_aborts(newest)),
        line=evidence.why(newest / contract.JOB_LOG, where.slurm / f"{task}.out") if failed else "",
        progress=mllog.progress(log),
        nodes=_hosts(log),
        start=claim.get("start"),
    )


def _hosts(log: mllog.TrainLog) -> tuple[str, ...]:
    about = log.last(contract.LogKey.RUN)
    return tuple(about.value.get("hosts", ())) if about and isinstance(about.value, dict) else ()


def snapshot(sweep: Sweep, told: Callable[[str], None] = lambda text: None) -> list[RunStatus]:
    """The state of every run, by one query of the scheduler.

    Where the scheduler is out of reach, `told` is given a line about it and the files alone speak.
    """
    sent = submissions(rundir.read_journal(sweep.where), sweep.groups)
    jobs = sorted({each.task.rpartition("_")[0] for each in sent.values() if each.task})
    answers: dict[str, JobState] | None = {}
    if jobs:
        try:
            answers = dict(sweep.scheduler.poll(jobs))
        except SchedulerUnreachable as error:
            told(f"{error}; showing what the files say")
            answers = None
    names = [run.name for run in sweep.plan.runs]
    found = {name: look(sweep.where, name) for name in names}
    return fold(names, sent, answers, found, time.time())


def wait(sweep: Sweep, shown: Callable[[list[RunStatus]], None], told: Callable[[str], None]) -> list[RunStatus]:
    """Poll until every submitted run has ended; `shown` is given each snapshot."""
    interval, ended = POLL_FIRST_S, -1
    while True:
        runs = snapshot(sweep, told)
        shown(runs)
        if all(run.state.final for run in runs):
            return runs
        now = sum(run.state.final for run in runs)
        interval = POLL_FIRST_S if now != ended else min(interval * POLL_GROWTH, POLL_LAST_S)
        ended = now
        time.sleep(interval)


def cancel(sweep: Sweep, names: Sequence[str]) -> list[str]:
    """End the named runs, or all where none is named; returns those that were ended.

    Raises InputError for an unknown name, SchedulerUnreachable, or lock.Locked.
    """
    runs = {run.run: run for run in snapshot(sweep)}
    for name in names:
        if name not in runs:
            raise InputError(f"no run '{name}' in {sweep.where.root}: {nearest(name, runs)}")
    live = [runs[name] for name in (names or runs) if runs[name].task and not runs[name].state.final]
    if live:
        with rundir.locked(sweep.where):
            sweep.scheduler.cancel([run.task for run in live])
            # After it: a cancel that failed must not make a later failure look like one.
            rundir.append(sweep.where, "cancel", runs=[run.run for run in live])
    return [run.run for run in live]
