"""Goes on with a sweep: adopts what was submitted unrecorded, submits what is missing or failed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from hpcjobs.base import sweepdir
from hpcjobs.base.errors import SubmitRefused
from hpcjobs.base.records import RunState
from hpcjobs.engine import submit
from hpcjobs.engine.follow import Watch
from hpcjobs.engine.state import (
    Intention,
    RunStatus,
    Submission,
    alive,
    left_out,
    next_number,
    retried,
    submissions,
    unanswered,
)
from hpcjobs.engine.submit import Told
from hpcjobs.engine.sweep import Sweep
from hpcjobs.jobs import render
from hpcjobs.jobs.render import COLLECTOR
from hpcjobs.plan.planning import ALLOCATION, Group

_AGAIN = (RunState.PLANNED, RunState.FAILED, RunState.CANCELLED, RunState.LOST)


@dataclasses.dataclass(frozen=True)
class Resumed:
    """What `resume` did: jobs found that were not recorded, by name, and the runs submitted now."""

    adopted: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()


def resume(sweep: Sweep, told: Told, *, retryable: bool = False) -> Resumed:
    """Submit again what failed, was cancelled or is missing, never what has a result or is on its way.

    What was cancelled and has not ended is submitted to start after its end. Should it yet leave a measurement,
    having been told to end, it is `done`; its new task is then spared by a `resume` that comes before its start,
    and else runs beside that result: nobody looks between the two.

    With `retryable` only what was never submitted, and what failed in a way and not more often than the
    profile's `retry` allows. Raises lock.Locked naming the holder, SchedulerUnreachable (an unreachable
    scheduler never means that a job does not exist) or SubmitRefused.
    """
    with sweepdir.locked(sweep.where):
        adopted, sent_again = _answer(sweep)
        runs = Watch(sweep, told, must_answer=True).look()
        sent = submissions(sweepdir.read_journal(sweep.where), sweep.groups)
        _spare(sweep, runs, sent)
        wanted = [run for run in runs if run.state in _AGAIN or run.ending]
        retries: dict[str, str] = {}
        if retryable:
            retries = _retries(sweep, wanted)
            wanted = [run for run in wanted if run.state is RunState.PLANNED or run.run in retries]
        _leave_behind(sweep, wanted, sent)
        jobs, refusal = _submit(sweep, wanted, retries, _ending(sweep, wanted, sent), told)
        living = {run.task.partition("_")[0] for run in runs if not run.state.final and run.task}
        if jobs or (living and not _collected_later(sweep)):
            submit.collector(sweep, sorted(living | set(jobs), key=int), told)
        if refusal is not None:
            raise refusal
    return Resumed(tuple(adopted), (*sent_again, *(run.run for run in wanted)))


def _answer(sweep: Sweep) -> tuple[list[str], list[str]]:
    """Find out about every submission without an answer: (names of jobs adopted, runs submitted now).

    One that is not there is sent again under its own number: should it arrive yet, each run is still
    claimed by one job only. Runs of it that were cancelled meanwhile stay so.
    """
    open_ = unanswered(sweepdir.read_journal(sweep.where))
    names = {intention: render.job_name(sweep.id, intention.group, intention.number) for intention in open_}
    found = sweep.scheduler.find(list(names.values())) if open_ else {}
    adopted, again = [], []
    for begun, name in names.items():
        intention = _uncancelled(sweep, begun)
        if not intention.indices:
            sweep.scheduler.cancel(found.get(name, []))
            continue
        for job in found.get(name, []):
            terms = {"group": intention.group, "submission": intention.number, "indices": list(intention.indices)}
            sweepdir.append(sweep.where, "submitted", **terms, job=job, adopted=True)
            adopted.append(name)
        if name in found:
            continue
        if intention.group == COLLECTOR:
            # Whether one is needed, and after which jobs, is seen when the runs are.
            sweepdir.append(sweep.where, "refused", group=COLLECTOR, submission=intention.number, indices=[0], said="")
            continue
        try:
            submit.send(sweep, intention, unanswered=True)
        except SubmitRefused:
            if not intention.exclude:
                raise
            # Else nothing of this sweep could be submitted any more.
            submit.send(sweep, dataclasses.replace(intention, exclude=()), unanswered=True)
        again += [sweep.groups[intention.group][index] for index in intention.indices]
    return adopted, again


def _uncancelled(sweep: Sweep, intention: Intention) -> Intention:
    """Without the runs whose claim was taken by a cancel: a job that arrives leaves them out."""
    if intention.group == COLLECTOR:
        return intention
    names, where, number = sweep.groups[intention.group], sweep.where, intention.number
    left = tuple(index for index in intention.indices if not sweepdir.is_revoked(where, names[index], number))
    return dataclasses.replace(intention, indices=left)


def _retries(sweep: Sweep, runs: Iterable[RunStatus]) -> dict[str, str]:
    """The failure class of each of the runs that the profile lets be submitted again because of it."""
    allowed = sweep.plan.cluster.retry
    done = retried(sweepdir.read_journal(sweep.where), sweep.groups)
    return {
        run.run: run.failure.kind
        for run in runs
        if run.failure is not None and done[run.run, run.failure.kind] < allowed.get(run.failure.kind, 0)
    }


def _spare(sweep: Sweep, runs: list[RunStatus], sent: Mapping[str, Submission]) -> None:
    """Let no task start that was submitted before its run turned out to have a result."""
    for run in runs:
        if run.state is RunState.DONE and run.run in sent:
            number = sent[run.run].number
            if not sweep.where.claim(run.run, number).exists():
                sweepdir.revoke_claim(sweep.where, run.run, number, "resume")


def _leave_behind(sweep: Sweep, runs: list[RunStatus], sent: Mapping[str, Submission]) -> None:
    """Make sure that no older task of these runs still starts."""
    groups = {name: group for group, names in sweep.groups.items() for name in names}
    # The one allocation's task holds other runs too, and starts none again that failed in it.
    # What ends already was cancelled before; to ask once more may wait for its end.
    old = [run.task for run in runs if run.task and not run.ending and groups[run.run] != ALLOCATION]
    if old:
        sweep.scheduler.cancel(old)
    for run in runs:
        if run.run in sent:
            sweepdir.revoke_claim(sweep.where, run.run, sent[run.run].number, "resume")


def _submit(
    sweep: Sweep,
    runs: list[RunStatus],
    retries: Mapping[str, str],
    ending: Mapping[str, list[str]],
    told: Told,
) -> tuple[list[str], SubmitRefused | None]:
    wanted = {run.run: run for run in runs}
    jobs: list[str] = []
    refusal: SubmitRefused | None = None
    for group in sweep.plan.sent:
        indices = tuple(index for index, run in enumerate(group.runs) if run.name in wanted)
        if not indices:
            continue
        names = [group.runs[index].name for index in indices]
        journal = sweepdir.read_journal(sweep.where)
        bad = {node for name in names if (failure := wanted[name].failure) for node in failure.nodes}
        bad |= left_out(journal, group.name, indices)
        number = next_number(journal, group.name)
        why = {index: retries[group.runs[index].name] for index in indices if group.runs[index].name in retries}
        after = tuple(sorted({task for name in names for task in ending[name]}))
        try:
            intention = Intention(group.name, number, indices, tuple(sorted(bad)), after)
            jobs.append(_send(sweep, intention, group, why, told))
        except SubmitRefused as error:
            refusal = refusal or error  # another size may find room
            continue
        if after:
            told(f"{group.name}: starts when what was cancelled has ended ({' '.join(after)})")
    return jobs, refusal


def _ending(sweep: Sweep, runs: list[RunStatus], sent: Mapping[str, Submission]) -> dict[str, list[str]]:
    """By run: its tasks that were cancelled and have not ended.

    There are older ones than the newest where that was cancelled while it waited for them.
    """
    older = {run.run: sent[run.run].after if run.run in sent else () for run in runs}
    tasks = {task for each in older.values() for task in each}
    answers = sweep.scheduler.poll(tasks) if tasks else {}
    living = {task for task, answer in answers.items() if alive(answer)}
    return {
        run.run: [*([run.task] if run.ending else []), *(task for task in older[run.run] if task in living)]
        for run in runs
    }


def _send(sweep: Sweep, intention: Intention, group: Group, why: Mapping[int, str], told: Told) -> str:
    try:
        return submit.send(sweep, intention, why)
    except SubmitRefused:
        if not intention.exclude:
            raise
    # So few nodes are left that Slurm will not have it: a suspect node is better than none.
    job = submit.send(sweep, dataclasses.replace(intention, number=intention.number + 1, exclude=()), why)
    told(f"{group.name}: too few nodes without {' '.join(intention.exclude)}; they are used again")
    return job


def _collected_later(sweep: Sweep) -> bool:
    """Whether a collecting job was submitted after the newest submission of runs."""
    last = ""
    for event in sweepdir.read_journal(sweep.where):
        if event["event"] == "submitted":
            last = event["group"]
    return last == COLLECTOR
