"""Published tables that a sweep is compared with: those that ship with hpcjobs, and any CSV file of their form."""

from __future__ import annotations

import csv
import math
from importlib import resources
from pathlib import Path

from hpcjobs.base.errors import InputError, nearest
from hpcjobs.base.records import Reference
from hpcjobs.collect.runs_csv import OLD_UNIT, renamed


def references() -> dict[str, Path]:
    """The paths of the tables that ship with hpcjobs, by name. experiments/reference/SOURCES.md has their sources."""
    folder = Path(str(resources.files("hpcjobs.experiments"))) / "reference"
    return {path.stem: path for path in sorted(folder.glob("*.csv"))}


def read_reference(name: str) -> Reference:
    """The table with that name, or the CSV file at that path.

    Its columns are gpus, throughput and unit; images_per_sec is an old name of throughput, and a table without unit
    counts images. Raises InputError if there is no such table, if it lacks gpus or throughput, or if it has two units.
    """
    known = references()
    path = Path(name) if "/" in name or name.endswith(".csv") else known.get(name)
    if path is None:
        raise InputError(f"--reference {name}: no such table, and no path of a CSV file: {nearest(name, known)}")
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [renamed(row) for row in csv.DictReader(file)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"--reference {path}: cannot be read: {error}") from None
    rates: dict[int, float] = {}
    units: set[str] = set()
    for number, row in enumerate(rows, 2):
        try:
            gpus, rate = int(row["gpus"]), float(row["throughput"])
        except (KeyError, TypeError, ValueError):
            raise InputError(
                f"--reference {path}: line {number}: expected numbers in the columns gpus and throughput"
            ) from None
        if gpus < 1 or not 0 < rate < math.inf:
            raise InputError(f"--reference {path}: line {number}: gpus and throughput must be above 0")
        if gpus in rates:
            raise InputError(f"--reference {path}: line {number}: a second row for the size {gpus}")
        units.add(str(row["unit"] or OLD_UNIT).strip())
        if len(units) > 1:
            raise InputError(
                f"--reference {path}: line {number}: a second unit, {row['unit']}: give it a table of its own"
            )
        rates[gpus] = rate
    if not rates:
        raise InputError(f"--reference {path}: no rows under the columns gpus and throughput")
    return Reference(path.stem, dict(sorted(rates.items())), units.pop())
