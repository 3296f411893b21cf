"""What the ranks do together besides the all-reduce of gradients."""

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
    """All ranks agreed to end, and the reason has been reported."""


class Interrupted(Exception):
    """All ranks agreed to end because of a signal, whose number is the argument; a checkpoint is written."""


def together(action: Callable[[], Result], attempt: Path) -> Result:
    """Run `action` on every rank. If it raises TrainError on any rank, all ranks raise GivenUp.

    An error that every rank finds, such as a missing folder, is reported once, by the lowest rank that
    found it. Collective.
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
        # A barrier: if a rank ended before the report is written, the launcher would end all ranks.
        hvd.allgather_object(None)
        raise GivenUp
    return result  # type: ignore[return-value]


def average_moving_statistics(model: tf.keras.Model) -> None:
    """Average the moving mean and variance of all batch normalisations over the ranks.

    They follow from each rank's own batches, so they are all that differs between the ranks' models. Collective.
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
