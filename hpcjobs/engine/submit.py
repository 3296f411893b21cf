"""Hands a sweep's scripts to the scheduler. The journal records each intention before the call, the job id after it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from hpcjobs.base.errors import SubmitRefused
from hpcjobs.base.records import Order, Tell
from hpcjobs.engine.journal import Journal, locked
from hpcjobs.engine.state import Intention, next_number, submissions
from hpcjobs.engine.sweep import Sweep
from hpcjobs.jobs import render
from hpcjobs.jobs.group import ALLOCATION, COLLECTOR


def submit_all(sweep: Sweep, jobs: dict[str, str], tell: Tell, after_ok: tuple[str, ...] = ()) -> None:
    """Submit every group as one array, then the job that collects; `jobs` receives the job id of each group.

    Slurm cancels the groups if one of the jobs `after_ok` fails. Raises SubmitRefused or SchedulerUnreachable. What
    was submitted before that stays submitted and is collected, and `resume` submits the rest.
    """
    with locked(sweep.where) as journal:
        submitted = submissions(journal.read(), sweep.plan.run_names)
        try:
            for group in sweep.plan.submitted:
                indices = tuple(index for index, run in enumerate(group.runs) if run.name not in submitted)
                if indices:
                    jobs[group.name] = submit(sweep, journal, Intention(group.name, 1, indices), after_ok=after_ok)
        except SubmitRefused:
            submit_collector(sweep, journal, list(jobs.values()), tell)
            raise
        submit_collector(sweep, journal, list(jobs.values()), tell)


def submit(
    sweep: Sweep,
    journal: Journal,
    intention: Intention,
    retries: Mapping[int, str] | None = None,
    *,
    unanswered: bool = False,
    after_ok: tuple[str, ...] = (),
) -> str:
    """Submit what `intention` says; returns the job id.

    `retries` gives the failure class of each index that is submitted again because of it. `unanswered`: an earlier
    call under the same number got no answer, so its job may still arrive; a refusal now does not prove that it is
    absent, and is not journalled. Raises SubmitRefused or SchedulerUnreachable.
    """
    group, number = intention.group, intention.number
    more: dict[str, object] = {"exclude": list(intention.exclude)}
    if retries:
        more["retries"] = dict(retries)
    if intention.after:
        more["after"] = list(intention.after)
    order = Order((str(number),), sweep.plan.terms.throttle, intention.after, _exclude(sweep, intention), after_ok)
    tasks = list(intention.indices)
    if group == ALLOCATION:
        order = dataclasses.replace(order, arguments=(str(number), ",".join(map(str, tasks))), throttle=None)
        tasks = [0]
    return _journalled(sweep, journal, intention, tasks, order, more, unanswered=unanswered)


def _journalled(
    sweep: Sweep,
    journal: Journal,
    intention: Intention,
    tasks: Sequence[int],
    order: Order,
    more: Mapping[str, object],
    *,
    unanswered: bool = False,
) -> str:
    """Call the scheduler once, between two lines of the journal; `more` goes into the first."""
    group = intention.group
    about = {"group": group, "submission": intention.number, "indices": list(intention.indices)}
    name = render.job_name(sweep.id, group, intention.number)
    journal.append("submitting", **about, name=name, **more)
    try:
        job = sweep.scheduler.submit(sweep.where.script(group), tasks, name, order)
    except SubmitRefused as error:
        if not unanswered:
            journal.append("refused", **about, said=str(error))
        raise
    journal.append("submitted", **about, job=job)
    return job


def _exclude(sweep: Sweep, intention: Intention) -> tuple[str, ...]:
    # --exclude on sbatch's command line replaces the script's own: name the nodes of both.
    own = sweep.plan.cluster.exclude
    return (*([own] if own else []), *intention.exclude) if intention.exclude else ()


def submit_collector(sweep: Sweep, journal: Journal, jobs: Sequence[str], tell: Tell) -> None:
    """Submit the last small job, which collects after the end of `jobs`.

    If it is refused, only `tell` receives a line: the runs are submitted, and `hpcjobs report` collects too.
    """
    if not jobs or not sweep.collects:
        return
    intention = Intention(COLLECTOR, next_number(journal.read(), COLLECTOR), (0,))
    order = Order((str(intention.number),), after=tuple(jobs))
    try:
        _journalled(sweep, journal, intention, [0], order, {"after": list(jobs)})
    except SubmitRefused as error:
        tell(f"the job that collects was refused: {error}; `hpcjobs report` collects instead")
