"""Hands a sweep's scripts to the scheduler, each with its intention written down before."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from hpcjobs.base import sweepdir
from hpcjobs.base.errors import SubmitRefused
from hpcjobs.base.records import Order
from hpcjobs.engine.state import Intention, next_number, submissions
from hpcjobs.engine.sweep import Sweep
from hpcjobs.jobs import render
from hpcjobs.jobs.group import ALLOCATION, COLLECTOR

Told = Callable[[str], None]


def submit_all(sweep: Sweep, jobs: dict[str, str], told: Told, after_ok: tuple[str, ...] = ()) -> None:
    """Submit every group as one array, then the job that collects; `jobs` gets the job id of each group.

    The groups are cancelled where one of the jobs `after_ok` fails. `told` gets lines for the user. Raises
    SubmitRefused or SchedulerUnreachable; what was submitted before stays so and is collected, and `resume` goes on.
    """
    with sweepdir.locked(sweep.where):
        sent = submissions(sweepdir.read_journal(sweep.where), sweep.groups)
        try:
            for group in sweep.plan.sent:
                indices = tuple(index for index, run in enumerate(group.runs) if run.name not in sent)
                if indices:
                    jobs[group.name] = send(sweep, Intention(group.name, 1, indices), after_ok=after_ok)
        except SubmitRefused:
            collector(sweep, list(jobs.values()), told)
            raise
        collector(sweep, list(jobs.values()), told)


def send(
    sweep: Sweep,
    intention: Intention,
    retries: Mapping[int, str] | None = None,
    *,
    unanswered: bool = False,
    after_ok: tuple[str, ...] = (),
) -> str:
    """Submit, with the intention in the journal before the call and the job id after it. By the lock's holder.

    `retries` gives the failure class of each index that is submitted again because of it. `unanswered`: it was
    sent before under this number and may arrive yet, so that a refusal now does not say that it is not there.
    Raises SubmitRefused or SchedulerUnreachable.
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
    return _journalled(sweep, intention, tasks, order, more, unanswered=unanswered)


def _journalled(
    sweep: Sweep,
    intention: Intention,
    tasks: Sequence[int],
    order: Order,
    more: Mapping[str, object],
    *,
    unanswered: bool = False,
) -> str:
    """One call of the scheduler between its two lines of the journal; `more` stands in the first."""
    where, group = sweep.where, intention.group
    terms = {"group": group, "submission": intention.number, "indices": list(intention.indices)}
    name = render.job_name(sweep.id, group, intention.number)
    sweepdir.append(where, "submitting", **terms, name=name, **more)
    try:
        job = sweep.scheduler.submit(where.script(group), tasks, name, order)
    except SubmitRefused as error:
        if not unanswered:
            sweepdir.append(where, "refused", **terms, said=str(error))
        raise
    sweepdir.append(where, "submitted", **terms, job=job)
    return job


def _exclude(sweep: Sweep, intention: Intention) -> tuple[str, ...]:
    # On the command line it takes the place of the script's own: both are named.
    own = sweep.plan.cluster.exclude
    return (*([own] if own else []), *intention.exclude) if intention.exclude else ()


def collector(sweep: Sweep, jobs: Sequence[str], told: Told) -> None:
    """Submit the last small job, which collects after the end of `jobs`. By the lock's holder.

    A refusal is told and no error: the runs are on their way, and `hpcjobs report` collects too.
    """
    if not jobs or not sweep.collects:
        return
    intention = Intention(COLLECTOR, next_number(sweepdir.read_journal(sweep.where), COLLECTOR), (0,))
    order = Order((str(intention.number),), after=tuple(jobs))
    try:
        _journalled(sweep, intention, [0], order, {"after": list(jobs)})
    except SubmitRefused as error:
        told(f"no job collects by itself: {error}; `hpcjobs report` does")
