"""Compare a scaling table with that of another sweep, or with a published one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from hpcjobs.analysis.intervals import holm, welch_ratio
from hpcjobs.base.errors import InputError
from hpcjobs.base.metrics import ScalingRow
from hpcjobs.base.records import Reference

# --- another sweep -------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """One size in two sweeps, in `unit` a second; None if the sweep has no measurement of it.

    `ratio` is ours over theirs. `low` and `high` are its Welch 95 % interval and `p` the p value of no difference; they
    are None if either sweep has fewer than two runs. `real` is the verdict of Holm's correction over all sizes that
    have a p value: with probability 95 % no difference of the table is called real by chance. None without a p value.
    """

    params: str
    unit: str
    gpus: int
    local_batch: int | None
    ours: float | None
    theirs: float | None
    runs: int
    their_runs: int
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    real: bool | None = None


def compare_sweeps(rows: Sequence[ScalingRow], others: Sequence[ScalingRow]) -> list[Difference]:
    """Every size of `rows`, then those that only `others` has; sizes match by params, GPUs, local batch and unit.

    Raises InputError if no size was measured in both.
    """
    ours, theirs = (
        {(row.params, row.gpus, row.local_batch, row.unit): row for row in table} for table in (rows, others)
    )
    found = [_difference(ours.get(key), theirs.get(key)) for key in {**ours, **theirs}]
    if not any(each.ratio is not None for each in found):
        raise InputError("--against: no size was measured in both sweeps with the same params, local batch and unit")
    known = [each.p for each in found if each.p is not None]
    real = iter(holm(known))
    return [each if each.p is None else dataclasses.replace(each, real=next(real)) for each in found]


def _difference(ours: ScalingRow | None, theirs: ScalingRow | None) -> Difference:
    row = ours or theirs
    assert row is not None
    difference = Difference(
        params=row.params,
        unit=row.unit,
        gpus=row.gpus,
        local_batch=row.local_batch,
        ours=ours.throughput if ours else None,
        theirs=theirs.throughput if theirs else None,
        runs=ours.runs if ours else 0,
        their_runs=theirs.runs if theirs else 0,
    )
    if not ours or not theirs or ours.throughput is None or theirs.throughput is None:
        return difference
    ratio = dataclasses.replace(difference, ratio=ours.throughput / theirs.throughput)
    welch = welch_ratio(ours.rates, theirs.rates)
    return dataclasses.replace(ratio, low=welch.low, high=welch.high, p=welch.p) if welch else ratio


# --- a published table ---------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """One size of a table and of the reference, in the reference's unit a second.

    Each efficiency is relative to its own table's base.
    """

    params: str
    gpus: int
    ours: float | None
    reference: float | None
    ratio: float | None
    efficiency: float | None
    reference_efficiency: float | None


def compare_reference(rows: Sequence[ScalingRow], reference: Reference) -> list[Comparison]:
    """Every size of the rows that count the reference's unit, then those that only the reference has.

    Raises InputError if no row counts its unit.
    """
    rows = [row for row in rows if row.unit == reference.unit]
    if not rows:
        raise InputError(f"--reference {reference.name}: it counts {reference.unit}, and no run does")
    found = [_comparison(row.params, row.gpus, row, reference) for row in rows]
    lacking = sorted(set(reference.throughput) - {row.gpus for row in rows})
    return found + [_comparison("", gpus, None, reference) for gpus in lacking]


def _comparison(params: str, gpus: int, row: ScalingRow | None, reference: Reference) -> Comparison:
    ours, theirs = row.throughput if row else None, reference.throughput.get(gpus)
    return Comparison(
        params=params,
        gpus=gpus,
        ours=ours,
        reference=theirs,
        ratio=ours / theirs if ours is not None and theirs is not None else None,
        efficiency=row.efficiency if row else None,
        reference_efficiency=reference.efficiency(gpus) if theirs is not None else None,
    )
