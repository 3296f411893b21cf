"""From a recipe to a finished folder: what is there already, workers for the rest, dataset.json at the end."""

from __future__ import annotations

import csv
import importlib
import io
import math
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hpcjobs.base.errors import HpcjobsError, InputError, SchedulerUnreachable, SubmitRefused
from hpcjobs.base.files import read_json, write_atomic, write_json
from hpcjobs.base.lock import held
from hpcjobs.chexnet.classes import DATASET_JSON, SPLITS
from hpcjobs.chexnet.data.dataset import (
    Dataset,
    DatasetDamaged,
    DatasetMissing,
    Split,
    load_dataset,
    read_dataset,
    write_dataset,
)
from hpcjobs.chexnet.data.recipe import Recipe, software
from hpcjobs.chexnet.data.spread import IN_THIS_PROCESS, Where, carry_out
from hpcjobs.chexnet.data.workshop import FOLDER, Part, Tally, Workshop, make_records

BAD_IMAGES = "bad-images.csv"
CORRUPT, MISSING, SURPLUS = "corrupt", "missing", "surplus"
# Called with (images done, images in all), and now and then a line for the user.
Progress = Callable[[int, int], None]
Say = Callable[[str], None]


def make(
    recipe: Recipe,
    out: Path,
    where: Where = IN_THIS_PROCESS,
    progress: Progress = lambda done, total: None,
    say: Say = lambda text: None,
) -> Dataset:
    """Make the data set of `recipe` in `out`, or what an interrupted run left to make of it.

    One that is there already is returned as it is. Raises InputError where `out` holds anything
    else, lock.Locked where somebody makes it at this moment, and HpcjobsError where shards could
    not be made, or no image of the train split could be decoded: run again, it goes on.
    """
    importlib.import_module("hpcjobs.chexnet.data.tfrecord")  # Says what to install, before anything is written.
    if done := finished(out, recipe):
        _clear_up(out)
        say(f"{out}: already made from the same inputs, nothing to do")
        return done
    with _workshop(out) as shop:
        if done := finished(out, recipe):  # by somebody else, a moment ago
            return done
        _check_state(shop, recipe, say)
        run = shop.begin(recipe)
        shards = [shard for _, shard, _ in recipe.shards()]
        there = sum(len(names) for _, shard, names in recipe.shards() if shop.part(shard))
        if there:
            say(f"{out}: {there} of {recipe.images} images are there from an interrupted run")
        pending = sum(shop.part(shard) is None for shard in shards)
        carry_out(shop, run, pending, where, lambda images: progress(min(there + images, recipe.images), recipe.images))
        parts = {shard: shop.part(shard) for shard in shards}
        if missing := [shard for shard, part in parts.items() if part is None]:
            why = shop.problems(run) or [f"a worker ended without a word: see {shop.root / 'logs'}"]
            raise HpcjobsError(
                f"{len(missing)} of {len(shards)} shards are not made ({missing[0]}): {'; '.join(why)}. "
                "The same command makes the rest"
            )
        _finish(recipe, out, [part for part in parts.values() if part])
    return load_dataset(out)


def finished(out: Path, recipe: Recipe) -> Dataset | None:
    """The data set in `out` where it is whole and made from just this; None where there is none yet.

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
    _check_same(out, recipe, dataset.options, dataset.sources)
    return dataset


def rebuild(recipe: Recipe, out: Path, shards: Sequence[str], progress: Progress = lambda done, total: None) -> Dataset:
    """Make some shards of the finished data set in `out` anew; they must come out as they were.

    Raises InputError for an unknown shard or other inputs than `out` was made from, and
    DatasetDamaged, with the file left as it was, where the bytes differ from what dataset.json says.
    """
    from hpcjobs.chexnet.data.tfrecord import write_shard

    dataset = read_dataset(out)
    _check_same(out, recipe, dataset.options, dataset.sources)
    known = {shard.file: shard for split in dataset.splits.values() for shard in split.shards}
    for shard in shards:
        if shard not in known:
            raise InputError(
                f"--only {shard}: {out / DATASET_JSON} lists no such shard; the first is {next(iter(known))}"
            )
    wanted = [(shard, names) for _, shard, names in recipe.shards() if shard in shards]
    total, done = sum(len(names) for _, names in wanted), 0

    def step() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    with _workshop(out) as shop:
        for shard, names in wanted:
            temporary = shop.root / shard
            made = write_shard(temporary, make_records(recipe, names, Tally(), [], step))
            if made != known[shard]:
                temporary.unlink()
                changed = _changed(dataset.software, software())
                raise DatasetDamaged(
                    f"{out / shard}: rebuilt, its checksum is not the one in {DATASET_JSON} "
                    f"({changed or 'the same software: an image has changed'}); the old file is left: "
                    "make the data anew in a new folder"
                )
            temporary.replace(out / shard)
    return read_dataset(out)


def bad_images(folder: Path) -> list[tuple[str, str, str]]:
    """(image index, problem, detail) of the images that are corrupt, missing or surplus in `folder`'s data set."""
    path = folder / BAD_IMAGES
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [(row["image_index"], row["problem"], row["detail"]) for row in csv.DictReader(file)]


@contextmanager
def _workshop(out: Path) -> Iterator[Workshop]:
    """The folder to work in, and its lock; it is gone afterwards if dataset.json stands."""
    shop = Workshop(out.resolve())
    try:
        shop.root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be made: {error.strerror}") from None
    try:
        with held(shop.lock, out):
            try:
                yield shop
            except (InputError, SubmitRefused, SchedulerUnreachable):
                if not list(shop.root.glob("parts/*")):  # Nothing was done: leave nothing behind.
                    shutil.rmtree(shop.root, ignore_errors=True)
                    with suppress(OSError):
                        shop.out.rmdir()
                raise
            finally:
                # The lock goes with the rest: whoever comes next finds the data finished.
                if (out / DATASET_JSON).exists():
                    shutil.rmtree(shop.root, ignore_errors=True)
    except OSError as error:
        raise HpcjobsError(f"{error.filename or out}: {error.strerror}: the same command goes on") from None


def _clear_up(out: Path) -> None:
    """Remove what a run left that was killed between dataset.json and its own clearing up."""
    if (out / FOLDER).exists():
        # Whoever works there clears up itself; where nothing can be written, it does no harm.
        with suppress(HpcjobsError), _workshop(out):
            pass


def _check_state(shop: Workshop, recipe: Recipe, say: Say) -> None:
    was = read_json(shop.state)
    now = {"options": recipe.options, "sources": recipe.sources, "software": software()}
    if was is not None and {"options", "sources", "software"} <= was.keys():
        _check_same(shop.out, recipe, was["options"], was["sources"])
        if was["software"] == now["software"]:
            return
        say(f"{shop.out}: begun with other software ({_changed(was['software'], now['software'])}): starting afresh")
    shop.forget()
    write_json(shop.state, now)


def _check_same(out: Path, recipe: Recipe, options: Mapping[str, Any], sources: Mapping[str, Any]) -> None:
    was, now = _flat({**options, **sources}), _flat({**recipe.options, **recipe.sources})
    for key in {**was, **now}:
        if was.get(key) == now.get(key):
            continue
        if key == "images sha256_of_names_and_sizes":
            raise InputError(
                f"{out}: holds data made of other images: of those here a name or a size differs; to take up images "
                "that were added or mended give --out a new folder"
            )
        if not key.endswith("file"):
            raise InputError(
                f"{out}: holds data made with {key} {was.get(key, 'absent')}, this asks for {now.get(key, 'absent')}: "
                "give --out a new folder"
            )


def _finish(recipe: Recipe, out: Path, parts: Sequence[Part]) -> None:
    """Write bad-images.csv and, last, dataset.json."""
    tallies = {split: Tally() for split in SPLITS}
    splits: dict[str, list[Part]] = {split: [] for split in SPLITS}
    for (split, _, _), part in zip(recipe.shards(), parts, strict=True):
        tallies[split].merge(part.tally)
        splits[split].append(part)
    train = tallies["train"]
    if not train.images:
        raise HpcjobsError(f"{out}: no image of the train split could be decoded")
    corrupt = [bad for part in parts for bad in part.corrupt]
    _write_bad(out, corrupt, recipe)
    mean = train.pixel_sum / train.pixels
    variance = train.pixel_squares / train.pixels - mean**2
    patients = [tally.patients for tally in tallies.values()]
    write_dataset(
        Dataset(
            folder=out,
            image_size=(recipe.size, recipe.size),
            pixel_mean=mean,
            pixel_std=math.sqrt(max(0.0, variance)),
            splits={
                split: Split(tally.images, len(tally.patients), tally.positives, [part.shard for part in splits[split]])
                for split, tally in tallies.items()
            },
            options=recipe.options,
            sources=recipe.sources,
            split_rule=recipe.split_rule,
            software=software(),
            missing=len(recipe.missing),
            corrupt=len(corrupt),
            surplus=len(recipe.surplus),
            patients_in_two_splits=sum(map(len, patients)) - len(set().union(*patients)),
        )
    )


def _write_bad(out: Path, corrupt: Sequence[tuple[str, str]], recipe: Recipe) -> None:
    rows = [
        *((name, CORRUPT, reason) for name, reason in sorted(corrupt)),
        *((name, MISSING, "listed, but in none of the folders") for name in sorted(recipe.missing)),
        *((name, SURPLUS, _surplus(name, set(recipe.missing))) for name in sorted(recipe.surplus)),
    ]
    (out / BAD_IMAGES).unlink(missing_ok=True)
    if rows:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([("image_index", "problem", "detail"), *rows])
        write_atomic(out / BAD_IMAGES, text.getvalue())


def _surplus(name: str, missing: Collection[str]) -> str:
    listed = f"{name[:-4]}.png"
    return f"is {listed} meant? Then rename it" if listed in missing else "in a folder, but in no list"


def _entries(out: Path) -> list[Path]:
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: not a folder")
    try:
        return sorted(out.iterdir()) if out.is_dir() else []
    except OSError as error:
        raise InputError(f"--out {out}: cannot be read: {error.strerror}") from None


def _is_leftover(path: Path) -> bool:
    """Whether a run that was interrupted may have left this."""
    name = path.name.lstrip(".")
    shard = any(name.startswith(f"{split}-") for split in SPLITS) and ".tfrecord" in name
    return path.name == FOLDER or (path.is_file() and (shard or name.startswith((BAD_IMAGES, DATASET_JSON))))


def _changed(then: Mapping[str, str], now: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {then.get(name)} then, {now[name]} now" for name in now if then.get(name) != now[name])


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(_flat(value, f"{prefix}{key} ") if isinstance(value, Mapping) else {prefix + key: value})
    return flat
