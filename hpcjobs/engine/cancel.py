"""Ends the runs of a sweep."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hpcjobs.base import sweepdir
from hpcjobs.base.errors import InputError, nearest
from hpcjobs.base.files import shown
from hpcjobs.base.records import RunState, Tell
from hpcjobs.engine.follow import Watch
from hpcjobs.engine.home import check_original
from hpcjobs.engine.journal import Journal, locked
from hpcjobs.engine.state import RunStatus, Submission, submissions
from hpcjobs.engine.sweep import Sweep
from hpcjobs.jobs import render
from hpcjobs.jobs.group import COLLECTOR


def cancel(sweep: Sweep, names: Sequence[str], tell: Tell) -> list[str]:
    """End the named runs, or all runs if `names` is empty; returns the names of those that were ended.

    A run whose submission has no recorded answer is ended too: its claim is revoked, so that a job that arrives later
    does not run it. Ending comes before writing: where the folder cannot be written (a full disk, a quota, a
    read-only mount) the jobs end all the same, and `tell` receives what is not recorded. Raises InputError for an
    unknown name or a copy of a study, SchedulerUnreachable, or lock.Locked.
    """
    known = {run.name for run in sweep.plan.runs}
    for name in names:
        if name not in known:
            raise InputError(f"no run '{name}' in {sweep.where.root}: {nearest(name, known)}")
    if names and sweep.plan.allocation is not None:
        raise InputError(f"{sweep.where.root}: one job holds all runs and ends as a whole: give no names of runs")
    check_original(sweep)
    with _locked_if_writable(sweep) as (journal, trouble):
        runs = {run.run: run for run in Watch(sweep, lambda text: None, must_answer=True).look()}
        live = [
            run for name in (names or runs) if not (run := runs[name]).state.final and run.state is not RunState.PLANNED
        ]
        events = sweepdir.read_journal(sweep.where)
        submitted = submissions(events, sweep.plan.run_names)
        jobs = _jobs(sweep, events, {submitted[run.run].group for run in live} | (set() if names else {COLLECTOR}))
        # Of a task that the scheduler does not know (no word), the id may be another job's.
        tasks = {run.task for run in live if run.word}
        places = {name: index for run_names in sweep.plan.run_names.values() for index, name in enumerate(run_names)}
        for run in live:
            group, index = submitted[run.run].group, places[run.run]
            tasks |= {f"{job}_{index}" for job in jobs.get(group, ())}
        everything = [job for found in jobs.values() for job in found]
        if tasks or everything:
            # A job that a site renamed is not found by its name: cancel it by its task id.
            strays = {run.task for run in live if run.word and run.task.partition("_")[0] not in everything}
            sweep.scheduler.cancel(sorted(tasks) if names else [*everything, *sorted(strays)])
        if journal is not None:
            try:
                _record(sweep, journal, live, submitted)
            except OSError as error:
                trouble = error
    if live and trouble is not None:
        tell(
            f"{shown(sweep.where.root)}: cannot be written ({trouble.strerror}): the jobs are told to end, which is "
            "not recorded: a job of these runs that arrives later would still run; cancel again when it can be written"
        )
    return [run.run for run in live]


@contextlib.contextmanager
def _locked_if_writable(sweep: Sweep) -> Iterator[tuple[Journal | None, OSError | None]]:
    """(the journal under the sweep's lock, None), or (None, why the lock cannot be written)."""
    with contextlib.ExitStack() as stack:
        journal, trouble = None, None
        try:
            journal = stack.enter_context(locked(sweep.where))
        except OSError as error:
            trouble = error
        yield journal, trouble


def _record(sweep: Sweep, journal: Journal, live: Sequence[RunStatus], submitted: Mapping[str, Submission]) -> None:
    """Revoke the claims of these runs, then write the cancel. Raises OSError."""
    for run in live:
        sweepdir.revoke_claim(sweep.where, run.run, submitted[run.run].number, "cancel")
    if live:
        # After the scheduler's cancel: if that had failed, a later failure of the run would look like a cancel.
        journal.append("cancel", runs=[run.run for run in live])


def _jobs(sweep: Sweep, events: Sequence[Mapping[str, Any]], groups: set[str]) -> dict[str, list[str]]:
    """The ids of all living jobs of these groups, found by their names, whether the journal has their ids or not."""
    names = {
        render.job_name(sweep.id, event["group"], event["submission"]): event["group"]
        for event in events
        if event["event"] in ("submitting", "submitted") and event["group"] in groups
    }
    found: dict[str, list[str]] = {}
    for name, jobs in sweep.scheduler.find(list(names), living=True).items():
        found.setdefault(names[name], []).extend(jobs)
    return found
