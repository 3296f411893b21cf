"""What the ranks do together, beside the gradients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import horovod.tensorflow as hvd
import tensorflow as tf

from hpcjobs.chexnet.train import failure
from hpcjobs.chexnet.train.failure import TrainError

Result = TypeVar("Result")


class GivenUp(Exception):
    """All ranks agreed to end, and the reason is told already."""


class Interrupted(Exception):
    """All ranks agreed to end because of a signal, whose number this is; a checkpoint is written."""


def together(action: Callable[[], Result], attempt: Path) -> Result:
    """Run `action` on every rank, and end all of them in order if it failed (TrainError) on any.

    A mistake that every rank meets, such as a missing folder, is so told once, by the lowest rank
    that met it. Collective; raises GivenUp.
    """
    result, error = None, None
    try:
        result = action()
    except TrainError as found:
        error = (found.code, found.message)
    errors = hvd.allgather_object(error)
    failed = [rank for rank, found in enumerate(errors) if found]
    if failed:
        if hvd.rank() == failed[0]:
            failure.report(attempt, *errors[failed[0]])
        hvd.allgather_object(None)  # A barrier: whoever ended before it is told would make the launcher end all.
        raise GivenUp
    return result  # type: ignore[return-value]


def average_moving_statistics(model: tf.keras.Model) -> None:
    """Average the moving mean and variance of all batch normalisations over the ranks.

    Each rank's follow its own batches, so the ranks' models differ in them alone. Collective.
    """
    found = [
        variable
        for layer in model.layers
        if isinstance(layer, tf.keras.layers.BatchNormalization)
        for variable in (layer.moving_mean, layer.moving_variance)
    ]
    flat = hvd.allreduce(tf.concat(found, axis=0), op=hvd.Average, name="moving_statistics")
    for variable, value in zip(found, tf.split(flat, [variable.shape[0] for variable in found]), strict=True):
        variable.assign(value)
