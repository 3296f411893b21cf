"""Names the damaged record that ended the training: TensorFlow's error gives neither shard nor record."""

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
    """Turns an error of TensorFlow's into TrainError (data_damaged), which names the damaged record."""
    try:
        yield
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError, tf.errors.NotFoundError) as error:
        found = find(dataset, [file for split in ("val", "train", "test") for file in dataset.files(split)])
        if found is None and not isinstance(error, tf.errors.InvalidArgumentError):
            found = TrainError(
                ErrorCode.DATA_DAMAGED, f"{dataset.folder}: reading failed once and now succeeds: {error.message}"
            )
        if found is None:
            raise
        raise found from None


def find(dataset: Dataset, files: Iterable[str]) -> TrainError | None:
    """An error (data_damaged) that names the first record of `files` that cannot be used; None if all can.

    Reads the files up to that record.
    """
    for file in files:
        if problem := first_bad_record(Path(file), dataset.image_size):
            return TrainError(
                ErrorCode.DATA_DAMAGED,
                f"{file}: {problem}: run `hpcjobs data verify {dataset.folder}`, "
                "which says how to rebuild a damaged shard",
            )
    return None
