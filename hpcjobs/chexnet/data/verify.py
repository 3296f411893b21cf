"""Reads every byte of a data set again: what is damaged, and how to make just that anew."""

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
    """A shard that is not as dataset.json says (`shard` None: the split's counts), and what is wrong."""

    split: str
    shard: str | None
    problem: str


def verify(folder: Path, progress: Progress = lambda done, total: None) -> list[Damage]:
    """What is wrong with the data set in `folder`: size, checksum, records, label sums of each shard and split.

    Raises DatasetMissing and DatasetMismatch where dataset.json itself is missing or wrong.
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
                Damage(name, None, f"{finding}: {count} images in the shards, dataset.json says {said}")
                for finding, count, said in zip(CLASSES, sums.tolist(), split.positives, strict=True)
                if count != said
            ]
    return found


def rebuild_command(dataset: Dataset, shards: list[str]) -> str:
    """The command that makes just these shards anew; of NIH's files it knows the names: the folders are `DIR`."""
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
    """Which record of a shard cannot be used, and why; None where all can. Reads the whole file."""
    number = 0
    try:
        for _ in _records(path, image_size):
            number += 1
    except DatasetDamaged as error:
        return f"record {number + 1}: {str(error).removeprefix(f'{path}: ')}"
    return None


def _look(dataset: Dataset, shard: Shard) -> tuple[str | None, NDArray[np.int64]]:
    """(what is wrong with the shard, if anything; images of each finding)."""
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
        return first_bad_record(path, dataset.image_size) or problem or "its SHA-256 is another", nothing
    labels = [np.frombuffer(record, np.uint8) for record in _records(path, dataset.image_size)]
    if len(labels) != shard.images:
        return f"{len(labels)} records, dataset.json says {shard.images}", nothing
    return None, np.sum(labels, axis=0, dtype=np.int64)


def _records(path: Path, image_size: tuple[int, int]) -> Iterator[bytes]:
    """Labels of each record of a shard. Raises DatasetDamaged at the first that cannot be used."""
    from hpcjobs.chexnet.data.tfrecord import read_examples

    for record in read_examples(path):
        if len(record.image) != image_size[0] * image_size[1]:
            raise DatasetDamaged(f"{path}: {len(record.image)} pixels, not {image_size[0]} x {image_size[1]}")
        if len(record.labels) != len(CLASSES):
            raise DatasetDamaged(f"{path}: {len(record.labels)} labels, not {len(CLASSES)}")
        yield record.labels
