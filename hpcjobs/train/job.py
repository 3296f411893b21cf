"""One run from Horovod's start to its end, as one of its ranks."""

from __future__ import annotations

import dataclasses
import socket
from pathlib import Path
from typing import Any

import horovod
import horovod.tensorflow.keras as hvd
import tensorflow as tf
from horovod.tensorflow import allgather_object
from mlperf_logging.mllog.mllog import MLLogger

from hpcjobs.contract import ErrorCode, LogKey, RunConfig, warmup_steps
from hpcjobs.data.dataset import Dataset, DatasetDamaged, DatasetMismatch, DatasetMissing, load_dataset
from hpcjobs.train import cache, callbacks, damage, device, input, mllog, model, node, threads
from hpcjobs.train.augment import Augment
from hpcjobs.train.failure import TrainError
from hpcjobs.train.ranks import together
from hpcjobs.train.schedule import Schedule, schedule


@dataclasses.dataclass(frozen=True)
class Setup:
    """What a rank found good before the first step."""

    config: RunConfig
    dataset: Dataset
    schedule: Schedule
    model: tf.keras.Model


def run(config: RunConfig | TrainError, run_folder: Path, attempt: Path) -> None:
    """Train and evaluate as `config` says, write the attempt's files. Collective.

    Raises GivenUp where the ranks found together that they cannot, TrainError where this one did.
    """
    tf.get_logger().setLevel("ERROR")  # Keras warns of every callback that waits for a step, as ours mean to.
    hvd.init()
    config, uuid = _claim_device(config)
    log = _open_log(attempt)
    setup = together(lambda: prepare(config), attempt)
    config = setup.config
    claims = allgather_object((socket.gethostname(), uuid))
    together(lambda: device.check_distinct(claims), attempt)
    held = hold_shards(setup, attempt)
    hosts = list(dict.fromkeys(host for host, _ in claims))
    if hvd.local_rank() == 0:
        node.write_node(attempt, socket.gethostname(), config.cpus_per_task)
    if log:
        mllog.describe(
            log,
            describe(setup, hosts),
            seed=config.seed,
            eval_images=setup.dataset.splits["val"].images,
            learning_rate=config.experiment["lr"]["base"],
        )
    with mllog.training(log):
        fit(setup, held, log, run_folder, attempt)


def _claim_device(config: RunConfig | TrainError) -> tuple[RunConfig | TrainError, str | None]:
    # Before TensorFlow's first operation, hence before the ranks can talk: a failure is kept for later.
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


def prepare(config: RunConfig | TrainError) -> Setup:
    """Check all that can be checked, and build the model. Raises TrainError; not collective."""
    if isinstance(config, TrainError):
        raise config
    if hvd.size() != config.gpus:
        raise TrainError(
            ErrorCode.RUN_YAML,
            f"run.yaml says gpus {config.gpus}, but Horovod started {hvd.size()} ranks: check the launcher's task "
            "count, and that its MPI is the one Horovod was built with",
        )
    experiment = config.experiment
    dataset = open_dataset(Path(config.data_dir))
    plan = schedule(
        dataset.splits["train"].images,
        config.global_batch,
        epochs=experiment["train"]["epochs"],
        steps=experiment["train"]["steps"],
        repeat=experiment["data"]["repeat"],
    )
    tf.keras.utils.set_random_seed(config.seed)
    network = model.build(
        experiment["model"]["name"],
        dataset.image_size,
        dataset.pixel_mean,
        dataset.pixel_std,
        experiment["model"]["weights"],
        Augment(config.seed, **experiment["augment"]),
    )
    optimizer = hvd.DistributedOptimizer(tf.keras.optimizers.Adam(experiment["lr"]["base"]))
    network.compile(optimizer, tf.keras.losses.BinaryCrossentropy())
    return Setup(config, dataset, plan, network)


def open_dataset(folder: Path) -> Dataset:
    """`load_dataset`, its errors named as in contract.ErrorCode. Raises TrainError."""
    codes = {
        DatasetMissing: ErrorCode.DATA_MISSING,
        DatasetMismatch: ErrorCode.DATA_MISMATCH,
        DatasetDamaged: ErrorCode.DATA_DAMAGED,
    }
    try:
        dataset = load_dataset(folder)
    except tuple(codes) as error:
        raise TrainError(codes[type(error)], str(error)) from None
    if not dataset.pixel_std > 0:
        raise TrainError(ErrorCode.DATA_DAMAGED, f"{folder}: pixel_std is {dataset.pixel_std}: all pixels are alike")
    return dataset


def describe(setup: Setup, hosts: list[str]) -> dict[str, Any]:
    """The value of train.log's hpcjobs_run line."""
    config, plan = setup.config, setup.schedule
    return {
        "run": config.run,
        "sweep": config.sweep,
        "params": config.params,
        "gpus": config.gpus,
        "nodes": len(hosts),
        "hosts": hosts,
        "local_batch": config.local_batch,
        "global_batch": config.global_batch,
        "device": config.device,
        "precision": "float32",
        "tensorflow": tf.__version__,
        "horovod": horovod.__version__,
        "model": config.experiment["model"]["name"],
        "image_size": list(setup.dataset.image_size),
        "train_images": setup.dataset.splits["train"].images,
        "val_images": setup.dataset.splits["val"].images,
        "steps_per_epoch": plan.steps_per_epoch,
        "steps": plan.steps,
        # Of the whole training, of which train.steps makes a run do less.
        "epochs": config.experiment["train"]["epochs"],
        "cut_short": config.experiment["train"]["steps"] is not None,
    }


def hold_shards(setup: Setup, attempt: Path) -> dict[str, str]:
    """`data.cache`: where this node's ranks find the shards that are kept in RAM. Collective; raises GivenUp."""
    if setup.config.experiment["data"]["cache"] == "none":
        return {}
    splits = ["train", "val"] if setup.config.experiment["train"]["evaluate"] else ["train"]
    mine = together(lambda: cache.hold(setup.dataset, splits, hvd.local_rank(), hvd.local_size()), attempt)
    return cache.share_on_node(mine)


def fit(setup: Setup, held: dict[str, str], log: MLLogger | None, run_folder: Path, attempt: Path) -> None:
    """The training. Collective."""
    config, plan, experiment = setup.config, setup.schedule, setup.config.experiment
    mine = {"rank": hvd.rank(), "size": hvd.size(), "batch": config.local_batch, "cpus": config.cpus_per_task}
    batches = input.train_batches(
        setup.dataset,
        **mine,
        steps_per_epoch=plan.steps_per_epoch,
        epochs=plan.epochs,
        shuffle=experiment["data"]["shuffle"],
        seed=config.seed,
        held=held,
    )
    val = None
    if experiment["train"]["evaluate"]:
        if setup.dataset.splits["val"].images:
            val = input.eval_batches(setup.dataset, "val", **mine, held=held)
        elif log:
            print("hpcjobs: the val split has no images: no evaluation, and the learning rate stays", flush=True)
    try:
        setup.model.fit(
            batches,
            epochs=plan.epochs,
            steps_per_epoch=plan.steps_per_epoch,
            callbacks=_callbacks(setup, log, val, run_folder, attempt),
            verbose=0,
        )
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError, tf.errors.NotFoundError) as error:
        found = damage.find(setup.dataset, [*setup.dataset.files("val"), *setup.dataset.files("train")])
        if found is None and not isinstance(error, tf.errors.InvalidArgumentError):
            found = TrainError(
                ErrorCode.DATA_DAMAGED, f"{config.data_dir}: could not be read once, and now can: {error.message}"
            )
        if found is None:
            raise
        raise found from None


def _callbacks(
    setup: Setup, log: MLLogger | None, val: tf.data.Dataset | None, run_folder: Path, attempt: Path
) -> list[tf.keras.callbacks.Callback]:
    # The order matters: the windows end before what is not a step, the loss is averaged before it is
    # judged, val_loss is there before the learning rate follows it, and the checkpoint holds it all.
    experiment = setup.config.experiment
    broadcast = hvd.callbacks.BroadcastGlobalVariablesCallback(0)
    broadcast._supports_tf_logs = True  # It reads no logs; else Keras would wait for each step for its sake.
    found = [broadcast, callbacks.StopAfter(setup.schedule.steps)]
    if log:
        found.append(
            callbacks.Windows(
                log,
                setup.schedule,
                setup.config.global_batch,
                warmup_steps=warmup_steps(experiment),
                window_steps=experiment["measure"]["window_steps"],
            ),
        )
    found += [hvd.callbacks.MetricAverageCallback(), callbacks.EndOfEpoch(log, val, attempt)]
    if val is not None:
        rate = experiment["lr"]
        found.append(
            tf.keras.callbacks.ReduceLROnPlateau(
                "val_loss", factor=rate["plateau_factor"], patience=rate["plateau_patience"]
            )
        )
    if log and experiment["train"]["checkpoint"]:
        found.append(callbacks.Checkpoints(log, run_folder))
    return found
