"""Resumes a sweep: adopts jobs that the journal does not have, submits runs that are missing or failed."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path

from hpcjobs.base import sweepdir
from hpcjobs.base.errors import InputError, SubmitRefused
from hpcjobs.base.files import shown
from hpcjobs.base.records import RunState, Tell
from hpcjobs.engine.follow import Watch, ours
from hpcjobs.engine.home import check_original, settle
from hpcjobs.engine.journal import Journal, locked
from hpcjobs.engine.state import (
    Intention,
    RunStatus,
    Submission,
    alive,
    excluded_nodes,
    next_number,
    retried,
    submissions,
    unanswered,
)
from hpcjobs.engine.submit import submit, submit_collector
from hpcjobs.engine.sweep import Sweep
from hpcjobs.jobs import render
from hpcjobs.jobs.group import ALLOCATION, COLLECTOR, Group

_RESUMABLE = (RunState.PLANNED, RunState.FAILED, RunState.CANCELLED, RunState.LOST)


@dataclasses.dataclass(frozen=True)
class Resumed:
    """What `resume` did: the names of jobs that it found and the journal did not have, and the runs it submitted."""

    adopted: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()


def resume(sweep: Sweep, tell: Tell, *, retryable: bool = False) -> Resumed:
    """Submit every run that failed, was cancelled or is missing; never one that has a result or is under way.

    A cancelled run that has not ended yet is submitted to start after its end. If its old task still leaves a
    measurement, the run is `done`. Its new task is then revoked by the next `resume`; without one it executes the run
    a second time, because a job script does not look for a result when it claims its run.

    With `retryable`, only runs that were never submitted, and failed runs whose failure class the profile's `retry`
    allows once more. Raises lock.Locked, which names the holder, SchedulerUnreachable (an unreachable scheduler never
    means that a job does not exist), SubmitRefused, or InputError for a copy of a study.
    """
    check_original(sweep)
    with locked(sweep.where) as journal:
        old = check_original(sweep)
        if old is not None:
            _check_left(sweep, old, tell)
        settle(sweep, journal, old, tell)
        adopted, resubmitted = _answer_open(sweep, journal)
        runs = Watch(sweep, tell, must_answer=True, must_read=True).look()
        submitted = submissions(journal.read(), sweep.plan.run_names)
        _revoke_done(sweep, runs, submitted)
        wanted = [run for run in runs if run.state in _RESUMABLE or run.ending]
        retries: dict[str, str] = {}
        if retryable:
            retries = _retries(sweep, journal, wanted)
            wanted = [run for run in wanted if run.state is RunState.PLANNED or run.run in retries]
        _end_older(sweep, wanted, submitted)
        jobs, sent, refusal = _submit(sweep, journal, wanted, retries, _ending(sweep, wanted, submitted), tell)
        living = {run.task.partition("_")[0] for run in runs if not run.state.final and run.word}
        if jobs or (living and not _collector_is_last(journal)):
            submit_collector(sweep, journal, sorted(living | set(jobs), key=int), tell)
        if refusal is not None:
            if sent:
                tell(f"submitted {len(sent)} of {len(wanted)} run(s); resume again for the rest")
            raise refusal
    return Resumed(tuple(adopted), (*resubmitted, *(run.run for run in wanted)))


def _check_left(sweep: Sweep, old: Path, tell: Tell) -> None:
    """Raises InputError if runs are under way in the place `old`, which this machine does not have.

    Then the study was hardly moved: its file system has another name on this machine than on the nodes, whose scripts
    must keep their paths.
    """
    runs = Watch(sweep, tell, must_answer=True).look()
    living = [run for run in runs if not run.state.final and run.state is not RunState.PLANNED]
    if living:
        raise InputError(
            f"{shown(sweep.where.root)}: {len(living)} of its runs are under way in {old}, a name that "
            f"{socket.gethostname()} does not have: resume on a machine that has it, or cancel them first"
        )


def _answer_open(sweep: Sweep, journal: Journal) -> tuple[list[str], list[str]]:
    """Settle every submission without a recorded answer: (names of adopted jobs, runs submitted now).

    A job that the scheduler does not have is submitted again under the same number. If the first one still arrives,
    the claims let only one of the two run each run. Runs that were cancelled meanwhile stay cancelled.
    """
    open_ = unanswered(journal.read(), sweep.plan.run_names)
    names = {intention: render.job_name(sweep.id, intention.group, intention.number) for intention in open_}
    found = sweep.scheduler.find(list(names.values())) if open_ else {}
    adopted, resubmitted = [], []
    for begun, name in names.items():
        intention = _without_revoked(sweep, begun)
        if not intention.indices:
            sweep.scheduler.cancel(sweep.scheduler.find([name], living=True).get(name, []))
            continue
        for job in found.get(name, []):
            about = {"group": intention.group, "submission": intention.number, "indices": list(intention.indices)}
            journal.append("submitted", **about, job=job, adopted=True)
            adopted.append(name)
        if name in found:
            continue
        if intention.group == COLLECTOR:
            # `resume` decides later, when it knows the runs, whether a collector is needed and after which jobs.
            journal.append("refused", group=COLLECTOR, submission=intention.number, indices=[0], said="")
            continue
        try:
            submit(sweep, journal, intention, unanswered=True)
        except SubmitRefused:
            if not intention.exclude:
                raise
            # The excluded nodes may be the reason. Without this second call, every later resume would stop here.
            submit(sweep, journal, dataclasses.replace(intention, exclude=()), unanswered=True)
        resubmitted += [sweep.plan.run_names[intention.group][index] for index in intention.indices]
    return adopted, resubmitted


def _without_revoked(sweep: Sweep, intention: Intention) -> Intention:
    """The intention without runs whose claim a cancel has revoked: a job that arrives does not run them."""
    if intention.group == COLLECTOR:
        return intention
    names, where, number = sweep.plan.run_names[intention.group], sweep.where, intention.number
    left = tuple(index for index in intention.indices if not sweepdir.is_revoked(where, names[index], number))
    return dataclasses.replace(intention, indices=left)


def _retries(sweep: Sweep, journal: Journal, runs: Iterable[RunStatus]) -> dict[str, str]:
    """The failure class of each run that the profile's `retry` allows to be submitted again because of it."""
    allowed = sweep.plan.cluster.retry
    done = retried(journal.read(), sweep.plan.run_names)
    return {
        run.run: run.failure.kind
        for run in runs
        if run.failure is not None and done[run.run, run.failure.kind] < allowed.get(run.failure.kind, 0)
    }


def _revoke_done(sweep: Sweep, runs: list[RunStatus], submitted: Mapping[str, Submission]) -> None:
    """Revoke the claim of each run that has a result, so that a task submitted before that result does not run it."""
    for run in runs:
        if run.state is RunState.DONE and run.run in submitted:
            number = submitted[run.run].number
            if not sweep.where.claim(run.run, number).exists():
                sweepdir.revoke_claim(sweep.where, run.run, number, "resume")


def _end_older(sweep: Sweep, runs: list[RunStatus], submitted: Mapping[str, Submission]) -> None:
    """Cancel older tasks of these runs, and revoke their claims."""
    groups = {name: group for group, names in sweep.plan.run_names.items() for name in names}
    # The task of the one allocation stays: it holds other runs too, and does not start a failed run again.
    # A task that is ending was cancelled before; a second scancel might wait for its end. Of a task that the scheduler
    # does not know (no word), the id may be another job's.
    old = [run.task for run in runs if run.word and not run.ending and groups[run.run] != ALLOCATION]
    if old:
        sweep.scheduler.cancel(old)
    for run in runs:
        if run.run in submitted:
            sweepdir.revoke_claim(sweep.where, run.run, submitted[run.run].number, "resume")


def _submit(
    sweep: Sweep,
    journal: Journal,
    runs: list[RunStatus],
    retries: Mapping[str, str],
    ending: Mapping[str, list[str]],
    tell: Tell,
) -> tuple[list[str], list[str], SubmitRefused | None]:
    """Submit the runs, group by group: (job ids, names of the runs in them, the first refusal if there was one)."""
    wanted = {run.run: run for run in runs}
    jobs: list[str] = []
    sent: list[str] = []
    refusal: SubmitRefused | None = None
    for group in sweep.plan.submitted:
        indices = tuple(index for index, run in enumerate(group.runs) if run.name in wanted)
        if not indices:
            continue
        names = [group.runs[index].name for index in indices]
        events = journal.read()
        bad = {node for name in names if (failure := wanted[name].failure) for node in failure.nodes}
        bad |= excluded_nodes(events, group.name, indices)
        number = next_number(events, group.name)
        why = {index: retries[group.runs[index].name] for index in indices if group.runs[index].name in retries}
        after = tuple(sorted({task for name in names for task in ending[name]}))
        try:
            intention = Intention(group.name, number, indices, tuple(sorted(bad)), after)
            jobs.append(_submit_group(sweep, journal, intention, group, why, tell))
        except SubmitRefused as error:
            refusal = refusal or error  # the scheduler may still accept another size
            continue
        sent += names
        if after:
            tell(f"{group.name}: starts after the end of the cancelled tasks ({' '.join(after)})")
    return jobs, sent, refusal


def _ending(sweep: Sweep, runs: list[RunStatus], submitted: Mapping[str, Submission]) -> dict[str, list[str]]:
    """By run: its tasks that were cancelled and have not ended.

    There may be several: the newest task may have been cancelled while it waited for the end of older ones.
    """
    older = {run.run: submitted[run.run].after if run.run in submitted else () for run in runs}
    tasks = {task: submitted[run].at for run, each in older.items() for task in each}
    answers = ours(sweep, sweep.scheduler.poll(tasks), tasks) if tasks else {}
    living = {task for task, answer in answers.items() if alive(answer)}
    return {
        run.run: [*([run.task] if run.ending else []), *(task for task in older[run.run] if task in living)]
        for run in runs
    }


def _submit_group(
    sweep: Sweep, journal: Journal, intention: Intention, group: Group, why: Mapping[int, str], tell: Tell
) -> str:
    try:
        return submit(sweep, journal, intention, why)
    except SubmitRefused:
        if not intention.exclude:
            raise
    # Without the excluded nodes too few may be left for Slurm to accept the job: a suspect node is better than none.
    job = submit(sweep, journal, dataclasses.replace(intention, number=intention.number + 1, exclude=()), why)
    tell(f"{group.name}: too few nodes are left without {' '.join(intention.exclude)}; the job may use them again")
    return job


def _collector_is_last(journal: Journal) -> bool:
    """Whether a collecting job was submitted after the newest submission of runs."""
    last = ""
    for event in journal.read():
        if event["event"] == "submitted":
            last = event["group"]
    return last == COLLECTOR
