"""Latency and bandwidth with intervals from times of messages, and which node or link is slow. Pure."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

# The range of 6 values is an interval of at least 95 % for the median; that of fewer values covers less.
LEAST_REPETITIONS = 6
# A node or link is slow if its rate is below this fraction of the usual one, as with a cable or slot at half its rate,
SLOW = 0.7
# and if its logarithm is also this many (normal) standard deviations below, so that noise alone is hardly called slow.
SIGMAS = 3.0
_SIGMA_OF_MAD = 1.4826


@dataclasses.dataclass(frozen=True)
class Figure:
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float

    def named(self, name: str) -> dict[str, float]:
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


def median(values: Sequence[float]) -> Figure:
    """The median and its distribution-free interval, from the k-th smallest of n values to the k-th largest.

    k is the largest with P(Binomial(n, 1/2) < k) <= 0.025 (Hahn and Meeker, Statistical Intervals, 1991, 5.2). The
    values are assumed to be independent. The interval of fewer than 6 values is their range, which covers less than
    95 %.
    """
    ordered, n = sorted(values), len(values)
    below, k = 0.0, 0
    while k < n // 2 and (below := below + math.comb(n, k) / 2**n) <= 0.025:
        k += 1
    k = max(k, 1)
    return Figure(statistics.median(ordered), ordered[k - 1], ordered[n - k])


@dataclasses.dataclass(frozen=True)
class Timing:
    """`seconds` of each repetition of one message, or one all-reduce, of `size` bytes."""

    size: int
    seconds: tuple[float, ...]

    @property
    def time(self) -> Figure:
        return median(self.seconds)


def without_answer(timings: Sequence[Timing]) -> list[Timing]:
    """One-way times from times of a message and the byte that answers it.

    The answer to the smallest message takes half of each time. To a larger one it takes half of the shortest of those
    times, and at most half of its own: on a busy machine a typical time of a small message is mostly waiting for a CPU.
    """
    smallest, *larger = timings
    back = min(smallest.seconds) / 2
    return [
        Timing(smallest.size, tuple(seconds / 2 for seconds in smallest.seconds)),
        *(Timing(each.size, tuple(max(seconds - back, seconds / 2) for seconds in each.seconds)) for each in larger),
    ]


def latency(timings: Sequence[Timing]) -> Figure:
    """Seconds of the smallest message."""
    return timings[0].time


def bandwidth(timings: Sequence[Timing]) -> Figure:
    """Bytes/s of the largest message; the shortest time of the smallest is subtracted."""
    largest, start = timings[-1], min(timings[0].seconds)
    # At most half is subtracted: by noise a small message may take as long as a large one.
    rates = [largest.size / max(seconds - start, seconds / 2) for seconds in largest.seconds]
    return median(rates)


def bus_factor(ranks: int) -> float:
    """Bus bandwidth of an all-reduce over its algorithm bandwidth (size / time), as in nccl-tests: 2 (n - 1) / n.

    The bus bandwidth compares with the rate of a link for any number of ranks.
    """
    return 2 * (ranks - 1) / ranks


def point_to_point(timings: Sequence[Timing]) -> dict[str, Any]:
    """Figures of one direction of a link."""
    return {
        **latency(timings).named("latency_s"),
        **bandwidth(timings).named("bytes_per_s"),
        "sizes": [_size(timing, 1.0) for timing in timings],
    }


def allreduce(timings: Sequence[Timing], ranks: int) -> dict[str, Any]:
    """Figures of an all-reduce over `ranks` ranks; `busbw_bytes_per_s` is that of the largest size."""
    factor = bus_factor(ranks)
    rate = median([timings[-1].size / seconds * factor for seconds in timings[-1].seconds])
    return {
        "ranks": ranks,
        **latency(timings).named("latency_s"),
        **rate.named("busbw_bytes_per_s"),
        "sizes": [_size(timing, factor) for timing in timings],
    }


def _size(timing: Timing, factor: float) -> dict[str, float]:
    rate = timing.size / timing.time.value
    return {
        "bytes": timing.size,
        "repetitions": len(timing.seconds),
        **timing.time.named("seconds"),
        "algbw_bytes_per_s": rate,
        "busbw_bytes_per_s": rate * factor,
    }


def typical(found: Sequence[Figure]) -> Figure:
    """The median of many links. With fewer than 6 links its interval spans the intervals of all."""
    middle = median([each.value for each in found])
    if len(found) >= LEAST_REPETITIONS:
        return middle
    return Figure(middle.value, min(each.low for each in found), max(each.high for each in found))


def slow(across: Mapping[tuple[str, str], float], inside: Mapping[str, float]) -> list[dict[str, Any]]:
    """The nodes and links that are slow.

    `across`: rates of (from, to) between nodes; `inside`: rates between two ranks of each node; in bytes/s. A node's
    rate is that of the best of its links, so a node is slow if all its links are. It is compared with the median
    node, so more than half of the nodes must be sound. A link is slow if both of its nodes are faster with others;
    with only two nodes, each direction is compared with the other one.
    """
    sends: dict[str, float] = {}
    receives: dict[str, float] = {}
    for (source, target), rate in across.items():
        sends[source] = max(rate, sends.get(source, 0.0))
        receives[target] = max(rate, receives.get(target, 0.0))
    found: list[dict[str, Any]] = []
    if len(sends) > 2:
        both = [*sends.values(), *receives.values()]
        for way, rates in (("out", sends), ("in", receives)):
            found += [_slow_node(node, way, rate, both) for node, rate in rates.items() if _is_slow(rate, both)]
    found += [
        _slow_node(node, "inside", rate, list(inside.values()))
        for node, rate in inside.items()
        if len(inside) > 2 and _is_slow(rate, list(inside.values()))
    ]
    for (source, target), rate in across.items():
        usual = min(sends[source], receives[target]) if len(sends) > 2 else across.get((target, source), rate)
        if _is_slow(rate, list(across.values()), usual):
            found.append({"link": [source, target], "bytes_per_s": rate, "usual_bytes_per_s": usual})
    return found


def _slow_node(node: str, way: str, rate: float, all_: Sequence[float]) -> dict[str, Any]:
    return {"node": node, "way": way, "bytes_per_s": rate, "usual_bytes_per_s": statistics.median(all_)}


def _is_slow(rate: float, all_: Sequence[float], usual: float | None = None) -> bool:
    middle = statistics.median(all_)
    # Spread of logarithms, because links differ by factors. Two values alone give no spread.
    spread = _SIGMA_OF_MAD * statistics.median(abs(math.log(each / middle)) for each in all_) if len(all_) > 2 else 0.0
    usual = middle if usual is None else usual
    return rate < usual * min(SLOW, math.exp(-SIGMAS * spread))
