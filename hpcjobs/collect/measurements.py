"""What a log says of a training or of a collective, before it becomes a row of a table."""

from __future__ import annotations

import dataclasses

from hpcjobs.base.metrics import Figures


@dataclasses.dataclass(frozen=True)
class Problem:
    """Something in a log that cannot be read, or that it does not say.

    `line` counts from 1; 0 is no line: the whole file, or what no line says. `run` is the line at which the run begins
    that this is about, 0 if it is about none.
    """

    path: str
    line: int
    reason: str
    run: int = 0

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.reason}" if self.line else f"{self.path}: {self.reason}"


@dataclasses.dataclass(frozen=True)
class SteadyRate:
    """The steady state of a run's windows: their rate, and how far single windows lie from it.

    `rate` is work divided by time, so a longer window weighs more, and `sd` is the standard deviation of the single
    windows' rates. Both are over all GPUs, in the run's unit a second if the log gives batch and GPUs (for Keras: in
    steps a second). By `rule`, the first `warmup` windows are left out and `windows` are counted. `outliers` of the
    counted ones lie far from their median; they count all the same. A window is `lines` lines of the log, more than
    one only if there are too many lines to keep each.
    """

    rate: float
    sd: float | None
    windows: int
    warmup: int
    outliers: int
    lines: int
    rule: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Throughput(Figures):
    """One training run, as its log describes it. What the log does not say is None or empty, and named in `missing`.

    `throughput` is the total over all GPUs, in `unit` a second; `figure` names the figure of the log that it is.
    If the log gives the rate of one GPU but not the number of GPUs, `per_gpu` alone is set. `gpus` counts GPUs, or
    ranks if `device` is cpu; `gpus_from` is log or option, whichever gave it. `sd` is the standard deviation of single
    windows' totals. Names end in their unit of time.
    """

    source: str
    line: int
    format: str
    figure: str
    throughput: float | None = None
    per_gpu: float | None = None
    sd: float | None = None
    gpus: int | None = None
    gpus_from: str = ""
    nodes: int | None = None
    local_batch: int | None = None
    global_batch: int | None = None
    step_ms: float | None = None
    steady: SteadyRate | None = None
    device: str = ""
    gpu_model: str = ""
    model: str = ""
    run: str = ""
    params: str = ""
    first_step_at: float | None = None
    hosts: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bandwidth:
    """One line of a table of nccl-tests or of the OSU micro-benchmarks.

    `size` in bytes (None: a barrier), `time_us` in microseconds; `algbw` and `busbw` in GB/s (10^9 bytes a second):
    the rate that a rank sees, and the rate on the wires, as nccl-tests define them. `in_place` is None if the table
    does not say it. `ranks` and `nodes` are None if the log does not say them. `op` is the operation in the words of
    MPI and NCCL (all_reduce, bandwidth, latency, ...), empty if the log does not say it.
    """

    source: str
    line: int
    format: str
    op: str
    size: int | None = None
    time_us: float | None = None
    algbw: float | None = None
    busbw: float | None = None
    in_place: bool | None = None
    dtype: str = ""
    redop: str = ""
    root: int | None = None
    wrong: int | None = None
    min_us: float | None = None
    max_us: float | None = None
    ranks: int | None = None
    nodes: int | None = None
    gpu_model: str = ""
    device: str = ""
    missing: tuple[str, ...] = ()


Measured = Throughput | Bandwidth


@dataclasses.dataclass(frozen=True)
class LogResult:
    """Everything that was read from one log, as the format `format`; empty if no format was recognized."""

    path: str
    format: str
    measurements: tuple[Measured, ...] = ()
    problems: tuple[Problem, ...] = ()
