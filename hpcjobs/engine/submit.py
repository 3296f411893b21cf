"""Hands a sweep's scripts to the scheduler, each with its intention written down before."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from hpcjobs import render, rundir
from hpcjobs.engine.state import Intention, next_number, submissions
from hpcjobs.engine.sweep import Sweep
from hpcjobs.errors import SubmitRefused
from hpcjobs.plan import ALLOCATION
from hpcjobs.records import Order
from hpcjobs.render import COLLECTOR

Told = Callable[[str], None]


def submit_all(sweep: Sweep, jobs: dict[str, str], told: Told, after_ok: tuple[str, ...] = ()) -> None:
    """Submit every group as one array, then the job that collects; `jobs` gets the job id of each group.

    The groups are cancelled where one of the jobs `after_ok` fails. `told` gets lines for the user. Raises
    SubmitRefused or SchedulerUnreachable; what was submitted before stays so and is collected, and `resume` goes on.
    """
    with rundir.locked(sweep.where):
        sent = submissions(rundir.read_journal(sweep.where), sweep.groups)
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
    where, group, number = sweep.where, intention.group, intention.number
    terms = {"group": group, "submission": number, "indices": list(intention.indices)}
    name = render.job_name(sweep.id, group, number)
    more = {"retries": dict(retries)} if retries else {}
    rundir.append(where, "submitting", **terms, name=name, exclude=list(intention.exclude), **more)
    order = Order((str(number),), sweep.plan.terms.throttle, (), _exclude(sweep, intention), after_ok)
    indices = list(intention.indices)
    if group == ALLOCATION:
        order = dataclasses.replace(order, arguments=(str(number), ",".join(map(str, indices))), throttle=None)
        indices = [0]
    try:
        job = sweep.scheduler.submit(where.script(group), indices, name, order)
    except SubmitRefused as error:
        if not unanswered:
            rundir.append(where, "refused", **terms, said=str(error))
        raise
    rundir.append(where, "submitted", **terms, job=job)
    return job


def _exclude(sweep: Sweep, intention: Intention) -> tuple[str, ...]:
    # On the command line it takes the place of the script's own: both are named.
    own = sweep.plan.cluster.exclude
    return (*([own] if own else []), *intention.exclude) if intention.exclude else ()


def collector(sweep: Sweep, jobs: Sequence[str], told: Told, number: int | None = None) -> None:
    """Submit the last small job, which collects after the end of `jobs`. By the lock's holder.

    `number` sends a submission again of which no answer is recorded. A refusal is told and no error: the
    runs are on their way, and `hpcjobs report` collects too.
    """
    where = sweep.where
    if not jobs or not sweep.collects:
        return
    number = number or next_number(rundir.read_journal(where), COLLECTOR)
    terms = {"group": COLLECTOR, "submission": number, "indices": [0]}
    name = render.job_name(sweep.id, COLLECTOR, number)
    rundir.append(where, "submitting", **terms, name=name, after=list(jobs))
    try:
        job = sweep.scheduler.submit(where.script(COLLECTOR), [0], name, Order((str(number),), after=tuple(jobs)))
    except SubmitRefused as error:
        rundir.append(where, "refused", **terms, said=str(error))
        told(f"no job collects by itself: {error}; `hpcjobs report` does")
        return
    rundir.append(where, "submitted", **terms, job=job)
