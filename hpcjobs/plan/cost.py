"""What a plan costs: minutes of a run, GPU-hours, and which of the site's limits it exceeds. Pure."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator, Mapping

from hpcjobs.base.records import Limits
from hpcjobs.config import Cluster
from hpcjobs.jobs.arms import launch_of
from hpcjobs.jobs.group import Group, PlannedRun
from hpcjobs.plan.planning import Plan
from hpcjobs.trainers.registry import trainer_of

# The oldest Slurm on which hpcjobs was tried.
OLDEST_SLURM = (20, 11)


@dataclasses.dataclass(frozen=True)
class Rate:
    """The expected speed of a run: units per second by number of GPUs, seconds before the first step, their source."""

    throughput: Mapping[int, float]
    startup_s: float
    source: str

    def of(self, gpus: int) -> float:
        """Units per second of this many GPUs; for an unknown size, the nearest known size scaled per GPU."""
        if gpus in self.throughput:
            return self.throughput[gpus]
        nearest = min(self.throughput, key=lambda known: abs(known - gpus))
        return self.throughput[nearest] * gpus / nearest


def run_minutes(run: PlannedRun, rate: Rate | None) -> float | None:
    """Minutes from a run's start to its last step, without evaluations; None if unknown."""
    experiment = run.variant.experiment
    work = trainer_of(experiment).work(experiment, run.size, run.repeat)
    if rate is None or work is None:
        return None
    return (rate.startup_s + work / rate.of(run.size.gpus)) / 60


def gpus_held(group: Group, plan: Plan) -> int:
    """GPUs that a job of the group keeps from others: all GPUs of its nodes if the nodes are exclusive."""
    return group.size.gpus_held(plan.cluster.gpus_per_node, plan.cluster.sharing == "exclusive")


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of one group. None is unknown.

    `minutes`: those of its longest run. `gpu_hours`: GPU-hours that all of its runs hold. `idle_gpu_hours`: the part
    of them on GPUs that no run computes on.
    """

    minutes: float | None
    gpu_hours: float | None
    idle_gpu_hours: float | None


def cost(group: Group, plan: Plan, rate: Rate | None) -> Cost:
    """The cost of the group's runs at this rate."""
    minutes = [run_minutes(run, rate) for run in group.runs]
    known = [each for each in minutes if each is not None]
    if len(known) < len(minutes):
        return Cost(None, None, None)
    held = sum(known) * gpus_held(group, plan) / 60
    used = sum(each * run.size.gpus for each, run in zip(known, group.runs, strict=True)) / 60
    # One job runs them one after another.
    longest = sum(known) if group is plan.allocation else max(known)
    return Cost(longest, held, held - used)


class ObjectionKind(enum.Enum):
    """A limit or state of the site that a plan conflicts with."""

    MAX_SUBMIT = "max_submit"
    MAX_JOBS = "max_jobs"
    MAX_NODES = "max_nodes"
    MAX_TIME = "max_time"
    PARTITION_DOWN = "partition_down"
    MPI_PLUGIN = "mpi_plugin"
    OLD_SLURM = "old_slurm"
    NODES_AWAY = "nodes_away"
    GPU_KINDS = "gpu_kinds"
    RESERVATION_ENDS = "reservation_ends"

    @property
    def passes(self) -> bool:
        """Whether the jobs may run all the same: after a longer wait, elsewhere, or on a Slurm that was never tried."""
        return self in _PASS

    @property
    def remedy(self) -> str:
        """What the user can do."""
        return {
            ObjectionKind.MPI_PLUGIN: "set `launcher: mpirun` in the profile, or a plugin that your MPI was built with",
            ObjectionKind.OLD_SLURM: "look at the first job's nodes and end with sacct, and report what differs",
            ObjectionKind.NODES_AWAY: "wait until they are back, or give smaller sizes",
            ObjectionKind.GPU_KINDS: "set `gpu_type` in the profile (or `constraint` or `nodelist`)",
            ObjectionKind.RESERVATION_ENDS: "give a shorter `time`, or leave `reservation` out",
        }.get(self, "give smaller sizes, or another partition, time or QOS in the profile")


_PASS = {
    *(ObjectionKind.PARTITION_DOWN, ObjectionKind.OLD_SLURM),
    *(ObjectionKind.NODES_AWAY, ObjectionKind.GPU_KINDS, ObjectionKind.RESERVATION_ENDS),
}


@dataclasses.dataclass(frozen=True)
class Objection:
    """A conflict of a plan with a limit of the site: the kind of limit, and a line for the user."""

    kind: ObjectionKind
    text: str


def _about_nodes(cluster: Cluster, limits: Limits, nodes: int) -> Iterator[Objection]:
    """Whether `nodes` nodes of the partition can run a job now, and all have the same GPUs."""
    if cluster.nodelist or cluster.constraint:
        return  # which nodes these are is not known here
    where = f"partition {limits.partition}"
    kinds = limits.kinds
    if cluster.gpu_request != "none":
        kinds = tuple(kind for kind in kinds if kind.gpu_types and cluster.gpu_type in (None, *kind.gpu_types))
        named = [" and ".join(kind.gpu_types) for kind in kinds if any(kind.gpu_types)]
        if cluster.gpu_type is None and len(named) > 1:
            text = f"{where} has nodes with {', others with '.join(named)}, and the profile names no `gpu_type`"
            yield Objection(ObjectionKind.GPU_KINDS, f"{text}: each run may get any of them, or a mixture")
    count, usable = sum(kind.count for kind in kinds), sum(kind.usable for kind in kinds)
    if kinds and count < nodes <= (limits.max_nodes or nodes):
        which = "" if cluster.gpu_request == "none" else f" with {cluster.gpu_type or 'GPUs'}"
        yield Objection(ObjectionKind.MAX_NODES, f"{nodes} nodes for one job, but {where} has {count}{which}")
    reasons = "; ".join(kind.away for kind in kinds if kind.away)
    if reasons and usable < nodes <= count:
        text = f"{nodes} nodes for one job, but of {where} {usable} can run one now: {reasons}"
        yield Objection(ObjectionKind.NODES_AWAY, text)


def objections(plan: Plan, limits: Limits, time_s: int | None) -> Iterator[Objection]:
    """The conflicts of a plan with the site's limits. `time_s` is the time limit in seconds that its jobs request."""
    tasks = sum(1 if group is plan.allocation else len(group.runs) for group in plan.submitted)
    if limits.max_submit is not None and limits.own + tasks > limits.max_submit:
        taken = f", {limits.own} of them taken" if limits.own else ""
        text = f"{tasks} array tasks, but one user may have {limits.max_submit} (MaxSubmitJobs){taken}"
        yield Objection(ObjectionKind.MAX_SUBMIT, text)
    if limits.max_jobs is not None and tasks > limits.max_jobs:
        text = f"{tasks} array tasks, but the site holds {limits.max_jobs} jobs (MaxJobCount)"
        yield Objection(ObjectionKind.MAX_JOBS, text)
    nodes = max(group.size.nodes for group in plan.submitted)
    if limits.max_nodes is not None and nodes > limits.max_nodes:
        text = f"{nodes} nodes for one job, but partition {limits.partition} allows at most {limits.max_nodes}"
        yield Objection(ObjectionKind.MAX_NODES, text)
    yield from _about_nodes(plan.cluster, limits, nodes)
    if limits.reserved_s is not None and (time_s is None or time_s > limits.reserved_s):
        if limits.reserved_s > 0:
            text = (
                f"reservation {plan.cluster.reservation} ends in {limits.reserved_s / 3600:.2g} h, before the time "
                "limit of a job that starts now: Slurm may then end what runs, without a signal, and hold what waits"
            )
        else:
            text = f"reservation {plan.cluster.reservation} has ended: no job of it starts"
        yield Objection(ObjectionKind.RESERVATION_ENDS, text)
    if limits.max_time_s is not None and time_s is not None and time_s > limits.max_time_s:
        text = (
            f"a time limit of {time_s / 3600:g} h, but partition {limits.partition} allows "
            f"{limits.max_time_s / 3600:g} h: the jobs may never start"
        )
        yield Objection(ObjectionKind.MAX_TIME, text)
    plugin = plan.cluster.mpi_plugin
    ranks = any(launch_of(group.runs[0], plan.cluster).start == "rank" for group in plan.groups)
    if plan.cluster.launcher == "srun" and ranks and limits.mpi and plugin not in ("none", *limits.mpi):
        text = (
            f"`mpi_plugin: {plugin}`, but `srun --mpi=list` names {', '.join(limits.mpi)}: no rank would start; "
            "`launcher: mpirun` needs no plugin"
        )
        yield Objection(ObjectionKind.MPI_PLUGIN, text)
    if limits.version is not None and limits.version < OLDEST_SLURM:
        theirs, oldest = (f"{year}.{month:02d}" for year, month in (limits.version, OLDEST_SLURM))
        text = f"Slurm {theirs} is older than {oldest}, the oldest on which hpcjobs was tried"
        yield Objection(ObjectionKind.OLD_SLURM, text)
    if not limits.up:
        yield Objection(
            ObjectionKind.PARTITION_DOWN, f"partition {limits.partition} is not up: the jobs wait until it is"
        )
