"""The steady state of a run: the mean step over its timed windows, and how many of these stand out."""

from __future__ import annotations

import dataclasses
import statistics
from array import array

# A window stands out beyond so many scaled median absolute deviations from the median ...
_DEVIATIONS = 3.0
# ... where these are scaled to the standard deviation of normal noise ...
_SCALE = 1.4826
# ... and beyond this fraction of the median: what is all but constant has no outliers.
_LEAST = 0.01
# Of more windows than these, neighbours are merged, so that the memory stays flat.
KEPT = 1 << 16


@dataclasses.dataclass(frozen=True)
class Steady:
    """`step_ms`: time of all timed steps over their number, outliers kept; `outliers` of the `windows` stand out."""

    step_ms: float
    windows: int
    outliers: int


class Windows:
    """Timed windows, taken one by one in the order of time. Memory is bounded, and the mean exact."""

    def __init__(self) -> None:
        self._steps = array("d")
        self._step_ms = array("d")
        self._count = 0

    def add(self, steps: float, step_ms: float) -> None:
        """A window of `steps` steps, which took `step_ms` milliseconds each."""
        self._steps.append(steps)
        self._step_ms.append(step_ms)
        self._count += 1
        if len(self._steps) == KEPT:
            self._merge()

    def _merge(self) -> None:
        pairs = zip(self._steps[::2], self._steps[1::2], self._step_ms[::2], self._step_ms[1::2], strict=True)
        merged = [(n + m, (n * a + m * b) / (n + m)) for n, m, a, b in pairs]
        self._steps, self._step_ms = array("d", [n for n, _ in merged]), array("d", [ms for _, ms in merged])

    def steady(self) -> Steady | None:
        """What they say together; None of no window.

        An outlier is what Hampel's identifier calls one: beyond 3 scaled median absolute deviations from the
        median (Davies and Gather, J. Am. Stat. Assoc. 88, 1993), and beyond 1 % of it.
        """
        if not self._count:
            return None
        middle = statistics.median(self._step_ms)
        distances = [abs(ms - middle) for ms in self._step_ms]
        bound = max(_DEVIATIONS * _SCALE * statistics.median(distances), _LEAST * middle)
        total = sum(steps * ms for steps, ms in zip(self._steps, self._step_ms, strict=True))
        return Steady(total / sum(self._steps), self._count, sum(distance > bound for distance in distances))
