"""What a rank checks and builds before the first step: the data set, the schedule, the model and its step."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import horovod.tensorflow as hvd
import tensorflow as tf

from hpcjobs.base.contract import ErrorCode, RunConfig
from hpcjobs.chexnet.data.dataset import Dataset, DatasetDamaged, DatasetMismatch, DatasetMissing, load_dataset
from hpcjobs.chexnet.train import model, rates
from hpcjobs.chexnet.train.augment import Augment
from hpcjobs.chexnet.train.failure import TrainError
from hpcjobs.chexnet.train.schedule import Schedule, schedule
from hpcjobs.chexnet.train.step import Step, class_weights, log_odds, make_optimizer


@dataclasses.dataclass(frozen=True)
class Setup:
    """What a rank has checked and built before the first step."""

    config: RunConfig
    dataset: Dataset
    schedule: Schedule
    step: Step


def prepare(config: RunConfig | TrainError) -> Setup:
    """Check everything that a rank can check alone, and build the model. Raises TrainError; not collective."""
    if isinstance(config, TrainError):
        raise config
    if hvd.size() != config.gpus:
        raise TrainError(
            ErrorCode.RUN_YAML,
            f"run.yaml says gpus {config.gpus}, but Horovod started {hvd.size()} ranks: check the launcher's task "
            "count, and that its MPI is the one Horovod was built with",
        )
    check_horovod(config.device, hvd.size(), bool(hvd.nccl_built()))
    experiment = config.experiment
    dataset = open_dataset(Path(config.data_dir))
    plan = schedule(
        dataset.splits["train"].images,
        config.global_batch,
        epochs=experiment["train"]["epochs"],
        # A benchmark takes as many steps as it needs.
        steps=experiment["train"]["steps"] if experiment["mode"] == "train" else None,
        repeat=experiment["data"]["repeat"],
    )
    return Setup(config, dataset, plan, make_step(config, dataset))


def check_horovod(device: str, size: int, has_nccl: bool) -> None:
    """Raises TrainError (horovod_build) if gradients on GPUs would not use NCCL."""
    if device == "gpu" and size > 1 and not has_nccl:
        raise TrainError(
            ErrorCode.HOROVOD_BUILD,
            "this Horovod was built without NCCL: gradients would travel through the hosts; build it with "
            "HOROVOD_GPU_OPERATIONS=NCCL (`horovodrun --check-build` shows what it has)",
        )


def make_step(config: RunConfig, dataset: Dataset) -> Step:
    """The step with its model and optimizer, as the experiment says. Raises TrainError."""
    experiment, split = config.experiment, dataset.splits["train"]
    parts, options = experiment["model"], experiment["train"]
    tf.keras.utils.set_random_seed(config.seed)
    tf.keras.mixed_precision.set_global_policy(options["precision"])
    # XLA for clusters of operations; the experiment asks for it on GPUs only: on a CPU it compiles for minutes.
    tf.config.optimizer.set_jit(bool(options["xla"]))
    network = model.build(
        parts["name"],
        dataset.image_size,
        dataset.pixel_mean,
        dataset.pixel_std,
        # The other ranks get the variables of rank 0.
        parts["weights"] if hvd.rank() == 0 else "none",
        batch_norm=parts["batch_norm"],
        head_bias=log_odds(split.positives, split.images) if parts["head_bias"] == "frequency" else None,
    )
    rate = rates.peak(experiment["lr"], config.global_batch)
    weighted = options["class_weights"] == "inverse"
    return Step(
        network,
        make_optimizer(rate, options["precision"], network.trainable_variables),
        Augment(config.seed, **experiment["augment"]),
        passes=experiment["batch"]["passes"],
        clip_norm=options["clip_norm"],
        weights=class_weights(split.positives, split.images) if weighted else None,
        compression=experiment["horovod"]["compression"],
    )


def open_dataset(folder: Path) -> Dataset:
    """`load_dataset`, whose errors become TrainError with a code of contract.ErrorCode."""
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
        raise TrainError(ErrorCode.DATA_DAMAGED, f"{folder}: pixel_std is {dataset.pixel_std}: all pixels are equal")
    return dataset
