"""Reads nvml-HOST.csv, a sample per second of a node's GPUs: what slowed or disturbed them during timed steps."""

from __future__ import annotations

import bisect
import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from hpcjobs.base.columns import FLAG_ECC, FLAG_FOREIGN, FLAG_POWER_CAPPED, FLAG_THROTTLED
from hpcjobs.base.contract import NVML_COLUMNS, THROTTLE_REASONS

_SLOWDOWN = sum(THROTTLE_REASONS[name] for name in ("hw_slowdown", "sw_thermal", "hw_thermal", "hw_power_brake"))


@dataclasses.dataclass(frozen=True)
class Sample:
    """One line. `at` is seconds since the epoch. A figure is None, and `foreign` False, if NVML gave nothing."""

    at: float
    uuid: str
    reasons: int | None
    ecc: int | None
    foreign: bool


def samples(lines: Iterable[str]) -> Iterator[Sample]:
    """The samples of a file. The header, damaged lines and a last line that is cut off are skipped."""
    for line in lines:
        if not line.endswith("\n"):
            continue
        try:
            row = dict(zip(NVML_COLUMNS, line[:-1].split(","), strict=True))
            yield Sample(
                at=float(row["time"]),
                uuid=row["uuid"],
                reasons=int(row["throttle_bits"], 16) if row["throttle_bits"] else None,
                ecc=int(row["ecc_uncorrected"]) if row["ecc_uncorrected"] else None,
                foreign=row["foreign_pids"] not in ("", "none"),
            )
        except ValueError:
            continue


def flags(files: Iterable[Iterable[str]], windows: Sequence[tuple[float, float]]) -> list[str]:
    """The flags of a run's GPUs. `files` are the lines of each node's file.

    Only samples within `windows` count: (begin, end) of each timed window in seconds since the epoch, in order
    and without overlap. A window shorter than a second may have no sample. The nodes' clocks must agree within a
    second.

    throttled: heat or the node's power supply slowed a GPU. power_capped: a GPU was at its own power cap most of the
    time. Many GPUs are under full load; it is not a fault, but their clocks are not the highest. ecc_errors: memory
    errors since the driver was loaded that ECC could not correct. foreign_processes: a process of another job used
    a GPU.
    """
    begins = [begin for begin, _ in windows]
    seen: Counter[str] = Counter()
    capped: Counter[str] = Counter()
    found = set()
    for one in (one for lines in files for one in samples(lines)):
        last = bisect.bisect_right(begins, one.at) - 1
        if last < 0 or not one.at <= windows[last][1]:
            continue
        if one.reasons is not None:
            seen[one.uuid] += 1
            capped[one.uuid] += bool(one.reasons & THROTTLE_REASONS["sw_power_cap"])
            if one.reasons & _SLOWDOWN:
                found.add(FLAG_THROTTLED)
        if one.ecc:
            found.add(FLAG_ECC)
        if one.foreign:
            found.add(FLAG_FOREIGN)
    if any(capped[uuid] > count / 2 for uuid, count in seen.items()):
        found.add(FLAG_POWER_CAPPED)
    return [flag for flag in (FLAG_THROTTLED, FLAG_POWER_CAPPED, FLAG_ECC, FLAG_FOREIGN) if flag in found]
