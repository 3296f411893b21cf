"""What passes between the rooms of the control half: runs, measurements, states, and rows of CSV."""

from __future__ import annotations

import csv
import dataclasses
import datetime
import enum
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hpcjobs.base.columns import REPORT_COLUMNS, RUN_COLUMNS, swept, with_params


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

    `word` is the scheduler's own word for the state. `state` is None if hpcjobs does not know that word: then it is
    shown, and counts as neither success nor failure. `start` and `end` are in seconds since the epoch.
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
class Limits:
    """The limits of a site. None: no limit is known.

    `max_array`: tasks of one array. `max_jobs`: jobs and array tasks of the whole site. `max_submit`: jobs and array
    tasks of one user, pending and running. `own`: how many of those the user has now. `partition`: whose limits follow.
    `max_nodes`: nodes of one job. `max_time_s`: its time limit in seconds. `up`: whether the partition accepts jobs.
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figures:
    """What a log, a run, and a row of the table can all say of a training; columns.REPORT_COLUMNS has the units.

    What is not known is None, or empty.
    """

    epoch_s: float | None = None
    time_to_train_s: float | None = None
    time_to_train_kind: str = ""
    eval_s: float | None = None
    auc_split: str = ""
    input_wait_ms: float | None = None
    allreduce_ms: float | None = None
    skew_ms: float | None = None
    compute_ms: float | None = None
    slowest_rank_ms: float | None = None
    slowest_node: str = ""
    slow_node_ms: float | None = None
    gradient_bytes: float | None = None
    precision: str = ""

    def figures(self) -> dict[str, Any]:
        """These, by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(Figures)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurement(Figures):
    """What one run's log says of its training; columns.REPORT_COLUMNS and RUN_COLUMNS have the units.

    `first_step_at` is seconds since the epoch. What a log does not say is None.
    """

    gpus: int
    local_batch: int
    global_batch: int
    images_per_sec: float
    step_ms: float
    windows: int
    outlier_windows: int = 0
    first_step_at: float | None = None
    mean_auc: float | None = None
    hosts: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Point(Figures):
    """What a run and a row of the scaling table both say; columns.REPORT_COLUMNS has the units."""

    experiment: str
    params: str
    gpus: int
    nodes: int | None
    gpus_per_node: int | None
    local_batch: int | None
    global_batch: int | None
    images_per_sec: float | None = None
    step_ms: float | None = None
    startup_s: float | None = None
    mean_auc: float | None = None
    job_ids: str = ""
    nodelist: str = ""
    repeats_asked: int | None = None
    gpu_model: str = ""
    queue_s: float | None = None
    flags: str = ""
    software: str = ""

    @property
    def images_per_sec_per_gpu(self) -> float | None:
        """images/s over all GPUs, divided by their number."""
        return None if self.images_per_sec is None else self.images_per_sec / self.gpus

    @property
    def other_ms(self) -> float | None:
        """What is left of the step beside its measured parts; None where none is measured."""
        parts = [ms for ms in (self.input_wait_ms, self.allreduce_ms, self.skew_ms) if ms is not None]
        return self.step_ms - sum(parts) if self.step_ms is not None and parts else None

    def cells(self, columns: Iterable[str]) -> dict[str, object]:
        """The value of each of the columns, and of one param.KEY for each swept key."""
        params = {f"param.{key}": value for key, value in swept(self.params).items()}
        return {
            name: params[name] if name in params else getattr(self, name)
            for name in with_params(columns, [self.params])
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run(_Point):
    """One row of `runs.csv`: a run and its newest attempt with a measurement, or its last one.

    `start`: of that attempt, when its job script began, in seconds since the epoch.
    """

    run: str
    attempt: str
    state: RunState
    failure: str
    source: str
    start: float | None = None
    windows: int | None = None
    outlier_windows: int | None = None

    def row(self) -> dict[str, object]:
        """The run as `runs.csv` writes it, in the order of RUN_COLUMNS; `start` as UTC text."""
        begun = None
        if self.start is not None:
            begun = datetime.datetime.fromtimestamp(self.start, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {**self.cells(RUN_COLUMNS), "start": begun}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScalingRow(_Point):
    """One row of `scaling-report.csv`: a GPU count and parameter set over its repeats.

    `rates` are the images/s of each run with a measurement.
    """

    runs: int
    failed_runs: int
    rates: tuple[float, ...] = ()
    images_per_sec_low: float | None = None
    images_per_sec_high: float | None = None
    cv: float | None = None
    speedup: float | None = None
    speedup_low: float | None = None
    speedup_high: float | None = None
    efficiency: float | None = None
    efficiency_low: float | None = None
    efficiency_high: float | None = None
    baseline_gpus: int | None = None
    scaling: str = ""
    predicted_images_per_sec: float | None = None
    nodes_distinct: int | None = None
    lost_ms: float | None = None
    lost_input_ms: float | None = None
    lost_allreduce_ms: float | None = None
    lost_skew_ms: float | None = None
    lost_compute_ms: float | None = None
    lost_other_ms: float | None = None

    @property
    def series(self) -> tuple[str, str, str, int | None]:
        """What the row may be compared within: experiment, params, kind of scaling, and the batch that is fixed."""
        fixed = {"weak": self.local_batch, "strong": self.global_batch}
        return self.experiment, self.params, self.scaling, fixed.get(self.scaling)

    def share(self, part: str) -> float | None:
        """`lost_PART_ms`, or `lost_ms` of "", in per cent of the step."""
        lost: float | None = getattr(self, f"lost_{part}_ms" if part else "lost_ms")
        return None if lost is None or not self.step_ms else 100 * lost / self.step_ms

    def row(self) -> dict[str, object]:
        """The row as `scaling-report.csv` writes it, in the order of REPORT_COLUMNS."""
        shares = {f"lost_{part}_pct" if part else "lost_pct": part for part in ("", *LOSSES)}
        found = self.cells(name for name in REPORT_COLUMNS if name not in shares)
        found |= {name: self.share(part) for name, part in shares.items()}
        return {name: found[name] for name in with_params(REPORT_COLUMNS, [self.params])}


# The parts that lost_ms is the sum of.
LOSSES = ("input", "allreduce", "skew", "compute", "other")


def to_csv(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> str:
    """CSV with a header; an unknown figure is an empty field, a float has six significant digits."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(row.get(column)) for column in columns])
    return out.getvalue()


def _cell(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        return f"{value:.6g}" if isinstance(value, float) else str(value)
    # A carriage return or a NUL within a field ends it for some readers of CSV, and spreadsheets run a formula.
    text = " ".join(value.replace("\0", " ").splitlines())
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t")) else text
