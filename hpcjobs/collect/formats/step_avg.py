"""Logs of modded-nanogpt and of the trainings that began with it: `step_avg`, the mean time of a step.

    step:1489/1490 train_time:212893ms step_avg:143.94ms
    step:1490/1490 train_time:213044ms step_avg:143.95ms
    step:1490/1490 val_loss:3.2794 train_time:213121ms step_avg:144.00ms

step_avg leaves out the first steps where the script does. The last line of a training step counts; its train_time and
the times between lines must fit. Such a log prints its own source code: what is in there is no fact of the run, so
neither batch nor GPUs are read.
"""

from __future__ import annotations

import math
import re
from itertools import repeat
from operator import sub, truediv

from hpcjobs.collect.agreement import alike
from hpcjobs.collect.formats.facts import Fact
from hpcjobs.collect.formats.matches import Matches, positive
from hpcjobs.collect.formats.steps import Run, StepReader
from hpcjobs.collect.lines import WHOLE, Line
from hpcjobs.collect.world import OWN, Gpus

_NUMBER = rb"(\d{1,12}(?:\.\d{1,12})?)" + WHOLE
_PLAIN = rb"(\d{1,12}\.?\d{0,12})"
# So many first steps may be left out of step_avg.
_WARMUP = 100


class _Run(Run):
    """One run."""

    def __init__(self) -> None:
        super().__init__()
        self.newest: tuple[int, float, float, int] | None = None  # step, ms, step_avg, line: of a training step
        self.checked: tuple[int, float, float, int] | None = None  # the same of a line of a validation
        self.ms = math.inf


class StepAvgReader(StepReader[_Run]):
    """Reads the logs that the text at the top of this file describes."""

    name = "step_avg"
    heads = ()
    steps = re.compile(
        rb"step:(\d{1,12})/\d{1,12} (?:(val_loss:)\S+ |train_loss:\S+ )?train_time:" + _NUMBER
        + rb"ms step_avg:" + _NUMBER + rb"ms"
    )  # fmt: skip
    plain = re.compile(
        rb"step:(\d{1,12})/\d{1,12} (?:(val_loss:)\S+ )?train_time:" + _PLAIN + rb"ms step_avg:" + _PLAIN + rb"ms"
    )  # fmt: skip
    marks = (b"step_avg:",)

    def new(self) -> _Run:
        return _Run()

    def gpus(self, line: int, own: int | None, words: str = OWN, begin: int | None = None) -> Gpus:
        """No number of GPUs: what looks like one is source code."""
        return Gpus()

    def head(self, line: Line) -> None:
        """Nothing before the first step is read."""

    def step(self, match: re.Match[bytes]) -> None:
        run, step = self.run, int(match[1])
        said = step, float(match[3]), float(match[4]), self.numbers.at(match.start())
        if match[2]:
            run.checked, run.ms = said, math.inf
            return
        run, count = self.follow(step, match)
        if count:
            if said[1] > run.ms:
                run.add(float(count), (said[1] - run.ms) / 1000)
            run.newest, run.ms = said, said[1]

    def many(self, found: Matches, begin: int) -> int:
        run, checks = self.run, found.column(2, begin)
        end = begin + next((at for at, one in enumerate(checks) if one), len(checks))
        if begin == end or run.ms == math.inf:
            return begin
        totals = found.floats(3, begin, end)
        times = list(map(sub, totals, [run.ms, *totals]))
        if not positive(times) or not (ahead := run.counts(found.wholes(1, begin, end))):
            return begin
        run.extend(ahead, list(map(truediv, times, repeat(1000))))
        line = self.line_of(found, end - 1)
        run.newest = run.last, totals[-1], found.floats(4, end - 1, end)[0], line
        run.ms = totals[-1]
        return end

    def end(self, run: _Run) -> None:
        newest = run.newest or run.checked
        if newest is None or not newest[2]:
            return
        step, total, each, line = newest
        steady, said, other = run.settled(), Fact(each, line, "step_avg"), None
        slack = 0.01 * step + 2
        if not step - _WARMUP - slack <= total / each <= step + slack:
            other = Fact(total / max(step, 1), line, "train_time over the steps")
        elif steady and 10 * sum(run.windows.work) >= step and not alike(each, 1000 / steady.rate):
            other = Fact(1000 / steady.rate, run.line, "ms of a step by the train_time of the lines from there on")
        why = "the log gives the time of a step, but not the batch: there is no rate"
        self.add_run(
            run.line,
            "step_avg of the last step",
            step_ms=each if other is None else None,
            steady=steady if other is None else None,
            unit="steps",
            why=why if other is None else f"the log contradicts itself: {said}; {other}: no figure counts",
        )
