"""The base of rooms whose lines give the mean since the epoch's begin: `Time 0.300 ( 0.400)` and the like.

The mean of an epoch's last line, times its steps, is the time of the epoch: one window. Of the run's first epoch the
first tenth does not count, up to the first line after it; where there is one line alone, nothing can be left out of its
mean, and the epoch does not count. A later epoch that ended before its half does not count, either: its mean is that of
its start. Means are rounded: by how much that may be wrong is told, or refused, as `facts.coarse` says. Where ranks
print the same line without a prefix, the first counts.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import repeat
from operator import add, mul
from typing import Any, ClassVar, TypeVar

from hpcjobs.collect.agreement import alike
from hpcjobs.collect.formats.facts import Figures, coarse, half, rounded
from hpcjobs.collect.formats.matches import Matches, counts, leading
from hpcjobs.collect.formats.steps import Run, StepReader
from hpcjobs.collect.measurements import SteadyRate

RULE = "all but the first tenth of the first epoch"
LONE = "the mean of the steps holds the run's start, and no later line lets it be left out: no figure counts"
# The first steps of ranks may differ.
_SETTLED = 10
# Lines that are kept; of more, every second is dropped.
_KEPT = 4096


class RunningMean:
    """Lines that each give the mean of all steps so far: steps up to a line, more of each, and the s that they took.

    Of each line there is the largest rounding error of the s, too; or the rate in steps a second as it is printed, from
    which the s follow: its rounding error is reckoned for the two lines that count.
    """

    def __init__(self) -> None:
        self.counts: list[float] = []
        self.times: list[float] = []
        self.errors: list[float | bytes] = []

    def add(self, count: float, time: float, error: float | bytes) -> None:
        """Take a line."""
        self.extend((count,), (time,), (error,))

    def extend(self, counts: Sequence[float], times: Sequence[float], errors: Sequence[float | bytes]) -> None:
        """Take lines: of each what `add` takes."""
        begin = 0
        while begin < len(counts):
            end = begin + _KEPT + 1 - len(self.counts)
            self.counts += counts[begin:end]
            self.times += times[begin:end]
            self.errors += errors[begin:end]
            begin = end
            if len(self.counts) > _KEPT:
                del self.counts[1::2], self.times[1::2], self.errors[1::2]

    def rest(self) -> tuple[float, float, float] | None:
        """Steps, s and rounding error from the first line after the first tenth to the last; None of a single line."""
        if len(self.counts) < 2:
            return None
        newest = self.counts[-1]  # of which there are more than of each line before
        begin = min(bisect_left(self.counts, newest / 10), len(self.counts) - 2)
        if self.times[-1] <= self.times[begin]:
            return None
        return newest - self.counts[begin], self.times[-1] - self.times[begin], self._error(-1) + self._error(begin)

    def _error(self, at: int) -> float:
        error = self.errors[at]
        return half(error) * self.times[at] ** 2 / self.counts[at] if isinstance(error, bytes) else error


class EpochRun(Run):
    """One run, whose newest epoch is open."""

    def __init__(self) -> None:
        super().__init__()
        self.epoch = -1
        self.length = 0  # steps of an epoch
        self.offset = 0  # 1: the epoch's first line is that of step 0, so n stands for n + 1 steps
        self.start: RunningMean | None = RunningMean()  # of the first epoch, until it ends
        self.means: dict[int, float] = {}  # of its steps
        self.odd = ""  # what says that its lines are of two starts
        self.newest: tuple[float, float, float] = (0, 0.0, 0.0)  # steps, s and rounding error of the open epoch
        self.error = 0.0  # of all windows together, s

    def take(self, epoch: int, step: int, length: int, mean: bytes) -> bool:
        """Take a line with its mean in s. Returns whether it counts: a copy of another rank does not."""
        if epoch < self.epoch:
            return False
        if epoch != self.epoch:
            self.close_epoch()
            self.epoch, self.length, self.offset, self.last = epoch, length, 1 if step == 0 else 0, -1
        if step <= self.last:
            self._compare(step, float(mean))
            return False
        self.last = step
        count = step + self.offset
        self.newest = count, count * float(mean), count * half(mean)
        if self.start is not None:
            self.start.add(*self.newest)
            if len(self.means) < _KEPT:
                self.means[step] = float(mean)
        return True

    def _compare(self, step: int, mean: float) -> None:
        """Compare the mean of a step that was seen: ranks of one training wait for each other, so theirs are alike."""
        known = self.means.get(step) if self.start is not None else None
        if known and step >= _SETTLED and mean and not alike(known, mean):
            self.odd = (
                f"the means of step {step} of epoch {self.epoch}, {known:g} and {mean:g} s, are of two starts of the "
                "training: no figure counts"
            )

    def extend_epoch(self, steps: list[int], means: Figures) -> None:
        """Take lines of the open epoch, each a step after the one before."""
        self.last = steps[-1]
        counts = list(map(add, steps, repeat(self.offset)))
        times, errors = list(map(mul, counts, means[0])), list(map(mul, counts, means[1]))
        self.newest = counts[-1], times[-1], errors[-1]
        if self.start is not None:
            self.start.extend(counts, times, errors)
        if self.start is not None:
            self.means.update(list(zip(steps, means[0], strict=True))[: _KEPT - len(self.means)])

    def restarts(self, epoch: int, step: int) -> bool:
        """Whether a line begins another run: an epoch before, or the begin of this one after half of its steps.

        What comes less late is another rank's copy.
        """
        return epoch < self.epoch - 1 or (epoch <= self.epoch and step <= 1 and 2 * self.last > self.length)

    def close_epoch(self) -> None:
        """Add the open epoch as a window."""
        count, time, error = self.newest
        self.newest = 0, 0.0, 0.0
        if not count:
            return
        if self.start is not None:
            rest, self.start = self.start.rest(), None
            if rest is None:
                return
            count, time, error = rest
        elif 2 * count < self.length:
            return
        if 0 < time < math.inf:
            self.windows.extend((count,), (time,))
            self.error += error

    def steady(self) -> SteadyRate | None:
        """The steady state of its epochs, in steps a second."""
        self.close_epoch()
        return self.windows.steady(0, RULE)

    def coarse(self) -> float:
        """The largest relative error that rounding leaves in the steady state."""
        time = math.fsum(self.windows.times)
        return self.error / time if time else 0.0


E = TypeVar("E", bound=EpochRun)


class MeterReader(StepReader[E]):
    """Reads lines whose first groups are the epoch, the step and the epoch's steps; that of the mean is `mean`."""

    mean: ClassVar[int] = 5

    def many(self, found: Matches, begin: int) -> int:
        run, epochs = self.run, found.column(1, begin)
        if int(epochs[0]) != run.epoch:
            return begin
        end = begin + leading(epochs)
        steps = found.wholes(2, begin, end)
        if steps[0] < 2 or not counts(run.last, steps) or not self.figures(found, begin, end, steps):
            return begin
        # Of later epochs the last line counts alone.
        first = begin if run.start is not None else end - 1
        run.extend_epoch(steps[first - begin :], rounded(found, self.mean, first, end))
        return end

    def figures(self, found: Matches, begin: int, end: int, steps: list[int]) -> bool:
        """Take what else the lines of these steps of an epoch say. Returns whether it did; else `step` must."""
        return True

    def epoch_line(self, epoch: int, step: int, length: int, mean: bytes, at: int) -> bool:
        """Take the line at position `at`, and begin another run if it is the first of one."""
        if self.run.restarts(epoch, step):
            self.again(at)
        return self.run.take(epoch, step, length, mean)

    def add_epochs(self, run: E, steady: SteadyRate | None, figure: str, unit: str, *, why: str, **more: Any) -> None:
        """Add a run by the means of its epochs, as add_steps does. Without a window it has no figure."""
        if steady is None:
            self.add_run(run.line, figure, unit=unit, why=run.odd or why or LONE, **run.facts.own(self.findings))
            return
        told, refused = coarse(run.coarse(), "means")
        if told:
            self.findings.problem(run.line, told)
        self.add_steps(run, steady, figure, unit, why=run.odd or why or refused, **more)
