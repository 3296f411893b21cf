"""Why a step takes longer than at the base: the lost time, split into parts. Pure.

This module compares two sizes. What takes the step of one run apart runs with it, on the compute nodes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from hpcjobs import meter
from hpcjobs.analysis.intervals import difference_half_width
from hpcjobs.base.metrics import Run, ScalingRow, Spread
from hpcjobs.meter import PARTS

# A node is slow if its ranks compute longer than the others' by more than this fraction.
_SLOW = 0.02
# A node that is slow in this many runs is flagged.
_RUNS = 2


def losses(row: ScalingRow, base: ScalingRow) -> dict[str, Any]:
    """`lost_ms` and its parts (columns.REPORT_COLUMNS) of a measured row relative to its measured base, in ms.

    lost = step - ideal = step x (1 - efficiency), with ideal = r x the base's step. r is the work per GPU and step
    of the row over that of the base: 1 in weak scaling, base GPUs / GPUs in strong scaling.
    Each part is its ms in the row less r x its ms at the base. A part below 0 is smaller than at the base.
    `lost_other_ms` is the rest of the loss. If no run measured the parts, it is the whole loss.
    The time in the loader alone (flag loader_time_only) is no part: a device may compute meanwhile.
    The ends of the 95 % intervals are Welch's, from the errors of the figure in the row and at the base. The base has
    none. Empty if either row has no rate or no step time.
    """
    if row.throughput is None or base.throughput is None or row.step_ms is None or base.step_ms is None:
        return {}
    per_gpu = row.step_ms * row.throughput / row.gpus, base.step_ms * base.throughput / base.gpus
    ratio = per_gpu[0] / per_gpu[1]
    lost = row.step_ms - ratio * base.step_ms
    parts = {
        "lost_input_ms": (row.input_lost_ms, base.input_lost_ms),
        "lost_allreduce_ms": (row.allreduce_ms, base.allreduce_ms),
        "lost_skew_ms": (_waiting(row), _waiting(base)),
        "lost_compute_ms": (row.compute_ms, base.compute_ms),
    }
    found: dict[str, float | None] = {
        name: None if here is None or there is None else here - ratio * there for name, (here, there) in parts.items()
    }
    whole = {"lost_ms": lost, **found, "lost_other_ms": lost - sum(ms for ms in found.values() if ms is not None)}
    return {**whole, **(_ends(whole, row, base, ratio) if row is not base else {})}


# The loss of each part of a step.
LOSS_OF = {"input_wait_ms": "input", "allreduce_ms": "allreduce", "skew_ms": "skew", "compute_ms": "compute"}
# The figure whose error a loss has.
_ERRORS = {
    "lost_ms": "step_ms",
    "lost_input_ms": "input_wait_ms",
    "lost_allreduce_ms": "allreduce_ms",
    "lost_skew_ms": "waiting_ms",
    "lost_compute_ms": "compute_ms",
}


def _ends(found: Mapping[str, float | None], row: ScalingRow, base: ScalingRow, ratio: float) -> dict[str, float]:
    ends: dict[str, float] = {}
    for name, of in _ERRORS.items():
        middle, here, there = found[name], row.spreads.get(of), base.spreads.get(of)
        if middle is not None and here is not None and there is not None:
            half = difference_half_width(here, there, ratio)
            ends |= {f"{name}_low": middle - half, f"{name}_high": middle + half}
    return ends


def parts_spread(name: str, run: Run) -> Spread | None:
    """The error of a part of the step, from the passes through the control blocks of one run."""
    low, high = getattr(run, f"{name}_low"), getattr(run, f"{name}_high")
    freedom = meter.freedom(name, run.control_passes) if run.control_passes else 0
    if low is None or high is None or freedom < 1:
        return None
    return Spread((high - low) / 2 / meter.student(freedom), freedom)


def not_told_apart(row: ScalingRow) -> list[str]:
    """The parts (columns) of the row's step whose interval is too wide to tell them from nothing."""
    return [
        name
        for name in PARTS
        if (value := getattr(row, name)) is not None
        and (low := getattr(row, f"{name}_low")) is not None
        and row.step_ms is not None
        and meter.is_vague(value, (getattr(row, f"{name}_high") - low) / 2, row.step_ms)
    ]


def _waiting(row: ScalingRow) -> float | None:
    """How long a typical rank waits for the slowest rank of a step, in ms."""
    if row.waiting_ms is not None:
        return row.waiting_ms
    if row.slowest_rank_ms is None or row.compute_ms is None:
        return row.skew_ms
    return row.slowest_rank_ms - row.compute_ms


def is_slow(point: Run | ScalingRow) -> bool:
    """Whether the slowest node of the run or row is slower than the others by more than chance explains."""
    return (
        point.slow_node_ms is not None
        and point.compute_ms is not None
        and point.slow_node_ms > _SLOW * point.compute_ms
    )


def slow_nodes(runs: Iterable[Run]) -> set[str]:
    """The nodes that were the slow node of several runs, whatever their size and params."""
    count = Counter(run.slowest_node for run in runs if is_slow(run))
    return {node for node, times in count.items() if times >= _RUNS}
