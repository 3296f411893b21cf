"""`dataset.json`, which describes a folder of shards. It is written last: if it exists, the shards are complete.

Imports no TensorFlow, so that the control half can read it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from hpcjobs.base.errors import InputError
from hpcjobs.base.files import write_json
from hpcjobs.chexnet.classes import CLASSES, DATASET_JSON, SPLITS

FORMAT = "hpcjobs-shards"
VERSION = 2
IMAGES_PER_SHARD = 256
_ANEW = "make the data again, in a new folder, with `hpcjobs data prepare`"


class DatasetMissing(InputError):
    """There is no finished data set in the folder."""


class DatasetMismatch(InputError):
    """This version of hpcjobs cannot use the folder's dataset.json."""


class DatasetDamaged(InputError):
    """A shard differs from what dataset.json says, or cannot be read."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """One TFRecord file: its name, records, size in bytes, and SHA-256 (hex) of its bytes."""

    file: str
    images: int
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Split:
    """Counts of one split; `positives` are images per class, in the order of classes.CLASSES."""

    images: int
    patients: int
    positives: list[int]
    shards: list[Shard]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """The content of dataset.json.

    `image_size` is (height, width) in pixels. `pixel_mean` and `pixel_std` are in units of the
    stored pixels, 0 to 255, over every pixel of the train split. The shards were made from `options`
    and `sources`: two data sets that agree in these and in `software` agree in every byte. `missing`
    counts listed images that were not found, `corrupt` images that could not be decoded, `surplus`
    PNG files that no list names.
    """

    folder: Path
    image_size: tuple[int, int]
    pixel_mean: float
    pixel_std: float
    splits: dict[str, Split]
    options: dict[str, Any]
    sources: dict[str, Any]
    split_rule: str
    software: dict[str, str]
    missing: int = 0
    corrupt: int = 0
    surplus: int = 0
    patients_in_two_splits: int = 0
    classes: tuple[str, ...] = CLASSES

    def files(self, split: str) -> list[str]:
        """Absolute paths of the shards of `split` (train, val, test), in order."""
        return [str(self.folder / shard.file) for shard in self.splits[split].shards]


def shard_name(split: str, index: int, count: int) -> str:
    """File name of shard `index` (from 0) of the `count` shards of `split`."""
    return f"{split}-{index:05d}-of-{count:05d}.tfrecord"


def sha256(file: BinaryIO) -> str:
    """SHA-256 (hex) of `file` from its current position to its end."""
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


def write_dataset(dataset: Dataset) -> None:
    """Write `dataset.folder`/dataset.json atomically. Call it after every shard is in place."""
    splits = {
        name: {
            "images": split.images,
            "patients": split.patients,
            "positives": dict(zip(dataset.classes, split.positives, strict=True)),
            "shards": [dataclasses.asdict(shard) for shard in split.shards],
        }
        for name, split in dataset.splits.items()
    }
    values = {field.name: getattr(dataset, field.name) for field in dataclasses.fields(dataset)}
    del values["folder"]
    write_json(dataset.folder / DATASET_JSON, {"format": FORMAT, "version": VERSION, **values, "splits": splits})


def load_dataset(folder: Path) -> Dataset:
    """Read dataset.json of `folder` and check that each shard exists in full length.

    Raises DatasetMissing (no folder, or no finished data set in it), DatasetMismatch (another format,
    version or order of classes, or unreadable) and DatasetDamaged (a shard is missing or too short).
    """
    dataset = read_dataset(folder)
    for split in dataset.splits.values():
        for shard in split.shards:
            if problem := size_problem(dataset, shard):
                raise DatasetDamaged(
                    f"{dataset.folder / shard.file}: {problem}: see `hpcjobs data verify {dataset.folder}`"
                )
    return dataset


def read_dataset(folder: Path) -> Dataset:
    """As `load_dataset`, without the check of the shards. Raises DatasetMissing and DatasetMismatch."""
    path = folder / DATASET_JSON
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        what = f"no {DATASET_JSON} in it" if folder.is_dir() else "no such folder"
        raise DatasetMissing(f"{folder}: {what}: make it with `hpcjobs data prepare --out {folder} ...`") from None
    except (OSError, ValueError) as error:
        raise DatasetMismatch(f"{path}: cannot be read: {error}: {_ANEW}") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise DatasetMismatch(f"{path}: not written by `hpcjobs data`: 'format' is not '{FORMAT}'")
    if data.get("version") != VERSION:
        raise DatasetMismatch(f"{path}: version {data.get('version')!r}, this hpcjobs reads {VERSION}: {_ANEW}")
    if data.get("classes") != list(CLASSES):
        raise DatasetMismatch(f"{path}: its classes are not these in this order: {', '.join(CLASSES)}")
    try:
        return _from_json(folder.resolve(), data)
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetMismatch(f"{path}: not a complete {DATASET_JSON}: {error!r}: {_ANEW}") from None


def size_problem(dataset: Dataset, shard: Shard) -> str | None:
    """What is wrong with the length of a shard's file; None if nothing is."""
    try:
        size = (dataset.folder / shard.file).stat().st_size
    except OSError:
        return f"missing, though {DATASET_JSON} lists it"
    return None if size == shard.bytes else f"{size} bytes, {DATASET_JSON} says {shard.bytes}"


def _from_json(folder: Path, data: Mapping[str, Any]) -> Dataset:
    splits = {}
    for name in SPLITS:
        split = data["splits"][name]
        shards = [Shard(**shard) for shard in split["shards"]]
        if sum(shard.images for shard in shards) != split["images"]:
            raise ValueError(f"the shards of {name} do not add up to its {split['images']} images")
        splits[name] = Split(split["images"], split["patients"], [split["positives"][name] for name in CLASSES], shards)
    height, width = data["image_size"]
    known = {field.name for field in dataclasses.fields(Dataset)} - {"folder", "splits", "image_size", "classes"}
    return Dataset(folder=folder, image_size=(height, width), splits=splits, **{key: data[key] for key in known})
