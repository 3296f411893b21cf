"""What anyone's log says of a training or of a collective, before it becomes a row of a table."""

from __future__ import annotations

import dataclasses

from hpcjobs.base.metrics import Figures


@dataclasses.dataclass(frozen=True)
class Problem:
    """What of a log could not be read or is not said in it. `line` counts from 1; 0: the file as a whole."""

    path: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.reason}" if self.line else f"{self.path}: {self.reason}"


@dataclasses.dataclass(frozen=True)
class SteadyRate:
    """The steady state of a run's windows: their rate, and how far single windows lie from it.

    `rate` is work over time, so a longer window weighs more; `sd` is the standard deviation of the single
    windows' rates, both over all GPUs in the run's unit a second, as far as the log says batch and GPUs (of Keras:
    steps a second). `windows` of them count, `warmup` before them do not, by
    `rule`. `outliers` of the counted ones lie far from their median; they count all the same. A window is
    `lines` of the log's lines: more than one only where there are too many to keep apart.
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
    """One training run, by its log. What the log does not say is None or empty, and named in `missing`.

    `images_per_sec` is the total over all GPUs, in `unit` (images, sequences, samples, ...) a second; `figure` says
    which of the log's figures it is. Where the log gives only one GPU's rate and not the number of GPUs, the rate is
    `per_gpu` alone. `gpus` counts GPUs, or ranks where `device` is cpu; `gpus_from` is log or option. `sd` is the
    standard deviation of single windows' totals. Times are in seconds or milliseconds as named.
    """

    source: str
    line: int
    format: str
    figure: str
    images_per_sec: float | None = None
    per_gpu: float | None = None
    sd: float | None = None
    unit: str = "images"
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
    accuracy: float | None = None
    hosts: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bandwidth:
    """One line of a table of nccl-tests or of the OSU micro-benchmarks.

    `size` in bytes (None: a barrier), `time_us` in microseconds; `algbw` and `busbw` in GB/s (10^9 bytes a second):
    what a rank sees, and what the wires carry, as nccl-tests define them. `in_place` is None where the table does
    not tell the two apart. `ranks` and `nodes` are None where the log does not say them. `op` is the operation in
    the words of MPI and NCCL (all_reduce, bandwidth, latency, ...), empty where the log does not say it.
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
    """All that one log gave: `format` is the one it was read as, empty where none was found."""

    path: str
    format: str
    measurements: tuple[Measured, ...] = ()
    problems: tuple[Problem, ...] = ()
