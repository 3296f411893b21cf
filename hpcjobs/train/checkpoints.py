"""Checkpoints: weights and optimizer of the newest and of the best epoch, each a whole file or none."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import tensorflow as tf

from hpcjobs import contract
from hpcjobs.train.model import CHECKPOINT_SUFFIX

LAST = f"last{CHECKPOINT_SUFFIX}"
BEST = f"best{CHECKPOINT_SUFFIX}"


def save(model: tf.keras.Model, run_folder: Path, *, best: bool) -> None:
    """Write RUN_FOLDER/checkpoints/last.weights.h5, and best.weights.h5 too if `best`.

    Raises OSError (a full disk, say) with the older files still in place.
    """
    folder = run_folder / contract.CHECKPOINTS
    folder.mkdir(exist_ok=True)
    # Keras tells the format by the ending, so the temporary name keeps it.
    temporary = folder / f".writing-{os.getpid()}{CHECKPOINT_SUFFIX}"
    try:
        model.save_weights(str(temporary))
        _publish(temporary, folder / LAST)
        if best:
            shutil.copyfile(folder / LAST, temporary)
            _publish(temporary, folder / BEST)
    finally:
        temporary.unlink(missing_ok=True)


def _publish(temporary: Path, final: Path) -> None:
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(final)
