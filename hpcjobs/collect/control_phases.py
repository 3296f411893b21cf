"""Reads the parts of a step that a benchmark's control phases measure: the hpcjobs_control line of train.log."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hpcjobs.base.columns import FLAG_DISTURBED, FLAG_TALKS, FLAG_VAGUE

# The name of a part of the line whose interval a column has.
_INTERVALS = {
    "input_wait_ms": "input_wait_ms",
    "allreduce_ms": "allreduce_ms",
    "skew_ms": "skew_ms",
    "compute_ms": "typical_ms",
    "waiting_ms": "waiting_ms",
}


def parts(value: Any) -> dict[str, Any]:
    """The known fields of a Measurement, by name. Noise can make a difference of two phases negative.

    `compute_ms` is the time that a typical rank computes in a typical step, without input and all-reduce: the line's
    typical_ms, and where an older line has none, the median over nodes of the median over ranks of the median over
    steps. Of an even number the smaller of the middle two is taken. A slow node or a late step does not change it.
    `slowest_node` is the node whose ranks have the largest median, and `slow_node_ms` its difference from the median
    of all other nodes' ranks. If the script talks in the blocks without all-reduce, their times mean nothing, and
    only the input wait is known. The ends of the intervals are those of a line that has them.
    """
    if not isinstance(value, Mapping):
        return {}
    if value.get("allreduce_claimed") is False:
        return _known({"input_wait_ms": _number(value.get("input_wait_ms")), **_ends(value, ["input_wait_ms"])})
    found = {name: _number(value.get(name)) for name in ("input_wait_ms", "allreduce_ms", "skew_ms")}
    mean = _number(value.get("compute_ms"))
    if mean is not None and found["skew_ms"] is not None:
        found["slowest_rank_ms"] = mean + found["skew_ms"]
        found["compute_ms"] = mean
    by_node = _medians(value.get("ranks"))
    if by_node and "slowest_rank_ms" in found:
        found["compute_ms"] = statistics.median_low(map(statistics.median_low, by_node.values()))
    typical, waiting = _number(value.get("typical_ms")), _number(value.get("waiting_ms"))
    if typical is not None and waiting is not None:
        found |= {"compute_ms": typical, "waiting_ms": waiting, "slowest_rank_ms": typical + waiting}
    return {**_known(found), **_known(_ends(value, _INTERVALS)), **_slowest(by_node)}


def flags(value: Any) -> Iterator[str]:
    """The flags that the control blocks raise on their own figures."""
    if isinstance(value, Mapping):
        if value.get("not_told_apart"):
            yield FLAG_VAGUE
        if value.get("disturbed"):
            yield FLAG_DISTURBED
        if value.get("allreduce_claimed") is False:
            yield FLAG_TALKS


def _ends(value: Mapping[str, Any], names: Iterable[str]) -> dict[str, float | int | None]:
    """The ends of the intervals, and the number of passes that they come from."""
    widths = value.get("half_widths")
    found: dict[str, float | int | None] = {}
    if not isinstance(widths, Mapping):
        return {}
    for name in names:
        middle, half = _number(value.get(_INTERVALS[name])), _number(widths.get(_INTERVALS[name]))
        if middle is not None and half is not None:
            found |= {f"{name}_low": middle - half, f"{name}_high": middle + half}
    passes = value.get("passes_used", value.get("passes"))
    return {**found, "control_passes": passes if isinstance(passes, int) else None}


def _known(found: Mapping[str, float | int | None]) -> dict[str, Any]:
    return {name: figure for name, figure in found.items() if figure is not None}


def _medians(ranks: Any) -> dict[str, list[float]]:
    """The median step, in ms, of each rank of each node."""
    by_node: dict[str, list[float]] = {}
    for rank in ranks if isinstance(ranks, list) else []:
        ms = _number(rank.get("median_ms")) if isinstance(rank, Mapping) else None
        if ms is not None:
            by_node.setdefault(str(rank.get("host", "")), []).append(ms)
    return by_node


def _slowest(by_node: Mapping[str, list[float]]) -> dict[str, Any]:
    if len(by_node) < 2:
        return {}
    node = max(by_node, key=lambda name: statistics.median(by_node[name]))
    others = [ms for name, ranks in by_node.items() if name != node for ms in ranks]
    return {"slowest_node": node, "slow_node_ms": statistics.median(by_node[node]) - statistics.median(others)}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
