"""nvml-HOST.csv, a second-by-second record of a node's GPUs: what went against them while steps were timed."""

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
    """One line. `at` is seconds since the epoch; None, and False of `foreign`, where NVML told nothing."""

    at: float
    uuid: str
    reasons: int | None
    ecc: int | None
    foreign: bool


def samples(lines: Iterable[str]) -> Iterator[Sample]:
    """Whole lines of a file; a damaged one, the cut one at its end and the header are passed over."""
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
    """What to know of a run's GPUs; `files` are those of its nodes, line by line.

    Only samples within `windows` count: (begin, end) of each timed window in seconds since the epoch, in order
    and apart. Windows shorter than a second may hold none. The nodes' clocks are taken to agree within a second.

    throttled: a GPU was slowed by heat or by the node's power supply. power_capped: one stood at its own power
    cap most of the time, which many GPUs do under full load: no fault, but its clocks are not the highest.
    ecc_errors: memory errors that ECC could not mend, since the driver was loaded. foreign_processes: another
    job's process used a GPU.
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
