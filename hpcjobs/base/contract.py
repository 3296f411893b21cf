"""What the control half (login node) and the compute half (nodes) both must know.

The halves meet in the files of a run folder and nowhere else. This module defines what any run has:
file names, keys of `run.yaml`, log events, exit and error codes. Standard library and yaml only.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

RUN_YAML_VERSION = 1

# Files of a run folder (run.yaml, checkpoints/) and of an attempt folder (the rest).
RUN_YAML = "run.yaml"
CHECKPOINTS = "checkpoints"
CLAIM = "claim"
JOB_LOG = "job.log"
TRAIN_LOG = "train.log"
EXIT_JSON = "exit.json"

# Columns of nvml-HOST.csv, which has a line per GPU and second. time: seconds since the epoch; gpu: the driver's index;
# power in W; throttle_bits: hexadecimal, the bits of THROTTLE_REASONS; throttle: their names; ecc_uncorrected: errors
# since the driver was loaded; foreign_pids: processes on the GPU that do not belong to the run, or `none`; energy_mj:
# mJ since the driver was loaded; pcie_*: kB/s in the last 20 ms; nvlink_*: KiB since the driver was loaded, over all
# links. A field that is not known is empty. NVML_COLUMNS_0_1 are those of version 0.1.
NVML_COLUMNS: tuple[str, ...] = (
    *("time", "gpu", "uuid", "sm_mhz", "memory_mhz", "power_w", "power_cap_w", "temperature_c"),
    *("throttle_bits", "throttle", "ecc_uncorrected", "foreign_pids"),
    *("energy_mj", "pcie_tx_kb_s", "pcie_rx_kb_s", "nvlink_tx_kib", "nvlink_rx_kib", "vendor"),
)
NVML_COLUMNS_0_1 = NVML_COLUMNS[:12]

# Columns of cgroup-HOST.csv, which has a line per second: what the job's control group on a node has used. cpu_s: CPU
# time; throttled_s: time without CPU because of a quota; cpu_wait_s: time in which some task waited for a CPU, of
# version 2 alone; memory_mib: with the page cache of its files, file_mib; peak_mib: the most so far.
CGROUP_COLUMNS: tuple[str, ...] = (
    *("time", "cpu_s", "throttled_s", "cpu_wait_s", "memory_mib", "file_mib", "peak_mib", "limit_mib"),
)

# Why a GPU's clocks are below their maximum: the bits nvmlClocksThrottleReason* of NVIDIA's nvml.h.
THROTTLE_REASONS: Mapping[str, int] = {
    "gpu_idle": 0x1,
    "applications_clocks": 0x2,
    "sw_power_cap": 0x4,
    "hw_slowdown": 0x8,
    "sync_boost": 0x10,
    "sw_thermal": 0x20,
    "hw_thermal": 0x40,
    "hw_power_brake": 0x80,
    "display_clocks": 0x100,
}

# Exit code of the ranks after a signal (SIGUSR1, SIGTERM) made them write a checkpoint and stop: EX_TEMPFAIL of
# sysexits.h. The same command, run again, continues from that checkpoint.
EXIT_INTERRUPTED = 75

# The remedy if TensorFlow or Horovod is missing. A plain `pip install` may build a Horovod without MPI, Gloo and NCCL.
INSTALL_COMPUTE = "install the compute half: `uv sync --extra train` in a checkout, or as its docs/install.md says"

# Files in the folder of a check: the login node writes the request, the compute node writes what it found.
CHECK_REQUEST = "request.json"
CHECK_NODE = "node.json"
OK, WARNING, FAILURE = "ok", "warning", "failure"


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of `hpcjobs check`. `state` is OK, WARNING or FAILURE; `remedy` says what to do about it."""

    check: str
    state: str
    message: str
    remedy: str = ""


def node_json(host: str) -> str:
    """Name of the file in which a run describes one of its nodes."""
    return f"node-{host}.json"


def nvml_csv(host: str) -> str:
    """Name of the file with samples of a node's GPUs, one per GPU and second."""
    return f"nvml-{host}.csv"


def cgroup_csv(host: str) -> str:
    """Name of the file with what the job's control group on a node uses, a line per second."""
    return f"cgroup-{host}.csv"


def sampler_txt(host: str) -> str:
    """Name of the file with the errors of a node's sampler; there is none if it had none."""
    return f"sampler-{host}.txt"


def nccl_txt(rank: int) -> str:
    """Name of the file into which NCCL logs how it connected a rank."""
    return f"nccl-r{rank:03d}.txt"


def stacks_txt(rank: int) -> str:
    """Name of the file with the stacks of a rank that stalled."""
    return f"stacks-r{rank:03d}.txt"


def abort_json(rank: int) -> str:
    """Name of the file in which a rank says why it gave up.

    Keys: code, message, nodes (the hosts that caused it, if known), rank, host, time (s since the epoch). A rank of a
    command that ends by an uncaught exception writes it if the meter is injected (inject/rank_end.py): code
    `unexpected`, and the exception's last line as message.
    """
    return f"abort-r{rank:03d}.json"


class LogKey:
    """Keys of the trainer's `:::MLLOG` lines: MLPerf's key if it has one, else `hpcjobs_*`.

    `tracked_stats` is one timed window of consecutive steps. Value: `throughput` (samples/s over all
    ranks), `step_ms`, `loss`. Metadata: `step` (the last step of the window, from 1), `steps` (number
    of steps in the window), `epoch_num` (from 1), `warmup` (true: not part of the steady state).
    """

    BENCHMARK = "submission_benchmark"
    GLOBAL_BATCH = "global_batch_size"
    SEED = "seed"
    TRAIN_SAMPLES = "train_samples"
    EVAL_SAMPLES = "eval_samples"
    OPTIMIZER = "opt_name"
    LEARNING_RATE = "opt_base_learning_rate"
    INIT_START = "init_start"
    INIT_STOP = "init_stop"
    RUN_START = "run_start"
    RUN_STOP = "run_stop"
    EPOCH_START = "epoch_start"
    EPOCH_STOP = "epoch_stop"
    EVAL_START = "eval_start"
    EVAL_STOP = "eval_stop"
    EVAL_ACCURACY = "eval_accuracy"  # the score of the model; metadata: epoch_num, split
    WINDOW = "tracked_stats"
    RUN = "hpcjobs_run"  # value: run, gpus, nodes, local_batch, global_batch, device, hosts, steps, ...
    FIRST_STEP = "hpcjobs_first_step"  # its time stamp is the end of the first training step
    TRANSPORT = "hpcjobs_transport"  # value: nccl, network, devices, transports, gpudirect; on GPUs
    CHECKPOINT = "hpcjobs_checkpoint"  # value: best (true: the highest score so far), seconds (how long writing took)
    WARMUP = "hpcjobs_warmup"  # mode benchmark; value: steps, settled (three windows agreed)
    PRECISION = "hpcjobs_precision"  # value: reached, steps, asked, half_width (a fraction, of this run alone), ...
    CONTROL = "hpcjobs_control"  # value: that of meter.attribute
    RESUMED = "hpcjobs_resumed"  # value: number of steps done in the checkpoint
    INTERRUPTED = "hpcjobs_interrupted"  # value: the signal's name; metadata: step, of which a checkpoint is written


class ErrorCode:
    """Why a rank gave up: the `code` in `abort-rNNN.json` and in the rank's last line on stderr."""

    DATA_MISSING = "data_missing"
    DATA_MISMATCH = "data_mismatch"
    DATA_TOO_SMALL = "data_too_small"
    DATA_DAMAGED = "data_damaged"
    WEIGHTS_MISSING = "weights_missing"
    DEVICE_MISSING = "device_missing"
    DEVICE_SHARED = "device_shared"
    HOST_MEMORY = "host_memory"
    DEVICE_MEMORY = "device_memory"
    HOROVOD_BUILD = "horovod_build"
    STALLED = "stalled"
    NAN_LOSS = "nan_loss"
    RUN_YAML = "run_yaml"
    UNEXPECTED = "unexpected"


# A rank that gives up prints `ERROR_PREFIX CODE: message` as one line on stderr.
ERROR_PREFIX = "hpcjobs: error:"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """`run.yaml`: everything that the compute half learns about its run. Paths are absolute.

    `params` lists the swept keys only, as `k=v;k=v`, sorted. `seed` is the experiment's seed plus
    repeat - 1. `device` is `cpu` or `gpu`, as the profile says; it is never guessed. `experiment` is
    the resolved experiment as plain nested mappings; its keys are those of its trainer. `tasks_per_node` are processes
    that the launcher starts on the fullest node, `gpus_per_node` the GPUs there; None: as many.
    """

    sweep: str
    run: str
    params: str
    repeat: int
    seed: int
    gpus: int
    nodes: int
    tasks_per_node: int
    cpus_per_task: int
    device: str
    data_dir: str
    experiment: Mapping[str, Any]
    gpus_per_node: int | None = None
    version: int = RUN_YAML_VERSION

    @property
    def local_batch(self) -> int:
        """Samples of one step on one rank."""
        return split_batch(self.experiment["batch"], self.gpus)[0]

    @property
    def global_batch(self) -> int:
        """Samples of one step over all ranks."""
        return split_batch(self.experiment["batch"], self.gpus)[1]


def split_batch(batch: Mapping[str, int | None], gpus: int) -> tuple[int, int]:
    """(local, global) batch for `gpus` ranks, from an experiment's `batch` mapping.

    Raises ValueError if the global batch does not divide by the number of ranks, or the local batch by
    `passes`.
    """
    return divide_batch(batch.get("local"), batch.get("global"), batch.get("passes") or 1, gpus)


def divide_batch(local: int | None, whole: int | None, passes: int, gpus: int) -> tuple[int, int]:
    """(local, global) batch in samples for `gpus` ranks, from a `local` batch, or else from a `whole` (global) one.

    Raises ValueError if the global batch does not divide evenly over the ranks, or the local one into its `passes`.
    """
    if local is None:
        assert whole is not None
        if whole % gpus:
            raise ValueError(f"batch.global {whole} does not divide over {gpus} GPUs")
        local = whole // gpus
    if local % passes:
        raise ValueError(f"a local batch of {local} does not divide into batch.passes {passes}")
    return local, local * gpus


def warmup_steps(experiment: Mapping[str, Any]) -> int:
    """Steps before the steady state: measure.warmup_steps, but in `mode: train` at most half of train.steps."""
    asked: int = experiment["measure"]["warmup_steps"]
    steps = experiment["train"]["steps"]
    return asked if steps is None or experiment["mode"] == "benchmark" else min(asked, steps // 2)


def dump_run(config: RunConfig) -> str:
    """The text of `run.yaml`."""
    return next(dump_runs([config]))


def dump_runs(configs: Iterable[RunConfig]) -> Iterator[str]:
    """The text of each `run.yaml` of one sweep.

    Runs of a sweep with equal `params` have equal experiments: what such runs share is serialised once.
    """
    shared: dict[tuple[object, ...], str] = {}
    for config in configs:
        about = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
        own = {name: about.pop(name) for name in ("run", "repeat", "seed")}
        key = tuple(value for name, value in about.items() if name != "experiment")
        if key not in shared:
            shared[key] = _dump(about)
        # JSON is YAML.
        yield "".join(f"{name}: {json.dumps(value)}\n" for name, value in own.items()) + shared[key]


def _dump(data: Mapping[str, Any]) -> str:
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text: str = yaml.dump(data, Dumper=dumper, sort_keys=False, allow_unicode=True)
    return text


# The lines with which `dump_runs` begins, those of one run.
_OWN = re.compile(rb'run: ("[^"\\\n]*")\nrepeat: (\d{1,9})\nseed: (\d{1,10})\n(?=sweep: )')


def _of_one_run(raw: bytes) -> dict[str, Any] | None:
    """The content of a run.yaml that is as `dump_runs` writes it; None of any other.

    To parse YAML takes a millisecond, of which a study of 20,000 runs has no more than of one of each size.
    """
    own = _OWN.match(raw)
    shared = _loaded(raw[own.end() :]) if own else None
    if own is None or not isinstance(shared, dict):
        return None
    run, repeat, seed = map(json.loads, own.groups())
    return {"run": run, "repeat": repeat, "seed": seed, **shared}


@functools.lru_cache(maxsize=64)
def _loaded(raw: bytes) -> Any:
    """The content of a YAML text, for callers that do not change it."""
    return yaml.load(raw.decode("utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


# It has some kB; to parse much more takes many seconds.
_LARGEST_RUN_YAML = 1 << 20


def load_run(path: Path) -> RunConfig:
    """Read `run.yaml`. Runs of a size whose files differ in nothing but their own lines share one `experiment`.

    Raises OSError if it cannot be read, ValueError (naming the file) if it is not a run.yaml of this version.
    """
    with path.open("rb") as file:
        raw = file.read(_LARGEST_RUN_YAML + 1)
    try:
        if len(raw) > _LARGEST_RUN_YAML:
            raise ValueError("it is larger than 1 MiB")
        data = _of_one_run(raw) or _loaded(raw)
        if not isinstance(data, dict):
            raise TypeError("not a mapping")
        if data.get("version") != RUN_YAML_VERSION:
            raise TypeError(f"version {data.get('version')!r}, expected {RUN_YAML_VERSION}")
        return RunConfig(**data)
    except (yaml.YAMLError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path}: not a run.yaml of this hpcjobs: {error}") from None
