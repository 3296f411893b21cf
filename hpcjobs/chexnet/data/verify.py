"""Reads every byte of a data set again: which shards are damaged, and the command that rebuilds them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpcjobs.chexnet.classes import CLASSES
from hpcjobs.chexnet.data.build import Progress
from hpcjobs.chexnet.data.dataset import Dataset, DatasetDamaged, Shard, read_dataset, sha256, size_problem


@dataclass(frozen=True)
class Damage:
    """What is wrong with a shard, compared with dataset.json; with `shard` None: with the counts of a split."""

    split: str
    shard: str | None
    problem: str


@dataclass(frozen=True)
class Examined:
    """A data set that was verified, and what is wrong with it."""

    dataset: Dataset
    damages: list[Damage]

    @property
    def shards(self) -> int:
        """Number of shards that dataset.json lists."""
        return sum(len(split.shards) for split in self.dataset.splits.values())

    @property
    def damaged(self) -> list[str]:
        """Files of the damaged shards."""
        return [damage.shard for damage in self.damages if damage.shard]

    @property
    def rebuild(self) -> str | None:
        """The command that rebuilds the damaged shards; None if no shard is damaged."""
        return rebuild_command(self.dataset, self.damaged) if self.damaged else None


def examine(folder: Path, progress: Progress = lambda done, total: None) -> Examined:
    """`verify` with the data set beside its result. Raises DatasetMissing and DatasetMismatch."""
    found = verify(folder, progress)
    return Examined(read_dataset(folder), found)


def verify(folder: Path, progress: Progress = lambda done, total: None) -> list[Damage]:
    """What is wrong with the data set in `folder`: size, checksum, records and label sums of each shard and split.

    Raises DatasetMissing and DatasetMismatch if dataset.json itself is missing or wrong.
    """
    dataset = read_dataset(folder)
    total = sum(split.images for split in dataset.splits.values())
    done = 0
    found: list[Damage] = []
    for name, split in dataset.splits.items():
        sums = np.zeros(len(CLASSES), np.int64)
        whole = True
        for shard in split.shards:
            problem, positives = _look(dataset, shard)
            sums += positives
            if problem:
                whole = False
                found.append(Damage(name, shard.file, problem))
            done += shard.images
            progress(done, total)
        if whole:
            found += [
                Damage(name, None, f"{finding}: {count} images in the shards, dataset.json says {listed}")
                for finding, count, listed in zip(CLASSES, sums.tolist(), split.positives, strict=True)
                if count != listed
            ]
    return found


def rebuild_command(dataset: Dataset, shards: list[str]) -> str:
    """The command that rebuilds these shards. The folders of NIH's files are not known: `DIR`."""
    options, sources = dataset.options, dataset.sources
    if "metadata" in sources:
        words = ["prepare", "--images", "DIR..."]
        for key in ("metadata", "train_list", "test_list"):
            words += [f"--{key.replace('_', '-')}", f"DIR/{sources[key]['file']}"]
    else:
        words = ["synth"]
    for key, value in options.items():
        words += [f"--{key.replace('_', '-')}", str(value)]
    words += ["--out", str(dataset.folder), *(word for shard in shards for word in ("--only", shard))]
    return "hpcjobs data " + " ".join(word if word == "DIR..." else shlex.quote(word) for word in words)


def first_bad_record(path: Path, image_size: tuple[int, int]) -> str | None:
    """The first record of a shard that cannot be used, and why; None if all can. Reads up to there."""
    number = 0
    try:
        for _ in _records(path, image_size):
            number += 1
    except DatasetDamaged as error:
        return f"record {number + 1}: {str(error).removeprefix(f'{path}: ')}"
    return None


def _look(dataset: Dataset, shard: Shard) -> tuple[str | None, NDArray[np.int64]]:
    """(what is wrong with the shard, None if nothing; number of images of each finding)."""
    nothing = np.zeros(len(CLASSES), np.int64)
    path = dataset.folder / shard.file
    if (problem := size_problem(dataset, shard)) and not path.exists():
        return problem, nothing
    try:
        with path.open("rb") as file:
            same = sha256(file) == shard.sha256
    except OSError as error:
        return f"cannot be read: {error.strerror}", nothing
    if not same:
        return first_bad_record(path, dataset.image_size) or problem or "its SHA-256 differs", nothing
    labels = [np.frombuffer(record, np.uint8) for record in _records(path, dataset.image_size)]
    if len(labels) != shard.images:
        return f"{len(labels)} records, dataset.json says {shard.images}", nothing
    return None, np.sum(labels, axis=0, dtype=np.int64)


def _records(path: Path, image_size: tuple[int, int]) -> Iterator[bytes]:
    """Labels of each record of a shard. Raises DatasetDamaged at the first record that cannot be used."""
    from hpcjobs.chexnet.data.tfrecord import read_examples

    for record in read_examples(path):
        if len(record.image) != image_size[0] * image_size[1]:
            raise DatasetDamaged(f"{path}: {len(record.image)} pixels, not {image_size[0]} x {image_size[1]}")
        if len(record.labels) != len(CLASSES):
            raise DatasetDamaged(f"{path}: {len(record.labels)} labels, not {len(CLASSES)}")
        yield record.labels
