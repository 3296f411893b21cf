"""What passes between the rooms of the control half: runs, measurements, states, the CSV columns."""

from __future__ import annotations

import csv
import dataclasses
import enum
import io
from collections.abc import Iterable, Mapping, Sequence


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
    however it is, of the jobs `after`; the nodes `exclude` are none of its own.
    """

    arguments: tuple[str, ...] = ()
    throttle: int | None = None
    after: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a site allows; None is no limit known. `max_array` is the number of tasks of one array."""

    max_array: int | None = None
    max_jobs: int | None = None


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
    """How far a run has come, by its log."""

    step: int = 0
    steps: int | None = None
    images_per_sec: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurement:
    """What one run's log says of its training. Times in seconds or milliseconds as named."""

    gpus: int
    local_batch: int
    global_batch: int
    images_per_sec: float
    step_ms: float
    windows: int
    epoch_s: float | None = None
    time_to_train_s: float | None = None
    time_to_train_kind: str = ""
    first_step_at: float | None = None
    eval_s: float | None = None
    mean_auc: float | None = None
    input_wait_ms: float | None = None
    allreduce_ms: float | None = None
    skew_ms: float | None = None
    hosts: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Point:
    """What a run and a row of the scaling table both say; REPORT_COLUMNS has the units."""

    experiment: str
    params: str
    gpus: int
    nodes: int
    gpus_per_node: int
    local_batch: int
    global_batch: int
    images_per_sec: float | None = None
    step_ms: float | None = None
    input_wait_ms: float | None = None
    allreduce_ms: float | None = None
    epoch_s: float | None = None
    time_to_train_s: float | None = None
    time_to_train_kind: str = ""
    startup_s: float | None = None
    eval_s: float | None = None
    mean_auc: float | None = None
    job_ids: str = ""
    nodelist: str = ""
    skew_ms: float | None = None
    flags: str = ""

    @property
    def images_per_sec_per_gpu(self) -> float | None:
        """images/s over all GPUs, divided by their number."""
        return None if self.images_per_sec is None else self.images_per_sec / self.gpus


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run(_Point):
    """One row of `runs.csv`: a run and its newest attempt with a measurement, or its last one."""

    run: str
    attempt: str
    state: RunState
    failure: str
    source: str
    # Of the attempt that counts: when its job script began, in seconds since the epoch.
    start: float | None = None

    def row(self) -> dict[str, object]:
        """The run as `runs.csv` writes it, in the order of RUN_COLUMNS."""
        return {name: getattr(self, name) for name in RUN_COLUMNS}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScalingRow(_Point):
    """One row of `scaling-report.csv`: a GPU count and parameter set over its repeats."""

    runs: int
    failed_runs: int
    images_per_sec_low: float | None = None
    images_per_sec_high: float | None = None
    speedup: float | None = None
    efficiency: float | None = None
    predicted_images_per_sec: float | None = None

    def row(self) -> dict[str, object]:
        """The row as `scaling-report.csv` writes it, in the order of REPORT_COLUMNS."""
        return {name: getattr(self, name) for name in REPORT_COLUMNS}


# Columns of scaling-report.csv in their order, and what each holds. Other tools read these names.
REPORT_COLUMNS: Mapping[str, str] = {
    "experiment": "name of the experiment",
    "params": "swept keys of this row, k=v;k=v, sorted; empty where none is swept",
    "gpus": "GPUs (ranks) over all nodes",
    "nodes": "nodes",
    "gpus_per_node": "GPUs (ranks) on each node",
    "local_batch": "images per GPU and step",
    "global_batch": "images over all GPUs and step",
    "runs": "runs with a measurement",
    "failed_runs": "runs without one",
    "images_per_sec": "images/s over all GPUs in the steady state, mean over runs",
    "images_per_sec_low": "images/s, lower end of Student's 95 % interval over runs; empty below two",
    "images_per_sec_high": "images/s, its upper end",
    "images_per_sec_per_gpu": "images/s and GPU",
    "speedup": "images_per_sec over that of the smallest measured size of the same params",
    "efficiency": "speedup x base GPUs / gpus, a fraction",
    "step_ms": "ms of one training step in the steady state",
    "input_wait_ms": "ms of a step spent waiting for input; empty where not measured",
    "allreduce_ms": "ms of a step spent in exposed all-reduce; empty where not measured",
    "epoch_s": "s of one pass over the training images",
    "time_to_train_s": "s of the whole training, start-up apart",
    "time_to_train_kind": "measured_to_target, measured_fixed_epochs or derived_fixed_epochs",
    "startup_s": "s from the job's start to the end of the first training step",
    "eval_s": "s of one evaluation",
    "mean_auc": "area under the ROC curve, mean over the findings that have one, of the validation split",
    "predicted_images_per_sec": "images/s by the fitted model; empty where none is fitted",
    "job_ids": "scheduler's ids of the runs, space-separated",
    "nodelist": "nodes that the runs used, expanded, space-separated",
    "skew_ms": "ms of a step spent waiting for the slowest rank; empty where not measured",
    "flags": "what to know before trusting the row, space-separated; "
    "shared_nodes: other jobs may have run beside; oversubscribed: more ranks than CPUs for them; "
    "short_warmup: fewer steps of warm-up than the experiment asks for; "
    "warmup_unsettled: a benchmark whose step times did not settle; "
    "precision_not_reached: a benchmark that ended at its limit of steps; "
    "throttled: a GPU was slowed by heat or its power supply; power_capped: a GPU stood at its power cap most of "
    "the time; ecc_errors: memory errors that ECC could not mend; foreign_processes: another job used a GPU; "
    "time_size_confounded: runs of one size began before those of another, so that a drift in time looks like scaling",
}

# Columns of runs.csv: who the run is, then the same per-run columns.
RUN_COLUMNS: tuple[str, ...] = (
    "run",
    "attempt",
    "state",
    "failure",
    "source",
    *(
        name
        for name in REPORT_COLUMNS
        if name not in {"runs", "failed_runs", "speedup", "efficiency", "predicted_images_per_sec"}
        and not name.endswith(("_low", "_high"))
    ),
)

FLAG_SHARED = "shared_nodes"
FLAG_OVERSUBSCRIBED = "oversubscribed"
FLAG_SHORT_WARMUP = "short_warmup"
FLAG_UNSETTLED = "warmup_unsettled"
FLAG_IMPRECISE = "precision_not_reached"
FLAG_CONFOUNDED = "time_size_confounded"


def to_csv(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> str:
    """CSV with a header; an unknown figure is an empty field, a float has six significant digits."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(row[column]) for column in columns])
    return out.getvalue()


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
