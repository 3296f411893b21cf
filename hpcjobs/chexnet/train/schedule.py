"""The number of steps and epochs of a run. It must be the same on every rank, or an all-reduce would hang."""

from __future__ import annotations

import dataclasses

from hpcjobs.base.contract import ErrorCode
from hpcjobs.chexnet.train.failure import TrainError


@dataclasses.dataclass(frozen=True)
class Schedule:
    """`steps` optimizer steps in all, in `epochs` epochs of `steps_per_epoch`; the last may be cut short."""

    steps_per_epoch: int
    epochs: int
    steps: int


def schedule(images: int, global_batch: int, *, epochs: int, steps: int | None, repeat: bool) -> Schedule:
    """Schedule of a training split of `images`, in steps of `global_batch` images over all ranks.

    An epoch has as many whole steps as the images give. `steps` (train.steps) ends the run earlier. If the
    epochs have fewer steps than that, `repeat` (data.repeat) uses the images again within an epoch: epochs
    become longer, not more, so that no evaluation interrupts the timed windows. Raises TrainError
    (data_too_small) if there are too few images.
    """
    steps_per_epoch = images // global_batch
    if images and repeat:
        steps_per_epoch = max(steps_per_epoch, 1)
    if not steps_per_epoch:
        raise TrainError(
            ErrorCode.DATA_TOO_SMALL,
            f"{images} training images are fewer than one global batch of {global_batch}: use more images, a "
            "smaller batch, fewer GPUs, or data.repeat=true",
        )
    if steps is None:
        return Schedule(steps_per_epoch, epochs, epochs * steps_per_epoch)
    if repeat:
        steps_per_epoch = max(steps_per_epoch, -(-steps // epochs))
    needed = -(-steps // steps_per_epoch)
    if needed > epochs:
        raise TrainError(
            ErrorCode.DATA_TOO_SMALL,
            f"train.steps {steps} is more than {images} training images give: {epochs} epochs of {steps_per_epoch} "
            f"steps of {global_batch} images: raise train.epochs to {needed}, lower train.steps, or set "
            "data.repeat=true",
        )
    return Schedule(steps_per_epoch, needed, steps)
