"""The recipe that makes shards of NIH ChestX-ray14 as downloaded: PNG files, metadata table, split lists."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hpcjobs.base.errors import HpcjobsError, InputError
from hpcjobs.chexnet.data import nih
from hpcjobs.chexnet.data.recipe import BadImage, Recipe, check_size
from hpcjobs.chexnet.data.split import in_order, val_patients

if TYPE_CHECKING:
    from hpcjobs.chexnet.data.tfrecord import Record


# Pauses before a file that could not be read is tried again: a short failure of server or disk is not a bad image.
_PAUSES_S = (0.5, 2.0, 5.0)


@dataclass(frozen=True)
class _Reader:
    """Reads an image by its name, from its path and its entry in the metadata table.

    Raises BadImage if the file is gone or cannot be decoded. Raises HpcjobsError, which ends the worker, if it
    cannot be read for another reason after several tries: the image may be good, and a later run continues.
    """

    size: int
    paths: dict[str, Path]
    entries: dict[str, nih.Entry]

    def __call__(self, name: str) -> Record:
        from hpcjobs.chexnet.data.tfrecord import Record

        entry = self.entries[name]
        return Record(self._pixels(self.paths[name]), entry.labels, name, entry.patient_id)

    def _pixels(self, path: Path) -> bytes:
        from hpcjobs.chexnet.data.decode import decode

        for pause in (*_PAUSES_S, None):
            try:
                return decode(path, self.size)
            except FileNotFoundError:
                raise BadImage("the file is gone, or a link to nowhere") from None
            except ValueError as error:
                raise BadImage(" ".join(str(error).split())) from None
            except (OSError, MemoryError) as error:
                reason = getattr(error, "strerror", None) or "no memory"
            if pause is not None:
                time.sleep(pause)
        raise HpcjobsError(f"{path}: cannot be read after {len(_PAUSES_S) + 1} tries: {reason}")


def nih_recipe(
    images: Sequence[Path],
    metadata: Path,
    train_list: Path,
    test_list: Path,
    size: int = 256,
    seed: int = 1,
    val_fraction: float = 0.1,
) -> Recipe:
    """The recipe of shards of `size` x `size` pixels from those of the listed images that are found.

    `images` are folders, which are searched recursively. The splits and their order follow from the
    inputs and `seed` alone. Raises InputError if an argument or an input file is wrong.
    """
    check_size(size)
    if not 0 < val_fraction < 1:
        raise InputError(f"--val-fraction {val_fraction:g}: give a fraction between 0 and 1, such as 0.1")
    table, train_val, test = nih.read_metadata(metadata), nih.read_list(train_list), nih.read_list(test_list)
    nih.check_lists(table, train_val, test)
    entries = table.entries
    found, surplus = _find_images(images, entries)
    if not found:
        raise InputError(f"--images {' '.join(map(str, images))}: no image that {metadata} lists")
    plan = _plan(found, entries, train_val, test, seed, val_fraction)
    if not plan["train"]:
        raise InputError(f"--images {' '.join(map(str, images))}: no image of {train_list} to train on")
    return Recipe(
        command="prepare",
        plan=plan,
        read=_Reader(size, found, {name: entries[name] for name in found}),
        size=size,
        options={"size": size, "seed": seed, "val_fraction": val_fraction},
        sources={
            "metadata": {**vars(table.source), "release": table.release},
            "train_list": vars(train_val.source),
            "test_list": vars(test.source),
            "images": {"count": len(found), "sha256_of_names_and_sizes": _listing(found)},
        },
        split_rule=f"test: the official list; val: {val_fraction:g} of the patients of the official train_val list, "
        "in the order of BLAKE2b(seed:patient); train: the others, images in the order of BLAKE2b(seed:image)",
        missing=sorted(entries.keys() - found.keys()),
        surplus=surplus,
    )


def _plan(
    found: Collection[str],
    entries: Mapping[str, nih.Entry],
    train_val: nih.SplitList,
    test: nih.SplitList,
    seed: int,
    val_fraction: float,
) -> dict[str, list[str]]:
    """Image names of each split, in order. The lists together name all `entries` and share no patient."""
    listed = {entries[name].patient_id for name in train_val.names}
    present = {entries[name].patient_id for name in found if name in train_val.names}
    val = val_patients(listed, present, seed, val_fraction)
    plan: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for name in sorted(found):
        plan["test" if name in test.names else "val" if entries[name].patient_id in val else "train"].append(name)
    plan["train"] = in_order(plan["train"], seed)
    return plan


def _find_images(folders: Sequence[Path], listed: Collection[str]) -> tuple[dict[str, Path], list[str]]:
    """(path of each of the `listed` names, with links resolved; names of all other PNG files, one per file).

    Raises InputError for a folder that does not exist and for two files with the same listed name.
    """
    found: dict[str, tuple[Path, Path]] = {}
    surplus: dict[Path, str] = {}
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"--images {folder}: no such folder")
        for path in _walk(folder, set()):
            real = Path(os.path.realpath(path))
            if path.name not in listed:
                surplus[real] = path.name
                continue
            first, where = found.setdefault(path.name, (path, real))
            if where != real:
                raise InputError(f"--images: {path.name} exists twice: {first} and {path}")
    return {name: real for name, (_, real) in found.items()}, sorted(surplus.values())


def _walk(folder: Path, seen: set[str]) -> Iterator[Path]:
    # Links are followed, because sites keep data behind them; `seen` ends cycles.
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.is_dir():
                yield from _walk(Path(entry.path), seen)
            elif entry.name.lower().endswith(".png") and not entry.name.startswith("."):
                yield Path(entry.path)


def _listing(found: dict[str, Path]) -> str:
    lines = (f"{name} {os.stat(found[name]).st_size if found[name].exists() else -1}\n" for name in sorted(found))
    return hashlib.sha256("".join(lines).encode()).hexdigest()
