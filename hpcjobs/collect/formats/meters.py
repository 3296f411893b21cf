"""The base of rooms whose lines give the mean since the epoch's begin: `Time 0.300 ( 0.400)` and the like.

The mean of an epoch's last line, times its steps, is the time of the epoch: one window. Lines near each other do not
give the time between them, as the mean is rounded. Of the run's first epoch the first tenth does not count, up to the
first line after it. Where ranks print the same line without a prefix, the first counts.
"""

from __future__ import annotations

import math
from typing import TypeVar

from hpcjobs.collect.formats.facts import half
from hpcjobs.collect.formats.steps import Run, StepReader
from hpcjobs.collect.measurements import SteadyRate

RULE = "all but the first tenth of the first epoch"
# Lines of the first epoch that are kept; of more, every second is dropped.
_KEPT = 4096
# The largest relative error that rounding may leave.
_ERROR = 0.01


class EpochRun(Run):
    """One run, whose newest epoch is open."""

    def __init__(self) -> None:
        super().__init__()
        self.epoch = -1
        self.length = 0  # steps of an epoch
        self.offset = 0  # 1: the epoch's first line is that of step 0, so n stands for n + 1 steps
        self.lines: list[tuple[int, float]] = []  # steps up to a line, and their s: of the first epoch
        self.newest: tuple[int, float] = (0, 0.0)
        self.half = 0.0  # the rounding error of its mean

    def take(self, epoch: int, step: int, length: int, mean: bytes) -> bool:
        """Take a line with its mean in s. Returns whether it counts: a copy of another rank does not."""
        if epoch < self.epoch:
            return False
        if epoch != self.epoch:
            self.close_epoch()
            self.epoch, self.length, self.offset, self.last = epoch, length, 1 if step == 0 else 0, -1
        if step <= self.last:
            return False
        self.last = step
        count = step + self.offset
        self.newest, self.half = (count, count * float(mean)), half(mean)
        if not self.windows:
            self.lines.append(self.newest)
            if len(self.lines) > _KEPT:
                del self.lines[1::2]
        return True

    def restarts(self, epoch: int, step: int) -> bool:
        """Whether a line begins another run: an epoch before, or the begin of this one after half of its steps.

        What comes less late is another rank's copy.
        """
        return epoch < self.epoch - 1 or (epoch <= self.epoch and step <= 1 and 2 * self.last > self.length)

    def close_epoch(self) -> None:
        """Add the open epoch as a window."""
        count, time = self.newest
        if self.lines:
            before = [line for line in self.lines if line[0] < count]
            begin = next((line for line in before if 10 * line[0] >= count), before[-1] if before else (0, 0.0))
            # The means are rounded: they give the time of the steps between if these are enough.
            error = self.half * (count + begin[0])
            if begin[0] < count and error <= _ERROR * (time - begin[1]):
                count, time = count - begin[0], time - begin[1]
            self.lines = []
        if count > 0 and 0 < time < math.inf:
            self.windows.extend((float(count),), (time,))
        self.newest = 0, 0.0

    def steady(self) -> SteadyRate | None:
        """The steady state of its epochs, in steps a second."""
        self.close_epoch()
        return self.windows.steady(0, RULE)


E = TypeVar("E", bound=EpochRun)


class MeterReader(StepReader[E]):
    """Reads lines of epochs and steps with a mean."""

    def epoch_line(self, epoch: int, step: int, length: int, mean: bytes, at: int) -> bool:
        """Take the line at position `at`, and begin another run if it is the first of one."""
        if self.run.restarts(epoch, step):
            self.again().line = self.numbers.at(at)
        return self.run.take(epoch, step, length, mean)
