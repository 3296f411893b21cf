"""Records that rooms of the control half pass to each other.

States, submissions, limits, exits, failures, progress, published tables.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping

from hpcjobs.base.hostlist import expand_hosts

# Receives a line for the user.
Tell = Callable[[str], None]


class RunState(str, enum.Enum):
    """The state of a run."""

    PLANNED = "planned"
    SUBMITTING = "submitting"
    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"

    @property
    def final(self) -> bool:
        """Whether the run has ended: its state changes only if it is submitted again."""
        return self in _FINAL

    def __str__(self) -> str:
        return self.value


_FINAL = {RunState.DONE, RunState.FAILED, RunState.CANCELLED, RunState.LOST}


@dataclasses.dataclass(frozen=True)
class JobState:
    """A scheduler's answer about one array task.

    `word` is the scheduler's own word for the state. `state` is None if hpcjobs does not know that word: then it is
    shown, and counts as neither success nor failure. `nodelist` has its hosts as Slurm writes them, such as n[1-3],
    empty before it has any. `start`, `end` and `submit` are in seconds since the epoch.

    `label` is what the scheduler knows the job by (name, comment, command), empty if it was not asked; `submit` is when
    the job was submitted (after a requeue: again), None if it was not asked. `silent`: the part of the scheduler that
    may know the task gave no answer; then `reason` says why, and nothing else is known.
    """

    state: RunState | None
    word: str
    reason: str = ""
    exit_code: int | None = None
    signal: int | None = None
    nodelist: str = ""
    start: float | None = None
    end: float | None = None
    label: str = ""
    submit: float | None = None
    silent: bool = False

    @property
    def nodes(self) -> tuple[str, ...]:
        """The names of its hosts."""
        return tuple(expand_hosts(self.nodelist))


@dataclasses.dataclass(frozen=True)
class Order:
    """What a submission asks for besides script, indices and name.

    `arguments` go to the script. At most `throttle` tasks run at a time. The job starts after the jobs or tasks `after`
    have ended, with success or not, and after the jobs `after_ok` have succeeded. If one of `after_ok` fails, the job
    is cancelled; this needs a scheduler with the capability `dependencies`. The job does not use the nodes `exclude`.
    """

    arguments: tuple[str, ...] = ()
    throttle: int | None = None
    after: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    after_ok: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class NodeKind:
    """Nodes of a partition with the same GPUs.

    `gpu_types`: the type of each, empty where the scheduler names none; no GPUs, no types. `usable` of `count` nodes
    can start a job, now or when others end; `away` says why the rest cannot.
    """

    gpu_types: tuple[str, ...]
    count: int
    usable: int
    away: str = ""


@dataclasses.dataclass(frozen=True)
class Limits:
    """The limits of a site. None: no limit is known.

    `max_array`: tasks of one array. `max_jobs`: jobs and array tasks of the whole site. `max_submit`: jobs and array
    tasks of one user, pending and running. `own`: how many of those the user has now. `partition`: whose limits follow.
    `max_nodes`: nodes of one job. `max_time_s`: its time limit in seconds. `up`: whether the partition accepts jobs.
    `version`: the scheduler's, such as (22, 5). `mpi`: the plugins by which its launcher connects ranks; empty if they
    are not known, and it always has `none`. `kinds`: the partition's nodes. `reserved_s`: for how many seconds from now
    the reservation that was asked for lasts.
    """

    max_array: int | None = None
    max_jobs: int | None = None
    max_submit: int | None = None
    own: int = 0
    partition: str = ""
    max_nodes: int | None = None
    max_time_s: int | None = None
    up: bool = True
    version: tuple[int, int] | None = None
    mpi: tuple[str, ...] = ()
    kinds: tuple[NodeKind, ...] = ()
    reserved_s: float | None = None


@dataclasses.dataclass(frozen=True)
class ExitRecord:
    """`exit.json`, as the job script leaves it. `start` and `end` are seconds since the epoch.

    `suspended_s`: for how long, in between, the scheduler had suspended the job. Older files do not say.
    """

    run: str
    attempt: str
    job: str
    rc: int
    signal: int
    nodelist: str
    start: float
    end: float
    suspended_s: int = 0


@dataclasses.dataclass(frozen=True)
class RankRecord:
    """`rank-rNNN.json`, as rank.sh leaves it: how a rank's command ended. `end` is in seconds since the epoch."""

    rank: int
    host: str
    rc: int
    signal: int
    end: float


@dataclasses.dataclass(frozen=True)
class Failure:
    """Why a run failed: its class, the line that shows it, what to do, and the nodes to avoid next time."""

    kind: str
    evidence: str
    hint: str
    nodes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind}: {self.evidence}" if self.evidence else self.kind


@dataclasses.dataclass(frozen=True)
class Reference:
    """A published table: `unit` a second by number of GPUs, the smallest first."""

    name: str
    throughput: Mapping[int, float]
    unit: str

    def efficiency(self, gpus: int) -> float:
        """Efficiency relative to its own smallest size, a fraction."""
        base = min(self.throughput)
        return self.throughput[gpus] / self.throughput[base] * base / gpus


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run has come, as its log says, and how fast it is, in `unit` a second over all GPUs.

    `epoch` is the current one, from 1; a benchmark has none. `ago_s` is how many seconds ago the log was last written;
    None if that is not known.
    """

    step: int = 0
    steps: int | None = None
    throughput: float | None = None
    epoch: int | None = None
    epochs: int | None = None
    unit: str = ""
    ago_s: float | None = None
