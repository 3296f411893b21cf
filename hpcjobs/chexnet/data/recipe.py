"""The description of a data set that is to be made. Workers on other nodes read it from a file."""

from __future__ import annotations

import importlib.metadata
import math
import platform
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hpcjobs.base.errors import HpcjobsError, InputError
from hpcjobs.base.version import __version__
from hpcjobs.chexnet.classes import SPLITS
from hpcjobs.chexnet.data.dataset import IMAGES_PER_SHARD, shard_name

if TYPE_CHECKING:
    from hpcjobs.chexnet.data.tfrecord import Record

# Pixels a side. A DenseNet halves an image five times, so a smaller one would vanish.
_SIZES = range(32, 1025)


class BadImage(HpcjobsError):
    """An image that cannot be decoded; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A data set that is to be made. It can be pickled, including `read`.

    `plan` has the image names of each split, in order. `read` gives the record of a name, or raises
    BadImage. `options` and `sources` go into dataset.json: with the software they determine every
    byte. `command` is the `hpcjobs data` command that made it. `missing` and `surplus` name listed images
    that were not found, and PNG files that no list names.
    """

    command: str
    plan: dict[str, list[str]]
    read: Callable[[str], Record]
    size: int
    options: dict[str, Any]
    sources: dict[str, Any]
    split_rule: str
    missing: list[str] = field(default_factory=list)
    surplus: list[str] = field(default_factory=list)
    images_per_shard: int = IMAGES_PER_SHARD

    @property
    def images(self) -> int:
        return sum(map(len, self.plan.values()))

    def shards(self) -> Iterator[tuple[str, str, list[str]]]:
        """(split, file name, image names) of each shard, in order; the last of a split may be smaller."""
        for split in SPLITS:
            names = self.plan[split]
            count = math.ceil(len(names) / self.images_per_shard)
            for index in range(count):
                part = names[index * self.images_per_shard : (index + 1) * self.images_per_shard]
                yield split, shard_name(split, index, count), part


def check_size(size: int) -> None:
    """Raise InputError unless the models can use images of `size` pixels a side."""
    if size not in _SIZES:
        raise InputError(f"--size {size}: give a number of pixels from {_SIZES[0]} to {_SIZES[-1]}")


def software() -> dict[str, str]:
    """Versions of the software on which the bytes of a shard may depend."""
    versions = {"hpcjobs": __version__, "python": platform.python_version()}
    for name in ("tensorflow", "opencv-python-headless", "numpy"):
        with suppress(importlib.metadata.PackageNotFoundError):  # a site's own build may go by another name
            versions[name] = importlib.metadata.version(name)
    return versions
