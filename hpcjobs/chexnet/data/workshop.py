"""OUT/.prepare: the state of an unfinished data set on disk, and the worker that makes its shards.

A shard is the unit of work. It is written under .prepare and renamed to its place; then its part
file is written, which says what the shard holds. A shard without a part file is made again. Workers claim shards
one by one, so a slow node takes fewer. A claim belongs to one invocation (`run`), so the claims of a killed
invocation do not count.
"""

from __future__ import annotations

import dataclasses
import pickle
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcjobs.base.errors import HpcjobsError
from hpcjobs.base.files import claim_link, read_json, write_atomic, write_json
from hpcjobs.base.lock import alive
from hpcjobs.chexnet.classes import CLASSES
from hpcjobs.chexnet.data.dataset import Shard
from hpcjobs.chexnet.data.recipe import BadImage, Recipe

if TYPE_CHECKING:
    from hpcjobs.chexnet.data.tfrecord import Record

FOLDER = ".prepare"
# How often a worker writes how many images it has processed.
_REPORT_S = 0.5


@dataclass
class Tally:
    """Counts over records. Pixel sums are exact integers, so the order of adding does not matter."""

    images: int = 0
    pixels: int = 0
    pixel_sum: int = 0
    pixel_squares: int = 0
    positives: list[int] = field(default_factory=lambda: [0] * len(CLASSES))
    patients: set[str] = field(default_factory=set)

    def add(self, record: Record) -> None:
        counts = np.bincount(np.frombuffer(record.image, np.uint8), minlength=256)
        values = np.arange(256)
        self.images += 1
        self.pixels += len(record.image)
        self.pixel_sum += int(counts @ values)
        self.pixel_squares += int(counts @ (values * values))
        self.positives = [count + label for count, label in zip(self.positives, record.labels, strict=True)]
        self.patients.add(record.patient_id)

    def merge(self, other: Tally) -> None:
        self.images += other.images
        self.pixels += other.pixels
        self.pixel_sum += other.pixel_sum
        self.pixel_squares += other.pixel_squares
        self.positives = [one + two for one, two in zip(self.positives, other.positives, strict=True)]
        self.patients |= other.patients


@dataclass(frozen=True)
class Part:
    """A finished shard: its file, its counts, and (image, reason) of each image that could not be decoded."""

    shard: Shard
    tally: Tally
    corrupt: list[tuple[str, str]]


@dataclass(frozen=True)
class Workshop:
    """The folder OUT/.prepare of one data set `out`."""

    out: Path

    @property
    def root(self) -> Path:
        return self.out / FOLDER

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def state(self) -> Path:
        """The file with options, sources and software of the data set that is being made."""
        return self.root / "state.json"

    def part_file(self, shard: str) -> Path:
        return self.root / "parts" / f"{shard}.json"

    def begin(self, recipe: Recipe) -> str:
        """Prepare the folder for an invocation; returns its run id. Finished shards of earlier runs are kept."""
        for name in ("parts", "tmp", "runs", "logs"):
            (self.root / name).mkdir(exist_ok=True)
        for leftover in [*(self.root / "tmp").iterdir(), *(self.root / "runs").iterdir()]:
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)
        run = uuid.uuid4().hex
        for name in ("claims", "done"):
            (self.root / "runs" / run / name).mkdir(parents=True)
        write_atomic(self.root / "recipe.pickle", pickle.dumps(recipe))
        write_atomic(self.root / "run", run)
        return run

    def recipe(self) -> Recipe:
        """The recipe that `begin` stored."""
        recipe: Recipe = pickle.loads((self.root / "recipe.pickle").read_bytes())
        return recipe

    def is_current(self, run: str) -> bool:
        """Whether `run` is still the newest invocation."""
        try:
            return (self.root / "run").read_text() == run
        except OSError:
            return False

    def part(self, shard: str) -> Part | None:
        """The part of a finished shard; None if it is not finished or its file has another length."""
        data = read_json(self.part_file(shard))
        try:
            if data is None or (self.out / shard).stat().st_size != data["shard"]["bytes"]:
                return None
            tally = Tally(**{**data["tally"], "patients": set(data["tally"]["patients"])})
            return Part(Shard(**data["shard"]), tally, [(name, reason) for name, reason in data["corrupt"]])
        except (OSError, KeyError, TypeError, ValueError):
            return None

    def forget(self) -> None:
        """Forget all finished shards, so that they are made again."""
        for path in (self.root / "parts").glob("*.json"):
            path.unlink()

    def add_problem(self, run: str, text: str) -> None:
        """Record why a worker of `run` ended. A full disk is ignored."""
        with suppress(OSError), (self.root / "runs" / run / "problems").open("a") as file:
            file.write(text + "\n")

    def problems(self, run: str) -> list[str]:
        """Why workers of `run` ended, each reason once."""
        try:
            return list(dict.fromkeys((self.root / "runs" / run / "problems").read_text().splitlines()))
        except FileNotFoundError:
            return []

    def done(self, run: str) -> int:
        """Number of images that the workers of a run have processed so far, in finished and unfinished shards."""
        total = 0
        for path in (self.root / "runs" / run / "done").iterdir():
            text = path.read_text()
            total += int(text) if text.isdecimal() else 0
        return total


def work(
    out: Path, run: str, index: int, driver: Mapping[str, Any] | None, look: Callable[[int], None] | None = None
) -> None:
    """Make shards of the recipe in `out` until none is left to claim. An error is recorded in `problems`.

    `index` is the number of this worker in `run`. `driver` is a process (`lock.process`) of this host: the worker
    ends when it ends. With None only a newer run ends the worker. `look` is called with the number of images done.
    """
    from hpcjobs.chexnet.data.tfrecord import write_shard  # Here: importing TensorFlow takes seconds.

    shop = Workshop(out)
    counter = _Counter(shop.root / "runs" / run / "done" / str(index), look)
    try:
        recipe = shop.recipe()
        for _, shard, names in recipe.shards():
            if not shop.is_current(run):
                return
            if shop.part(shard) or not _claim(shop.root / "runs" / run, shard, index):
                continue
            tally, corrupt = Tally(), list[tuple[str, str]]()
            temporary = shop.root / "tmp" / f"{run}-{index}-{shard}"
            records = make_records(recipe, names, tally, corrupt, counter.add, driver)
            written = dataclasses.replace(write_shard(temporary, records), file=shard)
            if not shop.is_current(run):  # A newer run with other software may make other bytes.
                temporary.unlink()
                return
            temporary.replace(out / shard)
            write_json(
                shop.part_file(shard),
                {
                    "shard": dataclasses.asdict(written),
                    "tally": {**dataclasses.asdict(tally), "patients": sorted(tally.patients)},
                    "corrupt": corrupt,
                },
            )
        counter.report()
    except _DriverGone:
        return
    except HpcjobsError as error:
        shop.add_problem(run, str(error))
    except OSError as error:
        shop.add_problem(run, f"{error.filename or out}: {error.strerror}")


class _DriverGone(Exception):
    pass


class _Counter:
    """Counts the images that a worker has processed, in a file that the driver reads."""

    def __init__(self, path: Path, look: Callable[[int], None] | None):
        self.path = path
        self.look = look
        self.count = 0
        self.reported = time.monotonic()

    def add(self) -> None:
        self.count += 1
        if time.monotonic() - self.reported > _REPORT_S:
            self.report()

    def report(self) -> None:
        self.path.write_text(str(self.count))
        self.reported = time.monotonic()
        if self.look:
            self.look(self.count)


def make_records(
    recipe: Recipe,
    names: Iterable[str],
    tally: Tally,
    corrupt: list[tuple[str, str]],
    each: Callable[[], None],
    driver: Mapping[str, Any] | None = None,
) -> Iterator[Record]:
    """The records of `names`, counted in `tally`; bad images are added to `corrupt`. Calls `each` after each."""
    for name in names:
        if driver and not alive(driver):
            raise _DriverGone
        try:
            record = recipe.read(name)
        except BadImage as error:
            corrupt.append((name, str(error)))
        else:
            tally.add(record)
            yield record
        each()


def _claim(run: Path, shard: str, index: int) -> bool:
    """Claim a shard for worker `index`. Also True if it holds the claim already, from before Slurm requeued it."""
    claim = run / "claims" / shard
    return claim_link(claim, str(index)) or claim.read_text() == str(index)
