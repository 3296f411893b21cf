"""Reads the parts of a step that a benchmark's control phases measure: the hpcjobs_control line of train.log."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Any


def parts(value: Any) -> dict[str, Any]:
    """The known fields of a Measurement, by name. Noise can make a difference of two phases negative.

    `compute_ms` is the time that a typical rank computes in a typical step, without input and all-reduce: the median
    over nodes of the median over ranks of the median over steps. Of an even number the smaller of the middle two is
    taken. A slow node or a late step does not change it. `slowest_node` is the node whose ranks have the largest
    median, and `slow_node_ms` its difference from the median of all other nodes' ranks.
    """
    if not isinstance(value, Mapping):
        return {}
    found = {name: _number(value.get(name)) for name in ("input_wait_ms", "allreduce_ms", "skew_ms")}
    mean = _number(value.get("compute_ms"))
    if mean is not None and found["skew_ms"] is not None:
        found["slowest_rank_ms"] = mean + found["skew_ms"]
        found["compute_ms"] = mean
    by_node = _medians(value.get("ranks"))
    if by_node and "slowest_rank_ms" in found:
        found["compute_ms"] = statistics.median_low(map(statistics.median_low, by_node.values()))
    return {**{name: ms for name, ms in found.items() if ms is not None}, **_slowest(by_node)}


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
