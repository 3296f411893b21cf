"""What passes between the rooms of the control half beside the metrics: states, limits, exits, failures, progress."""

from __future__ import annotations

import dataclasses
import enum


class RunState(str, enum.Enum):
    """Where a run is in its life."""

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
        """Whether the run will not change by itself any more."""
        return self in _FINAL

    def __str__(self) -> str:
        return self.value


_FINAL = {RunState.DONE, RunState.FAILED, RunState.CANCELLED, RunState.LOST}


@dataclasses.dataclass(frozen=True)
class JobState:
    """A scheduler's answer about one array task.

    `state` is None where the scheduler's word is one that hpcjobs does not know: it is shown and
    counts as neither success nor failure. `start` and `end` are seconds since the epoch.
    """

    state: RunState | None
    word: str
    reason: str = ""
    exit_code: int | None = None
    signal: int | None = None
    nodes: tuple[str, ...] = ()
    start: float | None = None
    end: float | None = None


@dataclasses.dataclass(frozen=True)
class Order:
    """What a submission asks for beside script, indices and name.

    `arguments` go to the script; at most `throttle` tasks run at a time; the job starts after the end,
    however it is, of the jobs or tasks `after`; the nodes `exclude` are none of its own. Of Slurm alone: where
    one of the jobs `after_ok` fails, it is cancelled.
    """

    arguments: tuple[str, ...] = ()
    throttle: int | None = None
    after: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    after_ok: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a site allows; None is no limit known.

    `max_array`: tasks of one array; `max_jobs`: jobs and array tasks of the whole site; `max_submit`: those of
    one user, pending and running, and `own` how many there are now. Of the `partition`: `max_nodes` of one
    job, `max_time_s` of it, and whether it is `up`.
    """

    max_array: int | None = None
    max_jobs: int | None = None
    max_submit: int | None = None
    own: int = 0
    partition: str = ""
    max_nodes: int | None = None
    max_time_s: int | None = None
    up: bool = True


@dataclasses.dataclass(frozen=True)
class ExitRecord:
    """`exit.json`, as the job script leaves it. `start` and `end` are seconds since the epoch."""

    run: str
    attempt: str
    job: str
    rc: int
    signal: int
    nodelist: str
    start: float
    end: float


@dataclasses.dataclass(frozen=True)
class Failure:
    """Why a run failed: its class, the line that says so, what to do, the nodes to leave out next time."""

    kind: str
    evidence: str
    hint: str
    nodes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind}: {self.evidence}" if self.evidence else self.kind


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run has come, by its log. `epoch` is the one it is in, from 1; a benchmark has none."""

    step: int = 0
    steps: int | None = None
    images_per_sec: float | None = None
    epoch: int | None = None
    epochs: int | None = None
