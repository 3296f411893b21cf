"""The windows of anyone's run as they come, in flat memory, and their steady state at the end.

As steady.py has them for hpcjobs' own runs, but of work done in a time: here a window may lack its number of steps.
"""

from __future__ import annotations

import dataclasses
import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from operator import add, truediv

from hpcjobs.collect.measurements import SteadyRate

# At this many windows (even) neighbours are joined two by two.
_KEPT = 8192
_INFINITE = math.inf

# Hampel's identifier, as steady.py has it: a window is an outlier beyond so many scaled median absolute deviations
# from the median, and beyond this fraction of it.
_DEVIATIONS = 3.0
_SCALE = 1.4826
_LEAST = 0.01

TENTH = "without the first tenth of the windows, at least one of several"


class Rates:
    """Work (steps, images, or 1 where all are alike) and seconds of each window."""

    def __init__(self) -> None:
        self.work = array("d")
        self.seconds = array("d")
        self.lines = 1
        self._held: list[tuple[float, float]] = []

    def __len__(self) -> int:
        return len(self.work)

    def add(self, work: float, seconds: float) -> None:
        """One window; one without work or time, or with a figure that is no number, is none."""
        if not (0 < work < _INFINITE and 0 < seconds < _INFINITE):
            return
        if self.lines > 1:
            self._held.append((work, seconds))
            if len(self._held) < self.lines:
                return
            work, seconds = (math.fsum(part) for part in zip(*self._held, strict=True))
            self._held.clear()
        self.work.append(work)
        self.seconds.append(seconds)
        if len(self.work) == _KEPT:
            self._join()

    def extend(self, work: Sequence[float], seconds: Sequence[float]) -> None:
        """Many windows at once."""
        if self.lines == 1 and len(self.work) + len(work) < _KEPT and _sound(work) and _sound(seconds):
            self.work.extend(work)
            self.seconds.extend(seconds)
            return
        for one, its in zip(work, seconds, strict=True):
            self.add(one, its)

    def _join(self) -> None:
        self.work = array("d", map(add, self.work[::2], self.work[1::2]))
        self.seconds = array("d", map(add, self.seconds[::2], self.seconds[1::2]))
        self.lines *= 2

    def steady(self, warmup: int | None = None, rule: str = TENTH) -> SteadyRate | None:
        """The steady state, or None where there is no window.

        The first `warmup` windows do not count, by the log's own word, which `rule` repeats; where it is None, the
        first tenth does not, at least one of two or more. Windows that joined others are not told apart again.
        """
        if warmup is None:
            warmup = -(-len(self.work) // 10) if len(self.work) > 1 else 0
        work, seconds = self.work[warmup:], self.seconds[warmup:]
        if not work:
            return None
        rates = list(map(truediv, work, seconds))
        count, mean = len(rates), math.fsum(rates) / len(rates)
        return SteadyRate(
            rate=math.fsum(work) / math.fsum(seconds),
            sd=math.dist(rates, [mean] * count) / math.sqrt(count - 1) if count > 1 else None,
            windows=count,
            warmup=warmup,
            outliers=outliers(sorted(rates)),
            lines=self.lines,
            rule=rule,
        )


def scaled(steady: SteadyRate | None, factor: float | None) -> SteadyRate | None:
    """A steady state in another unit: `factor` of the new one in one of the old; as it is where it is not known."""
    if steady is None or factor is None or factor == 1:
        return steady
    sd = None if steady.sd is None else steady.sd * factor
    return dataclasses.replace(steady, rate=steady.rate * factor, sd=sd)


def _sound(figures: Sequence[float]) -> bool:
    return not figures or (min(figures) > 0 and math.fsum(figures) < math.inf)


def outliers(ordered: list[float]) -> int:
    """How many of sorted figures, one at least, Hampel's identifier calls outliers."""
    middle = median(ordered)
    bound = max(_DEVIATIONS * _SCALE * _spread(ordered, middle), _LEAST * middle)
    return bisect_left(ordered, middle - bound) + len(ordered) - bisect_right(ordered, middle + bound)


def _spread(ordered: list[float], middle: float) -> float:
    """The median distance of sorted figures from their median.

    The k nearest of them stand side by side, so they are found by halving, without sorting distances.
    """
    count = len(ordered)
    half = (count + 1) // 2
    reaches = [_reach(ordered, middle, nearest) for nearest in ({half, count // 2 + 1})]
    return sum(reaches) / len(reaches)


def _reach(ordered: list[float], middle: float, nearest: int) -> float:
    """The distance within which `nearest` of sorted figures lie."""
    low, high = 0, len(ordered) - nearest
    while low < high:
        begin = (low + high) // 2
        if middle - ordered[begin] > ordered[begin + nearest] - middle:
            low = begin + 1
        else:
            high = begin
    return max(middle - ordered[low], ordered[low + nearest - 1] - middle)


def median(ordered: list[float]) -> float:
    """The median of sorted figures, one at least."""
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
