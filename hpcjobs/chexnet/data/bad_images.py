"""bad-images.csv: the images that a data set leaves out, and why."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpcjobs.base.files import write_atomic
from hpcjobs.chexnet.data.recipe import Recipe

BAD_IMAGES = "bad-images.csv"
CORRUPT, MISSING, SURPLUS = "corrupt", "missing", "surplus"
# A partial download lacks thousands of images: no more than this many are named.
_NAMED_MISSING = 10


@dataclass(frozen=True)
class LeftOut:
    """The images that a data set leaves out: a line for each, but for the first few of the missing; and a summary."""

    lines: list[str]
    summary: str


def write_bad_images(folder: Path, corrupt: Sequence[tuple[str, str]], recipe: Recipe) -> None:
    """Write the file anew, or remove it if no image is bad. `corrupt`: (image index, why it cannot be decoded)."""
    rows = [
        *((name, CORRUPT, reason) for name, reason in sorted(corrupt)),
        *((name, MISSING, "listed, but in none of the folders") for name in sorted(recipe.missing)),
        *((name, SURPLUS, _why_surplus(name, set(recipe.missing))) for name in sorted(recipe.surplus)),
    ]
    (folder / BAD_IMAGES).unlink(missing_ok=True)
    if rows:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([("image_index", "problem", "detail"), *rows])
        write_atomic(folder / BAD_IMAGES, text.getvalue())


def read_bad_images(folder: Path) -> list[tuple[str, str, str]]:
    """(image index, problem, detail) of each bad image of the data set in `folder`."""
    path = folder / BAD_IMAGES
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [(row["image_index"], row["problem"], row["detail"]) for row in csv.DictReader(file)]


def left_out(folder: Path) -> LeftOut | None:
    """What the data set in `folder` leaves out; None if it holds every image."""
    kinds: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for name, problem, detail in read_bad_images(folder):
        kinds[problem].append((name, detail))
    if not kinds:
        return None
    lines = []
    for problem, found in kinds.items():
        named = found[:_NAMED_MISSING] if problem == MISSING else found
        lines += [f"{name} is {problem}: {detail}" for name, detail in named]
        if more := len(found) - len(named):
            lines.append(f"and {more} more that are {problem}, see {folder / BAD_IMAGES}")
    counts = ", ".join(f"{len(found)} {problem}" for problem, found in kinds.items())
    return LeftOut(lines, f"images left out: {counts}: see {folder / BAD_IMAGES}")


def _why_surplus(name: str, missing: Collection[str]) -> str:
    listed = f"{name[:-4]}.png"
    return f"is {listed} meant? Then rename it" if listed in missing else "in a folder, but in no list"
