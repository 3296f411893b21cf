"""Small shards of noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from hpcjobs.chexnet.classes import CLASSES

pytest.importorskip("horovod")

# Uneven on purpose, over shards and over ranks.
SHARDS = {"train": (100, 60, 40, 9), "val": (20, 14, 1), "test": (1, 1)}


def write_data(folder: Path, shards: Mapping[str, Sequence[int]], size: int) -> Path:
    """A data set of noise, `size` pixels a side, with that many images in each shard of each split."""
    from hpcjobs.chexnet.data.dataset import Dataset, Split, shard_name, write_dataset
    from hpcjobs.chexnet.data.tfrecord import Record, write_shard

    random = np.random.default_rng(0)
    splits = {}
    for split, counts in shards.items():
        written, labels = [], (random.random((sum(counts), 14)) < 0.3).astype(np.uint8)
        labels[:, CLASSES.index("Hernia")] = 0  # A class without a positive image.
        number = iter(range(sum(counts)))
        for index, count in enumerate(counts):
            images = random.integers(0, 256, (count, size, size), dtype=np.uint8)
            numbered = [(next(number), image) for image in images]
            records = [Record(image.tobytes(), labels[i].tobytes(), f"{split}-{i}", "1") for i, image in numbered]
            written.append(write_shard(folder / shard_name(split, index, len(counts)), records))
        splits[split] = Split(sum(counts), 1, labels.sum(axis=0).tolist(), written)
    write_dataset(
        Dataset(
            folder=folder,
            image_size=(size, size),
            pixel_mean=127.5,
            pixel_std=73.9,
            splits=splits,
            options={},
            sources={},
            split_rule="none",
            software={},
        )
    )
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 64x64 images: 209 to train on, 35 to validate, 2 to test."""
    return write_data(tmp_path_factory.mktemp("data"), SHARDS, 64)
