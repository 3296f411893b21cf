"""One run from Horovod's start to its end, as one of its ranks."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import horovod
import horovod.tensorflow as hvd
import tensorflow as tf
from horovod.tensorflow import allgather_object
from mlperf_logging.mllog.mllog import MLLogger

from hpcjobs import meter
from hpcjobs.base.contract import ErrorCode, LogKey, RunConfig, warmup_steps
from hpcjobs.chexnet.data.tfrecord import patient_ids
from hpcjobs.chexnet.train import (
    agreement,
    cache,
    checkpoints,
    damage,
    device,
    evaluation,
    flops,
    gpus,
    input,
    mllog,
    model,
    rates,
    threads,
)
from hpcjobs.chexnet.train.bench import Benchmark
from hpcjobs.chexnet.train.failure import TrainError
from hpcjobs.chexnet.train.intervals import auc_intervals
from hpcjobs.chexnet.train.loop import Loop, begin
from hpcjobs.chexnet.train.ranks import together
from hpcjobs.chexnet.train.schedule import Schedule
from hpcjobs.chexnet.train.setup import Setup, prepare
from hpcjobs.chexnet.train.watchdog import Watchdog
from hpcjobs.chexnet.train.windows import Windows
from hpcjobs.nodes import node_facts

# More epochs, or steps of a repeated epoch, than any benchmark takes.
_ENDLESS = 10_000


def run(config: RunConfig | TrainError, run_folder: Path, attempt: Path) -> None:
    """Train and evaluate as `config` says, and write the attempt's files. Collective.

    Raises GivenUp if the ranks agreed that they cannot train, Interrupted if they stopped after a signal,
    TrainError if this rank alone cannot continue.
    """
    stall_s = config.experiment["train"]["stall_s"] if isinstance(config, RunConfig) else 600
    watchdog = Watchdog(attempt, stall_s)
    watchdog.start()
    agreement.catch_signals()
    try:
        _run(config, run_folder, attempt, watchdog)
    finally:
        watchdog.stop()


def end() -> int:
    """Shut Horovod down; returns this rank's number. Collective."""
    rank: int = hvd.rank()
    hvd.shutdown()
    return rank


def _run(config: RunConfig | TrainError, run_folder: Path, attempt: Path, watchdog: Watchdog) -> None:
    hvd.init()
    config, uuid = _claim_device(config)
    log = _open_log(attempt)
    setup = together(lambda: prepare(config), attempt)
    config = setup.config
    places: list[node_facts.Place] = allgather_object(node_facts.place(uuid))
    together(lambda: device.check_distinct([(one.host, one.gpu) for one in places]), attempt)
    held = hold_shards(setup, attempt)
    hosts = list(dict.fromkeys(one.host for one in places))
    here = [one for one in places if one.host == socket.gethostname()]
    if hvd.local_rank() == 0:
        node_facts.write(attempt, config, here)
    if log:
        mllog.describe(
            log,
            describe(setup, hosts),
            seed=config.seed,
            eval_images=setup.dataset.splits["val"].images,
            learning_rate=rates.peak(config.experiment["lr"], config.global_batch),
        )
    loop = None
    watched = gpus.watched(attempt, here) if config.device == "gpu" else nullcontext()
    with watched, memory_named(config.device), damage.named(setup.dataset), mllog.training(log) as outcome:
        if config.device == "gpu":
            gpus.log_transport(attempt, log)
        if config.experiment["mode"] == "benchmark":
            benchmark(setup, held, places, watchdog, log)
        else:
            loop = make_loop(setup, held, watchdog, log, run_folder, attempt)
            train(setup, loop, held)
            outcome["reached"] = loop.progress.reached
    if loop and loop.val is not None:
        with memory_named(config.device), damage.named(setup.dataset):
            test(setup, loop)
    watchdog.beat("ending")
    if log:
        watchdog.clean()


def _claim_device(config: RunConfig | TrainError) -> tuple[RunConfig | TrainError, str | None]:
    # Runs before TensorFlow's first operation, so the ranks cannot communicate yet: an error is returned, not raised.
    if isinstance(config, TrainError):
        device.hide_gpus()
        return config, None
    threads.limit_tensorflow(config.cpus_per_task)
    if config.device == "cpu":
        device.hide_gpus()
        return config, None
    try:
        return config, device.pin(hvd.local_rank(), hvd.local_size())
    except TrainError as error:
        device.hide_gpus()
        return error, None


def _open_log(attempt: Path) -> MLLogger | None:
    if hvd.rank():
        return None
    log = mllog.open_log(attempt)
    log.event(LogKey.BENCHMARK, "hpcjobs")
    log.start(LogKey.INIT_START)
    return log


def describe(setup: Setup, hosts: list[str]) -> dict[str, Any]:
    """The value of train.log's hpcjobs_run line."""
    config, plan = setup.config, setup.schedule
    mode = config.experiment["mode"]
    return {
        "run": config.run,
        "mode": mode,
        "sweep": config.sweep,
        "params": config.params,
        "gpus": config.gpus,
        "nodes": len(hosts),
        "hosts": hosts,
        "local_batch": config.local_batch,
        "global_batch": config.global_batch,
        "device": config.device,
        "precision": config.experiment["train"]["precision"],
        "tensorflow": tf.__version__,
        "horovod": horovod.__version__,
        "model": config.experiment["model"]["name"],
        "gradient_bytes": setup.step.gradient_bytes,
        "flops_per_unit": flops.training_flops(setup.step.model),
        "flops_precision": flops.precision(config.experiment["train"]["precision"], config.device),
        "image_size": list(setup.dataset.image_size),
        "train_images": setup.dataset.splits["train"].images,
        "val_images": setup.dataset.splits["val"].images,
        "steps_per_epoch": plan.steps_per_epoch,
        "steps": plan.steps if mode == "train" else None,
        # Epochs of a whole training; with train.steps, and in a benchmark, a run does less (`cut_short`).
        "epochs": config.experiment["train"]["epochs"],
        "cut_short": mode == "benchmark" or config.experiment["train"]["steps"] is not None,
    }


def hold_shards(setup: Setup, attempt: Path) -> dict[str, str]:
    """For `data.cache: memory`, the paths of the shards that this node keeps in RAM. Collective; raises GivenUp."""
    if setup.config.experiment["data"]["cache"] == "none":
        return {}
    experiment = setup.config.experiment
    evaluates = experiment["mode"] == "train" and experiment["train"]["evaluate"]
    splits = ["train", "val"] if evaluates else ["train"]
    together(lambda: cache.check(setup.dataset, splits), attempt)
    mine = together(lambda: cache.hold(setup.dataset, splits, hvd.local_rank(), hvd.local_size()), attempt)
    return cache.share_on_node(mine)


def make_loop(
    setup: Setup, held: dict[str, str], watchdog: Watchdog, log: MLLogger | None, run_folder: Path, attempt: Path
) -> Loop:
    """The training, at its start or at the newest checkpoint. Collective."""
    config, plan, experiment = setup.config, setup.schedule, setup.config.experiment
    options, lr = experiment["train"], experiment["lr"]
    folder = checkpoints.folder_of(run_folder) if options["checkpoint"] else None
    progress = begin(setup.step, folder, rates.Plateau(lr["plateau_factor"], lr["plateau_patience"]), log)
    val = None
    if options["evaluate"]:
        if setup.dataset.splits["val"].images:
            val = input.eval_batches(setup.dataset, "val", **share(config), held=held)
        elif log:
            print(
                "hpcjobs: the val split has no images: there is no evaluation, and no plateau lowers the learning rate",
                flush=True,
            )
    windows = log and Windows(
        log,
        plan,
        config.global_batch,
        setup.step.loss_sum,
        step=progress.step,
        warmup_steps=warmup_steps(experiment),
        window_steps=experiment["measure"]["window_steps"],
    )
    return Loop(
        setup.step,
        plan,
        progress,
        rate=rates.peak(lr, config.global_batch),
        warmup_steps=round(lr["warmup_epochs"] * plan.steps_per_epoch),
        watchdog=watchdog,
        attempt=attempt,
        folder=folder,
        checkpoint_s=60 * options["checkpoint_min"],
        val=val,
        target_auc=options["target_auc"],
        log=log,
        windows=windows,
    )


def share(config: RunConfig) -> dict[str, Any]:
    """The arguments of `input` that describe this rank."""
    return {"rank": hvd.rank(), "size": hvd.size(), "batch": config.local_batch, "cpus": config.cpus_per_task}


def train(setup: Setup, loop: Loop, held: dict[str, str]) -> None:
    """Run the training steps. Collective; raises Interrupted, TrainError."""
    loop.run(iter(train_batches(setup, held, setup.schedule, loop.progress.step)))


def benchmark(
    setup: Setup, held: dict[str, str], places: list[node_facts.Place], watchdog: Watchdog, log: MLLogger | None
) -> None:
    """`mode: benchmark`. Collective; raises Interrupted, TrainError."""
    config, plan = setup.config, setup.schedule
    hvd.broadcast_variables(setup.step.variables, root_rank=0)
    if config.experiment["data"]["repeat"]:
        # One long epoch, so that no end of an epoch interrupts the steps.
        plan = dataclasses.replace(plan, steps_per_epoch=max(plan.steps_per_epoch, _ENDLESS))
    batches = iter(train_batches(setup, held, dataclasses.replace(plan, epochs=_ENDLESS), 0))
    measure = config.experiment["measure"]
    hosts = [one.host for one in places]
    gpu = places[hvd.rank()].gpu
    bench = Benchmark(
        *(setup.step, batches, measure, config.global_batch, hosts, config.device),
        watchdog=watchdog,
        log=log,
        clock=meter.gpu_clock(gpu) if gpu else None,
    )
    with_control = config.repeat <= measure["control_repeats"]
    if with_control and config.experiment["model"]["batch_norm"] == "sync":
        with_control = False  # Its layers communicate within the step, so a rank always waits for the others.
        if log:
            print(
                "hpcjobs: no control phases: with model.batch_norm=sync a step has no part without communication",
                flush=True,
            )
    bench.run(with_control=with_control)


def train_batches(setup: Setup, held: dict[str, str], plan: Schedule, start: int) -> tf.data.Dataset:
    """This rank's batches of a training, without the first `start`."""
    config = setup.config
    return input.train_batches(
        setup.dataset,
        **share(config),
        steps_per_epoch=plan.steps_per_epoch,
        epochs=plan.epochs,
        shuffle=config.experiment["data"]["shuffle"],
        seed=config.seed,
        start=start,
        held=held,
    )


def test(setup: Setup, loop: Loop) -> None:
    """Score the best checkpoint on the test split with 95 % intervals by patient. Collective."""
    dataset, network = setup.dataset, setup.step.model
    if not (setup.config.experiment["train"]["test"] and dataset.splits["test"].images):
        return
    if loop.folder is None:
        if loop.log:
            print("hpcjobs: no test AUC: with train.checkpoint=false there is no best model", flush=True)
        return
    where = {"epoch_num": loop.progress.step // setup.schedule.steps_per_epoch, "split": "test"}
    best = loop.folder / checkpoints.BEST
    if loop.log:
        loop.log.start(LogKey.EVAL_START, metadata=where)
        if best.exists():
            model.load_weights(network, best)
    hvd.broadcast_variables(network.variables, root_rank=0)
    batches = input.eval_batches(dataset, "test", **share(setup.config))
    truth, predictions = evaluation.gather(loop.predict, batches, loop.watchdog.beat)
    if loop.log:
        result = evaluation.score(truth, predictions, "test")
        patients = patient_ids(dataset.files("test"))
        intervals = auc_intervals(truth, predictions, patients, setup.config.seed)
        evaluation.log_result(loop.log, result, where)
        val = [(loop.validated, None)] if loop.validated else []
        evaluation.write_auc([*val, (result, intervals)], loop.attempt)


@contextmanager
def memory_named(device: str) -> Iterator[None]:
    """Turns an error for lack of memory into TrainError (device_memory or host_memory)."""
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        code = ErrorCode.DEVICE_MEMORY if device == "gpu" else ErrorCode.HOST_MEMORY
        lines = error.message.splitlines()
        # In an error of the compiled step the first line does not say what failed.
        line = next((line for line in lines if "OOM" in line), lines[0])
        raise TrainError(code, f"out of memory: {line}: use a smaller batch") from None
    except MemoryError:
        raise TrainError(ErrorCode.HOST_MEMORY, "out of memory on the host: request more memory") from None
