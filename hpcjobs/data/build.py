"""What `prepare` and `synth` share: the output folder, shards with their counts, and dataset.json at the end."""

from __future__ import annotations

import importlib.metadata
import math
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import hpcjobs
from hpcjobs.contract import CLASSES, DATASET_JSON, SPLITS
from hpcjobs.data.dataset import (
    IMAGES_PER_SHARD,
    Dataset,
    DatasetMissing,
    Shard,
    Split,
    load_dataset,
    shard_name,
    write_dataset,
)
from hpcjobs.errors import HpcjobsError, InputError

if TYPE_CHECKING:
    from hpcjobs.data.tfrecord import Record

BAD_IMAGES = "bad-images.csv"
# Called with (images done, images in all).
Progress = Callable[[int, int], None]
# Fewer pixels a side than this leave a DenseNet nothing after its five halvings.
_SIZES = range(32, 1025)


@dataclass
class _Tally:
    """Counts of the records of one split; pixel sums are exact integers, so their order does not matter."""

    images: int = 0
    pixels: int = 0
    pixel_sum: int = 0
    pixel_squares: int = 0
    positives: list[int] = field(default_factory=lambda: [0] * len(CLASSES))
    patients: set[str] = field(default_factory=set)
    shards: list[Shard] = field(default_factory=list)

    def watch(self, records: Iterable[Record]) -> Iterator[Record]:
        for record in records:
            pixels = np.frombuffer(record.image, np.uint8).astype(np.int64)
            self.images += 1
            self.pixels += pixels.size
            self.pixel_sum += int(pixels.sum())
            self.pixel_squares += int(pixels @ pixels)
            self.positives = [count + label for count, label in zip(self.positives, record.labels, strict=True)]
            self.patients.add(record.patient_id)
            yield record


def check_size(size: int) -> None:
    """Raise InputError unless `size` (pixels a side) is one that the models can use."""
    if size not in _SIZES:
        raise InputError(f"--size {size}: give a number of pixels from {_SIZES[0]} to {_SIZES[-1]}")


def finished(out: Path, options: Mapping[str, Any], sources: Mapping[str, Any]) -> Dataset | None:
    """The data set in `out` where it is whole and made from just these; None where there is none yet.

    Raises InputError where `out` holds one of other options or sources, or files that are not
    those of an interrupted run: nothing is ever written over.
    """
    try:
        dataset = load_dataset(out)
    except DatasetMissing:
        foreign = [path.name for path in _entries(out) if not _is_leftover(path)]
        if foreign:
            raise InputError(f"{out}: not empty (there is a '{foreign[0]}'): give --out a new folder") from None
        return None
    was, now = _flat({**dataset.options, **dataset.sources}), _flat({**options, **sources})
    for key in {**was, **now}:
        if was.get(key) != now.get(key) and not key.endswith("file"):
            raise InputError(
                f"{out}: holds data made with {key} {was.get(key, 'absent')}, this asks for {now.get(key, 'absent')}: "
                "give --out a new folder"
            )
    return dataset


def make(
    out: Path,
    *,
    plan: Mapping[str, Sequence[str]],
    read: Callable[[str], Record | None],
    size: int,
    options: dict[str, Any],
    sources: dict[str, Any],
    split_rule: str,
    absent: int = 0,
    before_last: Callable[[], None] = lambda: None,
    progress: Progress | None = None,
) -> Dataset:
    """Write the shards of `plan` (split: image names in order), then dataset.json.

    `read` gives the record of a name, or None for a bad image, which is left out. Shards take 256
    names each, so a shard from which an image was left out is that much smaller. `before_last` runs
    when all shards are written. Raises HpcjobsError where no train image is left, or `out` cannot be written.
    """
    from hpcjobs.data.tfrecord import write_shard  # here: it takes seconds, and wrong input is told before

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be made: {error.strerror}") from None
    for path in _entries(out):
        path.unlink()
    total, done = sum(map(len, plan.values())), 0
    tallies = {split: _Tally() for split in SPLITS}
    for split, tally in tallies.items():
        names = plan[split]
        count = math.ceil(len(names) / IMAGES_PER_SHARD)
        for index in range(count):
            part = names[index * IMAGES_PER_SHARD : (index + 1) * IMAGES_PER_SHARD]

            def records(part: Sequence[str] = part, done: int = done) -> Iterator[Record]:
                for position, name in enumerate(part, done + 1):
                    if (record := read(name)) is not None:
                        yield record
                    if progress:
                        progress(position, total)

            tally.shards.append(write_shard(out / shard_name(split, index, count), tally.watch(records())))
            done += len(part)
    before_last()
    train = tallies["train"]
    if not train.images:
        raise HpcjobsError(f"{out}: no image of the train split could be decoded")
    mean = train.pixel_sum / train.pixels
    variance = train.pixel_squares / train.pixels - mean**2
    patients = [tally.patients for tally in tallies.values()]
    write_dataset(
        Dataset(
            folder=out,
            image_size=(size, size),
            pixel_mean=mean,
            pixel_std=math.sqrt(max(0.0, variance)),
            splits={
                split: Split(tally.images, len(tally.patients), tally.positives, tally.shards)
                for split, tally in tallies.items()
            },
            options=options,
            sources=sources,
            split_rule=split_rule,
            software=_software(),
            absent=absent,
            bad=total - sum(tally.images for tally in tallies.values()),
            patients_in_two_splits=sum(map(len, patients)) - len(set().union(*patients)),
        )
    )
    return load_dataset(out)


def _entries(out: Path) -> list[Path]:
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: not a folder")
    return sorted(out.iterdir()) if out.is_dir() else []


def _is_leftover(path: Path) -> bool:
    """Whether a run that was interrupted may have left this."""
    name = path.name.lstrip(".")
    shard = any(name.startswith(f"{split}-") for split in SPLITS) and ".tfrecord" in name
    return path.is_file() and (shard or name.startswith((BAD_IMAGES, DATASET_JSON)))


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(_flat(value, f"{prefix}{key} ") if isinstance(value, Mapping) else {prefix + key: value})
    return flat


def _software() -> dict[str, str]:
    versions = {name: importlib.metadata.version(name) for name in ("tensorflow", "pillow", "numpy")}
    return {"hpcjobs": hpcjobs.__version__, "python": platform.python_version(), **versions}
