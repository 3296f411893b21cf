"""Names the record that ended the training: TensorFlow's error tells neither shard nor record."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hpcjobs.contract import CLASSES, ErrorCode
from hpcjobs.data.dataset import Dataset, DatasetDamaged
from hpcjobs.data.tfrecord import read_examples
from hpcjobs.train.failure import TrainError


def find(dataset: Dataset, files: Iterable[str]) -> TrainError | None:
    """The first record of `files` that cannot be used, as an error (data_damaged); None where all can.

    Reads every byte of the files until then.
    """
    for file in files:
        path, number = Path(file), 0
        try:
            for number, record in enumerate(read_examples(path), start=1):
                if len(record.image) != dataset.image_size[0] * dataset.image_size[1]:
                    return _error(dataset, path, number, f"holds {len(record.image)} pixels")
                if len(record.labels) != len(CLASSES):
                    return _error(dataset, path, number, f"holds {len(record.labels)} labels")
        except DatasetDamaged as error:
            return _error(dataset, path, number + 1, str(error).removeprefix(f"{path}: "))
    return None


def _error(dataset: Dataset, path: Path, number: int, what: str) -> TrainError:
    return TrainError(
        ErrorCode.DATA_DAMAGED,
        f"{path}: record {number}: {what}: run `hpcjobs data verify {dataset.folder}`, "
        "which says how to rebuild a damaged shard",
    )
