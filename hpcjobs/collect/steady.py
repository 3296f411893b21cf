"""The steady state of a run: its timed windows in flat memory, their rate, and how many of them stand out."""

from __future__ import annotations

import dataclasses
import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from operator import add, truediv

from hpcjobs.collect.measurements import SteadyRate

# A window stands out if it lies more than 3 scaled median absolute deviations from the median ...
_DEVIATIONS = 3.0
# ... scaled, so that of normal noise one is a standard deviation ...
_SCALE = 1.4826
# ... and more than 1 % of the median: windows that are all but equal have no outliers.
_LEAST = 0.01

# Of more windows than this (even), neighbours are joined two by two.
_KEPT = 8192

TENTH = "all but the first tenth of the windows, and at least one of several"


@dataclasses.dataclass(frozen=True)
class SteadyStep:
    """`step_ms`: time of all steps over their number, outliers included; `outliers` of the `windows` stand out."""

    step_ms: float
    windows: int
    outliers: int


class Windows:
    """Timed windows in order: of each its work (steps, images, or 1 if all are alike) and the time that it took.

    Times are in seconds for `steady` and in ms for `steady_step`. At `kept` windows each two neighbours become one,
    so that memory is bounded; their sums stay exact. One then stands for `lines` of the log's windows; `added` counts
    the log's.
    """

    def __init__(self, kept: int = _KEPT) -> None:
        self.kept = kept
        self.work = array("d")
        self.times = array("d")
        self.lines = 1
        self.added = 0
        # The newest windows, too few to make up `lines`.
        self._open_work: Sequence[float] = ()
        self._open_times: Sequence[float] = ()
        self._step: SteadyStep | None = None  # of the windows so far

    def __len__(self) -> int:
        return len(self.work)

    def add(self, work: float, time: float) -> None:
        """Take one window. It is left out if its work or time is zero, negative, infinite or not a number."""
        if 0 < work < math.inf and 0 < time < math.inf:
            self.extend((work,), (time,))

    def extend(self, work: Sequence[float], times: Sequence[float]) -> None:
        """Take many windows at once. They are not checked: all figures must be above 0 and finite."""
        self.added += len(work)
        if self.lines == 1 and len(self.work) + len(work) < self.kept:
            self.work += array("d", work)  # which takes less than to extend it by a list
            self.times += array("d", times)
            return
        if self._open_work:
            work, times = [*self._open_work, *work], [*self._open_times, *times]
        while True:
            free = (self.kept - len(self.work)) * self.lines
            whole = min(free, len(work) - len(work) % self.lines)
            self.work += array("d", _joined(work[:whole], self.lines))
            self.times += array("d", _joined(times[:whole], self.lines))
            work, times = work[whole:], times[whole:]
            if len(self.work) < self.kept:
                break
            self.work, self.times = array("d", _joined(self.work, 2)), array("d", _joined(self.times, 2))
            self.lines *= 2
        self._open_work, self._open_times = work, times

    def steady(self, warmup: int | None = None, rule: str = TENTH) -> SteadyRate | None:
        """The rate, in work per second, or None if there is no window.

        The first `warmup` windows do not count, and `rule` says why. If it is None the first tenth does not count,
        of two or more windows at least one. Windows that were joined are not taken apart again.
        """
        if warmup is None:
            warmup = -(-len(self.work) // 10) if len(self.work) > 1 else 0
        work, times = self.work[warmup:], self.times[warmup:]
        if not work:
            return None
        rates = list(map(truediv, work, times))
        count, mean = len(rates), math.fsum(rates) / len(rates)
        return SteadyRate(
            rate=_sum(work, self._open_work) / _sum(times, self._open_times),
            sd=math.dist(rates, [mean] * count) / math.sqrt(count - 1) if count > 1 else None,
            windows=count,
            warmup=warmup,
            outliers=outliers(sorted(rates)),
            lines=self.lines,
            rule=rule,
        )

    def steady_step(self) -> SteadyStep | None:
        """The ms of one step, of windows whose work is steps, or None if there is no window. All windows count."""
        if not self.work:
            return None
        if self._step and self._step.windows == self.added:
            return self._step
        mean = _sum(self.times, self._open_times) / _sum(self.work, self._open_work)
        self._step = SteadyStep(mean, self.added, outliers(sorted(map(truediv, self.times, self.work))))
        return self._step


def scaled(steady: SteadyRate | None, factor: float | None) -> SteadyRate | None:
    """A steady state in another unit, `factor` of which are one of the old; unchanged if `factor` is not known."""
    if steady is None or factor is None or factor == 1:
        return steady
    sd = None if steady.sd is None else steady.sd * factor
    return dataclasses.replace(steady, rate=steady.rate * factor, sd=sd)


def outliers(ordered: Sequence[float]) -> int:
    """How many of sorted figures, at least one, are outliers by Hampel's identifier.

    That is: more than 3 scaled median absolute deviations from the median (Davies and Gather, J. Am. Stat. Assoc.
    88, 1993), and more than 1 % of it.
    """
    middle = _median(ordered)
    bound = max(_DEVIATIONS * _SCALE * _spread(ordered, middle), _LEAST * middle)
    return bisect_left(ordered, middle - bound) + len(ordered) - bisect_right(ordered, middle + bound)


def _median(ordered: Sequence[float]) -> float:
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def _spread(ordered: Sequence[float], middle: float) -> float:
    """The median distance of sorted figures from their median.

    The k figures nearest to it are neighbours, so bisection finds them without sorting the distances.
    """
    count = len(ordered)
    reaches = [_reach(ordered, middle, nearest) for nearest in {(count + 1) // 2, count // 2 + 1}]
    return sum(reaches) / len(reaches)


def _reach(ordered: Sequence[float], middle: float, nearest: int) -> float:
    """The distance from `middle` within which `nearest` of sorted figures lie."""
    low, high = 0, len(ordered) - nearest
    while low < high:
        begin = (low + high) // 2
        if middle - ordered[begin] > ordered[begin + nearest] - middle:
            low = begin + 1
        else:
            high = begin
    return max(middle - ordered[low], ordered[low + nearest - 1] - middle)


def _joined(sums: Sequence[float], lines: int) -> Sequence[float]:
    """The sums of each `lines` neighbours, a power of two."""
    while lines > 1:
        sums, lines = list(map(add, sums[::2], sums[1::2])), lines // 2
    return sums


def _sum(figures: Sequence[float], more: Sequence[float]) -> float:
    return math.fsum(figures) + math.fsum(more)
