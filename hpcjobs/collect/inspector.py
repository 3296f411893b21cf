"""Reads what NCCL's Inspector recorded: each collective of each rank, joined to a row per operation and size.

Its files hold JSON objects, one after another, in the words of its README (github.com/NVIDIA/nccl,
ext-profiler/inspector, output format v4.0): header.n_ranks, and coll_perf with coll, coll_msg_size_bytes,
coll_exec_time_us, coll_algobw_gbs, coll_busbw_gbs. Not run by us: needs GPUs and the plugin.

A time here is that of the operation itself, whether computing hides it or not. It is no part of a step, and never
stands beside exposed all-reduce.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import statistics
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hpcjobs.base.files import open_plain

# In an attempt's folder; templates/open.sh.j2 names it to the plugin.
FOLDER = "nccl-inspector"
# At most so many files are read (a file per process), and of each so many bytes: a few hundred thousand collectives.
_FILES, _BYTES = 64, 1 << 26


@dataclasses.dataclass(frozen=True)
class Collective:
    """One kind of collective of one run: operation, ranks of its communicator, bytes, and how often it was recorded.

    `time_us`, `algbw` and `busbw` (GB/s, 10^9 bytes, as nccl-tests define them) are medians over all records, those of
    all ranks together; `slowest_us` is the longest time.
    """

    run: str
    gpus: int
    op: str
    ranks: int
    size: int
    count: int
    time_us: float
    slowest_us: float
    algbw: float
    busbw: float


def read(attempt: Path, run: str, gpus: int) -> list[Collective]:
    """The collectives of an attempt, by operation, then size. Damaged records are left out; none without the plugin."""
    seen: dict[tuple[str, int, int], tuple[array[float], array[float], array[float]]] = {}
    paths = sorted(path for path in (attempt / FOLDER).rglob("*") if path.is_file())
    for record in itertools.chain.from_iterable(_records(path) for path in itertools.islice(paths, _FILES)):
        try:
            of, ranks = record["coll_perf"], record["header"]["n_ranks"]
            key = str(of["coll"]), int(ranks), int(of["coll_msg_size_bytes"])
            figures = [float(of[f"coll_{name}"]) for name in ("exec_time_us", "algobw_gbs", "busbw_gbs")]
        except (KeyError, TypeError, ValueError, OverflowError):
            continue
        if not all(0 < figure < math.inf for figure in figures):
            continue
        for column, figure in zip(seen.setdefault(key, (array("d"), array("d"), array("d"))), figures, strict=True):
            column.append(figure)
    return [
        Collective(
            run, gpus, *key, len(times), statistics.median(times), max(times), statistics.median(rates),
            statistics.median(bus),
        )
        for key, (times, rates, bus) in sorted(seen.items())
    ]  # fmt: skip


def _records(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file; the last may be cut off."""
    try:
        with open_plain(path) as file:
            text = file.read(_BYTES).decode("utf-8", "replace")
    except OSError:
        return
    decoder, at = json.JSONDecoder(), text.find("{")
    while at >= 0:
        try:
            found, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            end = at + 1
        else:
            if isinstance(found, dict):
                yield found
        at = text.find("{", end)


def columns() -> list[str]:
    """The columns of collectives.csv."""
    return [field.name for field in dataclasses.fields(Collective)]


def rows(found: Iterable[Collective]) -> list[dict[str, Any]]:
    """The rows of collectives.csv."""
    return [dataclasses.asdict(each) for each in found]
