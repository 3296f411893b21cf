"""Names the record that ended the training: TensorFlow's error tells neither shard nor record."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hpcjobs.contract import ErrorCode
from hpcjobs.data.dataset import Dataset
from hpcjobs.data.verify import first_bad_record
from hpcjobs.train.failure import TrainError


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
