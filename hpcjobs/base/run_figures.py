"""What is known of a run: a row of runs.csv. What a row of the scaling table knows, too, stands in Point."""

from __future__ import annotations

import dataclasses
from dataclasses import field

from hpcjobs.base.log_figures import Figures
from hpcjobs.base.records import RunState
from hpcjobs.base.tabular import Combine, derived, metric, metrics_of, param_column, swept, with_params

# input_wait_ms is not what a step loses.
FLAG_LOADER = "loader_time_only"
MEASURED_COMMAND = "measured_command"  # the time_to_train_kind of a command, which is timed whole


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point(Figures):
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
        default="",
        metadata=metric(
            "names of the nodes, with spaces between them; more than 16 in Slurm's short form, such as n[001-512]",
            "",
            Combine.HOSTS,
        ),
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
        "empty if control blocks measured none of these three",
        "ms",
    )
    def other_ms(self) -> float | None:
        """What is left of the step beside its measured parts; None where none is measured."""
        parts = [ms for ms in (self.input_lost_ms, self.allreduce_ms, self.skew_ms) if ms is not None]
        return self.step_ms - sum(parts) if self.step_ms is not None and parts else None

    @property
    def input_lost_ms(self) -> float | None:
        """What a step loses to input; None if only the time in the loader is known, in which a device may compute."""
        return None if FLAG_LOADER in self.flags.split() else self.input_wait_ms

    def row(self) -> dict[str, object]:
        """The values as CSV and JSON have them, in the order of the columns, with one param.KEY per swept key."""
        columns = metrics_of(type(self))
        found = {name: about.written(getattr(self, name)) for name, about in columns.items()}
        found |= {param_column(key): value for key, value in swept(self.params).items()}
        return {name: found[name] for name in with_params(columns, [self.params])}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run(Point):
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
