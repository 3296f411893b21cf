"""Reads nvml-HOST.csv, a sample per second of a node's GPUs: what slowed or disturbed them during timed steps.

And how much energy they took meanwhile.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence

from hpcjobs.base.columns import FLAG_ECC, FLAG_FOREIGN, FLAG_POWER_CAPPED, FLAG_THROTTLED
from hpcjobs.base.contract import NVML_COLUMNS, NVML_COLUMNS_0_1, THROTTLE_REASONS

_SLOWDOWN = sum(THROTTLE_REASONS[name] for name in ("hw_slowdown", "sw_thermal", "hw_thermal", "hw_power_brake"))


@dataclasses.dataclass(frozen=True)
class Sample:
    """One line. `at` is seconds since the epoch. A figure is None, and `foreign` False, if NVML gave nothing."""

    at: float
    uuid: str
    reasons: int | None
    ecc: int | None
    foreign: bool
    power_w: float | None = None
    energy_mj: int | None = None


def samples(lines: Iterable[str]) -> Iterator[Sample]:
    """The samples of a file. The header, damaged lines and a last line that is cut off are skipped.

    Files of version 0.1 have fewer columns; without a header all columns of either version are expected.
    """
    columns: Sequence[str] = ()
    for line in lines:
        if not line.endswith("\n"):
            continue
        fields = line[:-1].split(",")
        if fields[0] == "time":
            columns = fields
            continue
        try:
            by_length = NVML_COLUMNS_0_1 if len(fields) == len(NVML_COLUMNS_0_1) else NVML_COLUMNS
            row = dict(zip(columns or by_length, fields, strict=True))
            yield Sample(
                at=float(row["time"]),
                uuid=row["uuid"],
                reasons=int(row["throttle_bits"], 16) if row["throttle_bits"] else None,
                ecc=int(row["ecc_uncorrected"]) if row["ecc_uncorrected"] else None,
                foreign=row["foreign_pids"] not in ("", "none"),
                power_w=_number(row.get("power_w")),
                energy_mj=int(row["energy_mj"]) if row.get("energy_mj") else None,
            )
        except (KeyError, ValueError):
            continue


def _number(text: str | None) -> float | None:
    number = float(text) if text else None
    return number if number is None or 0 <= number < math.inf else None


@dataclasses.dataclass(frozen=True)
class Energy:
    """`power_w` of all GPUs together, mean over the timed windows; `gpus` sampled; `source` is counter or power."""

    power_w: float
    gpus: int
    source: str


# Between two samples further apart than this, in seconds, power is not known.
_GAP_S = 10.0
# The least part of the timed windows that samples must cover.
_COVERED = 0.5


def energy(files: Iterable[Iterable[str]], windows: Sequence[tuple[float, float]]) -> Energy | None:
    """The power of a run's GPUs in the timed `windows` (see `flags`); None if that of one GPU is not known.

    From the counter of energy where all GPUs have one, by its differences; else power, integrated by the trapezoid
    rule. Between two samples both are taken as linear. The mean is over what samples cover of the windows, which must
    be half of them or more: the first and the last sample may lie up to a second within a run.
    """
    seen: dict[str, list[Sample]] = defaultdict(list)
    for one in (one for lines in files for one in samples(lines)):
        seen[one.uuid].append(one)
    total = sum(end - begin for begin, end in windows)
    if not seen or "" in seen or total <= 0:
        return None
    for source, joules in (("counter", _counted), ("power", _integrated)):
        powers = [_mean_power(those, windows, total, joules) for those in seen.values()]
        known = [power for power in powers if power is not None]
        if len(known) == len(powers):
            return Energy(sum(known), len(known), source)
    return None


def _counted(before: Sample, after: Sample) -> float | None:
    if before.energy_mj is None or after.energy_mj is None or after.energy_mj < before.energy_mj:
        return None  # A driver that was loaded again counts from zero.
    return (after.energy_mj - before.energy_mj) / 1000


def _integrated(before: Sample, after: Sample) -> float | None:
    if before.power_w is None or after.power_w is None:
        return None
    return (before.power_w + after.power_w) / 2 * (after.at - before.at)


def _mean_power(
    those: Sequence[Sample],
    windows: Sequence[tuple[float, float]],
    total: float,
    joules: Callable[[Sample, Sample], float | None],
) -> float | None:
    """Watts of one GPU, whose samples are in order of time; None where too little of the windows is known."""
    spent = covered = 0.0
    number = 0
    for before, after in itertools.pairwise(those):
        apart = after.at - before.at
        between = joules(before, after) if 0 < apart <= _GAP_S else None
        while number < len(windows) and windows[number][1] <= before.at:
            number += 1
        if between is None:
            continue
        for begin, end in itertools.islice(windows, number, None):
            if begin >= after.at:
                break
            inside = min(end, after.at) - max(begin, before.at)
            spent += between * inside / apart
            covered += inside
    # No GPU draws nothing: a sensor that says so does not measure.
    return spent / covered if covered >= _COVERED * total and spent > 0 else None


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
