"""Makes the data set of a recipe: finds what is done already, has workers make the rest, writes dataset.json last."""

from __future__ import annotations

import importlib
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hpcjobs.base.errors import HpcjobsError, InputError, SchedulerUnreachable, SubmitRefused
from hpcjobs.base.files import read_json, write_json
from hpcjobs.base.lock import held
from hpcjobs.chexnet.classes import DATASET_JSON, SPLITS
from hpcjobs.chexnet.data.bad_images import BAD_IMAGES, write_bad_images
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

# Progress is called with (images done, images in all), Say with a line for the user.
Progress = Callable[[int, int], None]
Say = Callable[[str], None]


def make(
    recipe: Recipe,
    out: Path,
    where: Where = IN_THIS_PROCESS,
    progress: Progress = lambda done, total: None,
    say: Say = lambda text: None,
) -> Dataset:
    """Make the data set of `recipe` in `out`, or the rest of it after an interruption.

    A finished one is returned as it is. Raises InputError if `out` holds anything else, lock.Locked if another
    process is making it, HpcjobsError if shards could not be made or no image of the train split could be decoded.
    The same call, made again, continues.
    """
    importlib.import_module("hpcjobs.chexnet.data.tfrecord")  # Says what to install before anything is written.
    if done := finished(out, recipe):
        _clear_up(out)
        say(f"{out}: already made from the same inputs, nothing to do")
        return done
    with _workshop(out) as shop:
        if done := finished(out, recipe):  # Another process has finished it meanwhile.
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
            why = shop.problems(run) or [f"a worker ended without a message: see {shop.root / 'logs'}"]
            raise HpcjobsError(
                f"{len(missing)} of {len(shards)} shards are not made ({missing[0]}): {'; '.join(why)}. "
                "The same command makes the rest"
            )
        _finish(recipe, out, [part for part in parts.values() if part])
    return load_dataset(out)


def make_or_rebuild(
    recipe: Recipe, out: Path, where: Where, only: Sequence[str], progress: Progress, say: Say
) -> Dataset:
    """`make`, or `rebuild` the shards `only`, as the commands of `hpcjobs data` do. Raises what these two raise."""
    try:
        return rebuild(recipe, out, only, progress) if only else make(recipe, out, where, progress, say)
    except KeyboardInterrupt:
        say(f"{out}: finished shards are kept, and the same command continues")
        raise


def finished(out: Path, recipe: Recipe) -> Dataset | None:
    """The finished data set in `out`, if it was made from this recipe; None if there is none yet.

    Raises InputError if `out` holds a data set of other options or sources, or files that an interrupted run
    cannot have left: nothing is ever overwritten.
    """
    try:
        dataset = load_dataset(out)
    except DatasetMissing:
        foreign = [path.name for path in _entries(out) if not _is_leftover(path)]
        if foreign:
            raise InputError(f"{out}: not empty (it holds '{foreign[0]}'): give --out a new folder") from None
        return None
    _check_same(out, recipe, dataset.options, dataset.sources)
    return dataset


def rebuild(recipe: Recipe, out: Path, shards: Sequence[str], progress: Progress = lambda done, total: None) -> Dataset:
    """Make some shards of the finished data set in `out` again, with the same bytes as before.

    Raises InputError for an unknown shard or for inputs from which `out` was not made. Raises
    DatasetDamaged, and leaves the file as it was, if the bytes differ from the checksum in dataset.json.
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
                    f"{out / shard}: the rebuilt shard does not have the checksum in {DATASET_JSON} "
                    f"({changed or 'the same software: an image has changed'}); the old file is left as it was: "
                    "make the data again in a new folder"
                )
            temporary.replace(out / shard)
    return read_dataset(out)


@contextmanager
def _workshop(out: Path) -> Iterator[Workshop]:
    """The locked folder to work in. It is removed at the end if dataset.json exists."""
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
                if not list(shop.root.glob("parts/*")):  # No shard is finished: leave nothing behind.
                    shutil.rmtree(shop.root, ignore_errors=True)
                    with suppress(OSError):
                        shop.out.rmdir()
                raise
            finally:
                # The lock goes too: the next process finds the data set finished.
                if (out / DATASET_JSON).exists():
                    shutil.rmtree(shop.root, ignore_errors=True)
    except OSError as error:
        raise HpcjobsError(f"{error.filename or out}: {error.strerror}: the same command continues") from None


def _clear_up(out: Path) -> None:
    """Remove the working folder of a run that was killed after it wrote dataset.json."""
    if (out / FOLDER).exists():
        # A process that works there removes it itself; in a read-only folder it does no harm.
        with suppress(HpcjobsError), _workshop(out):
            pass


def _check_state(shop: Workshop, recipe: Recipe, say: Say) -> None:
    was = read_json(shop.state)
    now = {"options": recipe.options, "sources": recipe.sources, "software": software()}
    if was is not None and {"options", "sources", "software"} <= was.keys():
        _check_same(shop.out, recipe, was["options"], was["sources"])
        if was["software"] == now["software"]:
            return
        say(f"{shop.out}: begun with other software ({_changed(was['software'], now['software'])}): starting over")
    shop.forget()
    write_json(shop.state, now)


def _check_same(out: Path, recipe: Recipe, options: Mapping[str, Any], sources: Mapping[str, Any]) -> None:
    was, now = _flat({**options, **sources}), _flat({**recipe.options, **recipe.sources})
    for key in {**was, **now}:
        if was.get(key) == now.get(key):
            continue
        if key == "images sha256_of_names_and_sizes":
            raise InputError(
                f"{out}: holds data made of other images: a name or a size differs; to include images that were added "
                "or repaired, give --out a new folder"
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
    write_bad_images(out, corrupt, recipe)
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


def _entries(out: Path) -> list[Path]:
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: not a folder")
    try:
        return sorted(out.iterdir()) if out.is_dir() else []
    except OSError as error:
        raise InputError(f"--out {out}: cannot be read: {error.strerror}") from None


def _is_leftover(path: Path) -> bool:
    """Whether an interrupted run may have left this file."""
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
