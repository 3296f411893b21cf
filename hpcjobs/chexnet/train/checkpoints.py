"""Checkpoints, from which a training continues. Each is a complete folder, or it does not exist.

CHECKPOINTS/step-00000420/ holds model.weights.h5, optimizer.npz and state.json (with the checksums of
both); best.weights.h5 beside it is the model of the highest validation AUC. Order and augmentation of
images follow from (seed, epoch, step), so they need no state besides the step.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from hpcjobs.base import contract
from hpcjobs.base.files import read_json, write_json
from hpcjobs.chexnet.data.dataset import sha256
from hpcjobs.chexnet.train.model import CHECKPOINT_SUFFIX
from hpcjobs.chexnet.train.rates import Plateau

MODEL = f"model{CHECKPOINT_SUFFIX}"
OPTIMIZER = "optimizer.npz"
STATE = "state.json"
BEST = f"best{CHECKPOINT_SUFFIX}"
# How many are kept: the newest may be damaged by a failing disk.
_KEEP = 2
_NAME = re.compile(r"step-(\d{8})")


@dataclasses.dataclass
class Progress:
    """How far a training is: steps done, best validation AUC so far, plateau rule, whether the target is met."""

    plateau: Plateau
    step: int = 0
    best_auc: float | None = None
    reached: bool = False


def folder_of(run_folder: Path) -> Path:
    """The folder of a run's checkpoints, which all its attempts share."""
    return run_folder / contract.CHECKPOINTS


def save(
    folder: Path, model: tf.keras.Model, optimizer: Mapping[str, tf.Variable], progress: Progress, *, best: bool
) -> None:
    """Write the checkpoint of `progress.step`, with `best` also best.weights.h5; keep the newest two.

    Raises OSError (for example a full disk) with the older files still in place.
    """
    folder.mkdir(exist_ok=True)
    final = folder / f"step-{progress.step:08d}"
    for leftover in folder.glob(".writing-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary = folder / f".writing-{os.getpid()}"
    temporary.mkdir()
    try:
        _reserve(temporary / "space", [*model.variables, *optimizer.values()])
        model.save_weights(str(temporary / MODEL))
        with (temporary / OPTIMIZER).open("wb") as file:
            np.savez(file, **{name: variable.numpy() for name, variable in optimizer.items()})
        sums = {name: _settle(temporary / name) for name in (MODEL, OPTIMIZER)}
        write_json(temporary / STATE, {**dataclasses.asdict(progress), "sha256": sums})
        if best:
            copy = temporary / BEST
            shutil.copyfile(temporary / MODEL, copy)
            _settle(copy)
            copy.replace(folder / BEST)
        shutil.rmtree(final, ignore_errors=True)
        temporary.replace(final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for old in _found(folder)[_KEEP:]:
        shutil.rmtree(old, ignore_errors=True)


def restore(
    folder: Path, model: tf.keras.Model, optimizer: Mapping[str, tf.Variable], warn: Callable[[str], None]
) -> Progress | None:
    """Set the variables to those of the newest intact checkpoint; None if there is none.

    A damaged checkpoint is skipped, with a line to `warn`.
    """
    for path in _found(folder):
        try:
            return _load(path, model, optimizer)
        except (OSError, ValueError, KeyError, TypeError) as error:
            warn(f"{path}: skipped, because it is damaged: {' '.join(str(error).split())[:200]}")
    return None


def _load(path: Path, model: tf.keras.Model, optimizer: Mapping[str, tf.Variable]) -> Progress:
    state: Any = read_json(path / STATE)
    if state is None:
        raise ValueError(f"no complete {STATE}")
    for name, expected in state.pop("sha256").items():
        with (path / name).open("rb") as file:
            if sha256(file) != expected:
                raise ValueError(f"{name} does not have the checksum in {STATE}")
    progress = Progress(**{**state, "plateau": Plateau(**state["plateau"])})
    with np.load(path / OPTIMIZER) as saved:
        if set(saved.files) != set(optimizer):
            raise ValueError(f"{OPTIMIZER} belongs to another optimizer")
        values = {name: saved[name] for name in optimizer}
    model.load_weights(str(path / MODEL))
    for name, variable in optimizer.items():
        variable.assign(values[name])
    return progress


def _found(folder: Path) -> list[Path]:
    """Folders of checkpoints, the newest first."""
    return sorted((path for path in folder.glob("step-*") if _NAME.fullmatch(path.name)), reverse=True)


def _reserve(path: Path, variables: Iterable[tf.Variable]) -> None:
    """Raises OSError if the disk or a quota has too little room for the variables: HDF5 would crash."""
    size = 2 * sum(int(np.prod(variable.shape)) * variable.dtype.size for variable in variables) + (1 << 20)
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)
    path.unlink()


def _settle(path: Path) -> str:
    """Wait until the file is on disk; returns its checksum."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return sha256(file)
