"""Names the record that ended the training: TensorFlow's error tells neither shard nor record."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import tensorflow as tf

from hpcjobs.base.contract import ErrorCode
from hpcjobs.chexnet.data.dataset import Dataset
from hpcjobs.chexnet.data.verify import first_bad_record
from hpcjobs.chexnet.train.failure import TrainError


@contextmanager
def named(dataset: Dataset) -> Iterator[None]:
    """Names the damage behind an error of TensorFlow's. Raises TrainError (data_damaged)."""
    try:
        yield
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError, tf.errors.NotFoundError) as error:
        found = find(dataset, [file for split in ("val", "train", "test") for file in dataset.files(split)])
        if found is None and not isinstance(error, tf.errors.InvalidArgumentError):
            found = TrainError(
                ErrorCode.DATA_DAMAGED, f"{dataset.folder}: could not be read once, and now can: {error.message}"
            )
        if found is None:
            raise
        raise found from None


def find(dataset: Dataset, files: Iterable[str]) -> TrainError | None:
    """The first record of `files` that cannot be used, as an error (data_damaged); None where all can.

    Reads every byte of the files until then.
    """
    for file in files:
        if problem := first_bad_record(Path(file), dataset.image_size):
            return TrainError(
                ErrorCode.DATA_DAMAGED,
                f"{file}: {problem}: run `hpcjobs data verify {dataset.folder}`, "
                "which says how to rebuild a damaged shard",
            )
    return None
