"""The one metric table: what is known of a run, and of a row of the scaling table. Each column is one field.

A field's metadata give its unit, its meaning, how the runs of a row combine in it, and where it is shown. runs.csv,
scaling-report.csv, their reader, the scaling table and docs/reference/columns.md come from them. A new metric is a
field here (in Figures if a log gives it, else in _Point, Run or ScalingRow), the code that measures it, and a test.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import field
from typing import Any, NamedTuple

from hpcjobs.base.records import RunState
from hpcjobs.base.tabular import Combine, Derived, Metric, derived, metric, metrics_of, param_column, swept, with_params

MEASURED_COMMAND = "measured_command"  # the time_to_train_kind of a command, which is timed whole


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figures:
    """What a log says of a training, and its run and its row too. What is not known is None, or empty."""

    epoch_s: float | None = field(default=None, metadata=metric("one pass over the training data", "s", Combine.MEAN))
    time_to_train_s: float | None = field(
        default=None, metadata=metric("the whole training without its start-up", "s", Combine.MEAN)
    )
    time_to_train_kind: str = field(
        default="",
        metadata=metric(
            "how time_to_train_s is known: measured_to_target, measured_fixed_epochs, derived_fixed_epochs "
            "(epochs x epoch_s), or measured_command (the whole command, its start-up included)",
            combine=Combine.WORDS,
        ),
    )
    eval_s: float | None = field(default=None, metadata=metric("one evaluation", "s", Combine.MEAN))
    score: float | None = field(
        default=None,
        metadata=metric(
            "how good the trained model is, as its log says; score_name says what is scored",
            combine=Combine.MEAN,
            heading="{score_name}",
            form=".3f",
        ),
    )
    score_name: str = field(
        default="",
        metadata=metric(
            "what score is, and of which part of the data: accuracy, accuracy (test), loss, ...", combine=Combine.TEXTS
        ),
    )
    input_wait_ms: float | None = field(
        default=None, metadata=metric("part of a step that waits for input", "ms", Combine.MEAN)
    )
    allreduce_ms: float | None = field(
        default=None, metadata=metric("part of a step in all-reduce that no computing hides", "ms", Combine.MEAN)
    )
    skew_ms: float | None = field(
        default=None, metadata=metric("part of a step that waits for the slowest rank", "ms", Combine.MEAN)
    )
    compute_ms: float | None = field(
        default=None,
        metadata=metric(
            "part of a step in which a typical rank computes, without input and all-reduce: median over steps, ranks "
            "and nodes",
            "ms",
            Combine.MEAN,
        ),
    )
    slowest_rank_ms: float | None = field(
        default=None,
        metadata=metric("the same part of a step on the slowest rank, mean over steps", "ms", Combine.MEAN),
    )
    slowest_node: str = field(
        default="",
        metadata=metric(
            "the node whose ranks compute longest; known only of runs on two nodes or more that took the step apart",
            combine=Combine.SLOWEST_NODE,
        ),
    )
    slow_node_ms: float | None = field(
        default=None,
        metadata=metric(
            "time by which the ranks of slowest_node compute longer than those of the other nodes (medians); part of "
            "lost_skew_ms",
            "ms",
            Combine.SLOWEST_NODE,
        ),
    )
    gradient_bytes: float | None = field(
        default=None, metadata=metric("size of one step's gradients, which all-reduce sums", "bytes", Combine.MEAN)
    )
    precision: str = field(
        default="",
        metadata=metric(
            "float32, mixed_float16 or mixed_bfloat16, as the log says it",
            combine=Combine.WORDS,
        ),
    )

    unit: str = field(
        default="",
        metadata=metric(
            "what the batches and throughput count: samples, sequences, tokens, steps, ...; empty if it is not known",
            combine=Combine.SAME,
            since="0.2",
        ),
    )

    flops_per_unit: float | None = field(
        default=None,
        metadata=metric(
            "floating-point operations of the model for one unit, forward and backward, without those of recomputation",
            "FLOP",
            Combine.MEAN,
            since="0.2",
        ),
    )
    flops_precision: str = field(
        default="",
        metadata=metric(
            "in what matrix products are computed, as the log or the experiment says it: fp32, tf32, fp16, bf16, fp8",
            combine=Combine.WORDS,
            since="0.2",
        ),
    )

    def figures(self) -> dict[str, Any]:
        """These, by name."""
        return {each.name: getattr(self, each.name) for each in dataclasses.fields(Figures)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurement(Figures):
    """What one run's log says of its training. Fields that Run has too mean the same.

    `first_step_at` is the end of the first training step in seconds since the epoch. What a log does not say is None.
    """

    gpus: int
    throughput: float
    local_batch: int | None = None
    global_batch: int | None = None
    step_ms: float | None = None
    windows: int | None = None
    outlier_windows: int | None = None
    first_step_at: float | None = None
    hosts: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Point(Figures):
    """What is known of a run and of a row of the scaling table alike."""

    experiment: str = field(metadata=metric("name of the experiment", combine=Combine.SAME))
    params: str = field(
        metadata=metric("swept keys and their values, k=v;k=v, sorted; empty if none is swept", combine=Combine.SAME)
    )
    gpus: int = field(
        metadata=metric("GPUs (ranks) on all nodes together", combine=Combine.SAME, heading="gpus", form="d")
    )
    nodes: int | None = field(metadata=metric("nodes", combine=Combine.SAME, heading="nodes", form="d"))
    gpus_per_node: int | None = field(
        metadata=metric("GPUs (ranks) on each node; on the fullest if they differ", combine=Combine.SAME)
    )
    local_batch: int | None = field(metadata=metric("`unit` per GPU and step", combine=Combine.SAME, form="d"))
    global_batch: int | None = field(metadata=metric("`unit` of all GPUs per step", combine=Combine.SAME))
    throughput: float | None = field(
        default=None,
        metadata=metric(
            "`unit` per second of all GPUs in the steady state",
            "unit/s",
            Combine.MEAN,
            heading="{unit}/s",
            form=".1f",
        ),
    )
    step_ms: float | None = field(
        default=None,
        metadata=metric("one training step in the steady state", "ms", Combine.MEAN, heading="step ms", form=".1f"),
    )
    startup_s: float | None = field(
        default=None,
        metadata=metric("time from the job's start to the end of the first training step", "s", Combine.MEAN),
    )
    job_ids: str = field(
        default="", metadata=metric("the scheduler's ids of the jobs, with spaces between them", "", Combine.ALL_WORDS)
    )
    nodelist: str = field(
        default="", metadata=metric("names of the nodes, with spaces between them", "", Combine.ALL_WORDS)
    )
    repeats_asked: int | None = field(
        default=None, metadata=metric("runs that the sweep plans for each row", combine=Combine.LARGEST)
    )
    gpu_model: str = field(
        default="", metadata=metric("models of the nodes' GPUs, as nvidia-smi names them", combine=Combine.TEXTS)
    )
    queue_s: float | None = field(
        default=None,
        metadata=metric("time from the job's submission to its start; not known of a requeued job", "s", Combine.MEAN),
    )
    flags: str = field(
        default="",
        metadata=metric(
            "what to know before trusting the row: words of the list below, with spaces between them",
            combine=Combine.ALL_WORDS,
        ),
    )
    software: str = field(
        default="",
        metadata=metric(
            "versions of the software on the nodes, NAME VERSION with commas between them", combine=Combine.TEXTS
        ),
    )

    gpu_hours: float | None = field(
        default=None,
        metadata=metric(
            "GPUs that the attempts of the run kept from other jobs (all GPUs of exclusive nodes, idle ones too) x the "
            "time from an attempt's start to its end; empty while one runs, and if one left no exit.json",
            "GPU-hours",
            Combine.SUM,
            since="0.2",
        ),
    )

    energy_per_unit_j: float | None = field(
        default=None,
        metadata=metric(
            "energy of all GPUs for one unit, over the timed windows; empty unless each GPU of the run was sampled",
            "J",
            Combine.MEAN,
            since="0.2",
        ),
    )
    gpu_power_w: float | None = field(
        default=None,
        metadata=metric("power of one GPU in the timed windows, mean over GPUs", "W", Combine.MEAN, since="0.2"),
    )
    energy_source: str = field(
        default="",
        metadata=metric(
            "how they are known: counter (the GPUs' energy counters) or power (samples of power, integrated)",
            combine=Combine.WORDS,
            since="0.2",
        ),
    )
    node_energy_kwh: float | None = field(
        default=None,
        metadata=metric(
            "energy of the run's nodes, as Slurm counts it for the step (ConsumedEnergy); of exclusive nodes only",
            "kWh",
            Combine.MEAN,
            since="0.2",
        ),
    )
    node_energy_plugin: str = field(
        default="",
        metadata=metric(
            "the plugin of Slurm that measured it (AcctGatherEnergyType)", combine=Combine.WORDS, since="0.2"
        ),
    )
    mfu: float | None = field(
        default=None,
        metadata=metric(
            "model FLOPs utilisation: flops_per_unit x throughput / (gpus x the GPU's dense peak in flops_precision); "
            "empty for a GPU or a precision that hpcjobs' table does not have",
            "fraction",
            Combine.MEAN,
            since="0.2",
        ),
    )
    transport: str = field(
        default="",
        metadata=metric(
            "how NCCL connects the GPUs, by its own log; of a command that of rank 0 alone",
            combine=Combine.TEXTS,
            since="0.2",
        ),
    )

    @property
    def group(self) -> tuple[str, str, str]:
        """Experiment, params and unit: points that differ in one of them are never averaged or compared."""
        return self.experiment, self.params, self.unit

    @derived("throughput / gpus", "unit/s")
    def throughput_per_gpu(self) -> float | None:
        """Throughput of all GPUs, divided by their number."""
        return None if self.throughput is None else self.throughput / self.gpus

    @derived(
        "part of a step that computes, or that nothing explains: step_ms - input_wait_ms - allreduce_ms - skew_ms; "
        "empty if none of these three is measured",
        "ms",
    )
    def other_ms(self) -> float | None:
        """What is left of the step beside its measured parts; None where none is measured."""
        parts = [ms for ms in (self.input_wait_ms, self.allreduce_ms, self.skew_ms) if ms is not None]
        return self.step_ms - sum(parts) if self.step_ms is not None and parts else None

    def row(self) -> dict[str, object]:
        """The values as CSV and JSON have them, in the order of the columns, with one param.KEY per swept key."""
        columns = metrics_of(type(self))
        found = {name: about.written(getattr(self, name)) for name, about in columns.items()}
        found |= {param_column(key): value for key, value in swept(self.params).items()}
        return {name: found[name] for name in with_params(columns, [self.params])}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run(_Point):
    """One row of `runs.csv`: a run and its newest attempt with a measurement, or its last one."""

    run: str = field(metadata=metric("name of the run"))
    attempt: str = field(metadata=metric("its newest attempt with a measurement, or its last one"))
    state: RunState = field(metadata=metric("planned, submitting, pending, running, done, failed, cancelled or lost"))
    failure: str = field(
        metadata=metric("why it failed, CLASS: the line that says so; or what is wrong with its files")
    )
    source: str = field(metadata=metric("path of the log, relative to the sweep's folder"))
    start: float | None = field(
        default=None, metadata=metric("when the attempt's job script began, UTC, ISO 8601", is_time=True)
    )
    windows: int | None = field(
        default=None, metadata=metric("timed windows of the steady state: all after the warm-up, outliers too")
    )
    outlier_windows: int | None = field(
        default=None,
        metadata=metric(
            "windows that differ from the median by more than 3 scaled median absolute deviations and more than 1 %"
        ),
    )

    @property
    def measured(self) -> bool:
        """Whether it has a rate, or ended well and none was asked for."""
        unasked = self.state is RunState.DONE and self.time_to_train_kind == MEASURED_COMMAND
        return self.throughput is not None or unasked


def _share_of(part: str) -> Callable[[ScalingRow], float | None]:
    return lambda row: row.share(part)


def _of_step(part: str) -> Metric:
    return Metric(f"lost_{part}ms / step_ms", "per cent")


class Series(NamedTuple):
    """What distinguishes rows that may be compared: experiment, params, unit, kind of scaling, and the fixed batch.

    `scaling` is empty and `batch` None for sizes whose batch is not known: they are compared with each other.
    """

    experiment: str
    params: str
    unit: str
    scaling: str
    batch: int | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScalingRow(_Point):
    """One row of `scaling-report.csv`: a GPU count and parameter set over its repeats.

    `rates` are the throughputs of the runs with a measurement.
    """

    rates: tuple[float, ...] = ()
    runs: int = field(
        metadata=metric("runs with a measurement, or of which none was asked for", heading="runs", form="d")
    )
    failed_runs: int = field(metadata=metric("runs without a measurement", heading="failed", form="d"))
    throughput_low: float | None = field(
        default=None,
        metadata=metric(
            "lower end of the 95 % interval of throughput (Student, over runs); empty for fewer than two runs",
            "unit/s",
        ),
    )
    throughput_high: float | None = field(default=None, metadata=metric("upper end of that interval", "unit/s"))
    cv: float | None = field(
        default=None,
        metadata=metric("coefficient of variation of throughput over runs; empty for fewer than two runs", "fraction"),
    )
    speedup: float | None = field(
        default=None,
        metadata=metric(
            "throughput divided by that of the base, which is the smallest measured size of the same params and "
            "kind of scaling, or the one that --baseline names",
            heading="speed-up",
            form=".2f",
        ),
    )
    speedup_low: float | None = field(
        default=None,
        metadata=metric(
            "lower end of the 95 % interval of speedup (Welch, on the logarithm of throughput); empty for the "
            "base, and if the row or the base has fewer than two runs"
        ),
    )
    speedup_high: float | None = field(default=None, metadata=metric("upper end of that interval"))
    efficiency: float | None = field(
        default=None,
        metadata=metric("speedup x baseline_gpus / gpus", "fraction", heading="efficiency", form=".1%"),
    )
    efficiency_low: float | None = field(
        default=None,
        metadata=metric("lower end of the 95 % interval of efficiency; empty where speedup_low is", "fraction"),
    )
    efficiency_high: float | None = field(default=None, metadata=metric("upper end of that interval", "fraction"))
    baseline_gpus: int | None = field(
        default=None, metadata=metric("GPUs of the base, which speedup and efficiency compare with")
    )
    scaling: str = field(
        default="",
        metadata=metric(
            "weak (sizes share local_batch), strong (they share global_batch) or mixed (neither: the row is compared "
            "with nothing); empty for a single size or an unknown batch"
        ),
    )
    predicted_throughput: float | None = field(
        default=None, metadata=metric("throughput by the fitted model; empty if none is fitted", "unit/s")
    )
    nodes_distinct: int | None = field(
        default=None, metadata=metric("number of different nodes on which the measured runs ran")
    )
    lost_ms: float | None = field(
        default=None,
        metadata=metric(
            "part of a step beyond what the base would take for as much work per GPU: step_ms x (1 - efficiency). "
            "It is the sum of the next five; a part is empty unless it is measured both here and at the base",
            "ms",
        ),
    )
    lost_input_ms: float | None = field(
        default=None, metadata=metric("of lost_ms: the row waits longer for input than the base", "ms")
    )
    lost_allreduce_ms: float | None = field(
        default=None, metadata=metric("of lost_ms: all-reduce that no computing hides takes longer", "ms")
    )
    lost_skew_ms: float | None = field(
        default=None, metadata=metric("of lost_ms: a typical rank waits longer for the slowest rank", "ms")
    )
    lost_compute_ms: float | None = field(
        default=None, metadata=metric("of lost_ms: a typical rank computes longer", "ms")
    )
    lost_other_ms: float | None = field(
        default=None, metadata=metric("of lost_ms: what the parts do not explain", "ms")
    )

    lost_pct = Derived(_share_of(""), _of_step(""))
    lost_input_pct = Derived(_share_of("input"), _of_step("input_"))
    lost_allreduce_pct = Derived(_share_of("allreduce"), _of_step("allreduce_"))
    lost_skew_pct = Derived(_share_of("skew"), _of_step("skew_"))
    lost_compute_pct = Derived(_share_of("compute"), _of_step("compute_"))
    lost_other_pct = Derived(_share_of("other"), _of_step("other_"))

    @property
    def series(self) -> Series:
        """What the row may be compared within."""
        fixed = {"weak": self.local_batch, "strong": self.global_batch}
        return Series(self.experiment, self.params, self.unit, self.scaling, fixed.get(self.scaling))

    def share(self, part: str) -> float | None:
        """`lost_PART_ms`, or `lost_ms` of "", in per cent of the step."""
        lost: float | None = getattr(self, f"lost_{part}_ms" if part else "lost_ms")
        return None if lost is None or not self.step_ms else 100 * lost / self.step_ms


# The parts that lost_ms is the sum of.
LOSSES = ("input", "allreduce", "skew", "compute", "other")
