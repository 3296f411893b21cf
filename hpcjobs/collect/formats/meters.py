"""The base of rooms whose lines give the mean since the epoch's begin: `Time 0.300 ( 0.400)` and the like.

From the mean of the first and of the last line of an epoch follows the time of the steps between. Lines near each other
do not give it: the mean is rounded, and counts many steps. So an epoch is one window. The first epoch begins with its
first line after a tenth of its steps; a log of one epoch without such a line, and all other epochs, count as a whole.
Where ranks print the same line without a prefix, the first counts.
"""

from __future__ import annotations

import math
import re

from hpcjobs.collect.formats.steps import R, Run, StepReader
from hpcjobs.collect.measurements import SteadyRate

RULE = "all but the first tenth of the first epoch"


class EpochRun(Run):
    """One run, whose newest epoch is open."""

    def __init__(self) -> None:
        super().__init__()
        self.epoch = -1
        self.length = 0  # steps of an epoch
        self.counted = 0  # epochs that were added
        self.begin: tuple[int, float] | None = None  # steps and s of the open epoch that do not count
        self.done: tuple[int, float] = (0, 0.0)  # steps and s of its newest line
        self.lines = 0  # of it
        self.offset = 0  # 1: its first line is that of step 0, so n stands for n + 1 steps

    def close_epoch(self) -> None:
        """Add the open epoch as a window."""
        count, time = self.done
        if self.begin is not None and count > self.begin[0] and time > self.begin[1]:
            count, time = count - self.begin[0], time - self.begin[1]
        elif self.begin is None and self.counted == 0 and self.lines == 1 and self.length > 10 * count:
            pass  # Only the first steps of the run: they count, as nothing else is known.
        if count > 0 and 0 < time < math.inf:
            self.windows.extend((float(count),), (time,))
            self.counted += 1
        self.done, self.begin, self.lines, self.offset = (0, 0.0), None, 0, 0


class MeterReader(StepReader[R]):
    """Reads lines of `steps`, whose groups `epoch`, `step`, `of` and `mean` it needs."""

    def take_mean(self, run: EpochRun, epoch: int, step: int, length: int, mean: float) -> bool:
        """Take a line. Returns whether it counts: not that of another rank, or of an epoch before."""
        if epoch != run.epoch:
            run.close_epoch()
            run.epoch, run.length, run.offset, run.last = epoch, length, 1 if step == 0 else 0, -1
        if step <= run.last:
            return False
        run.last, run.lines = step, run.lines + 1
        count = step + run.offset
        run.done = count, count * mean
        if run.counted == 0 and run.begin is None and 10 * count >= length and count > 1:
            run.begin = run.done
        return True

    def restarted(self, run: EpochRun, epoch: int, step: int) -> bool:
        """Whether a line begins another run: its epoch is one before, or its first step comes again."""
        return epoch < run.epoch - 1 or (epoch == run.epoch and step <= 1 and run.done[0] > 0.05 * run.length > step)

    @staticmethod
    def steady_epochs(run: EpochRun) -> SteadyRate | None:
        """The steady state of a run's epochs."""
        run.close_epoch()
        return run.windows.steady(0, RULE)
