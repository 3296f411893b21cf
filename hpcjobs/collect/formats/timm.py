"""timm's train.py, old and new.

    Training in distributed mode with multiple processes, 1 device per process.Process 0, total 8, device cuda:0.
    Train: 0 [  50/1251 (  4%)]  Loss: 6.96 (6.96)  Time: 0.734s,  261.42/s  (0.742s,  258.85/s)  LR: ...

Time and rate are of the step and, in brackets, the mean since the epoch's begin. The rate is over all GPUs, and of an
optimizer's step, so it counts accumulation. Rate times time is the batch of all GPUs.
"""

from __future__ import annotations

import bisect
import re

from hpcjobs.collect.formats.facts import Facts, Product, contradiction, half, rounded
from hpcjobs.collect.formats.matches import Matches, same
from hpcjobs.collect.formats.meters import EpochRun, MeterReader
from hpcjobs.collect.lines import WHOLE, Line

_NUMBER = rb"(\d{1,12}(?:\.\d{1,12})?)" + WHOLE
_TIME, _RATE = rb"(\d{1,12}\.\d{3})", rb"(\d{1,12}\.\d\d)"
_PROCESSES = re.compile(r"\bProcess \d+, total (\d{1,9})\b")
_SINGLE = re.compile(r"Training with a single process on (1 device|1 GPU)")


class _Run(EpochRun):
    """One run."""

    def __init__(self) -> None:
        super().__init__()
        self.batch = Product("rate x time of a step")
        self.mean = Product("mean rate x mean time of a step")


class TimmReader(MeterReader[_Run]):
    """Reads the logs that the text at the top of this file describes."""

    name = "timm"
    mean = 6
    begin = b"Training in distributed mode"
    heads = (b"Process ", b"single process", *Facts.needles)
    steps = re.compile(
        rb"Train: (\d{1,9}) \[ *(\d{1,9})/(\d{1,9}) \( *\d+%\)\][^\n\x1e]*?Time: +" + _NUMBER + rb"s, +" + _NUMBER
        + rb"/s +\( *" + _NUMBER + rb"s, +" + _NUMBER + rb"/s\)"
    )  # fmt: skip
    plain = re.compile(
        rb"Train: (\d{1,9}) \[ *(\d{1,9})/(\d{1,9}) \( *\d+%\)\].*Time: +" + _TIME + rb"s, +" + _RATE
        + rb"/s +\( *" + _TIME + rb"s, +" + _RATE + rb"/s\)"
    )  # fmt: skip
    marks = (b"Train: ",)
    fixed = True

    def new(self) -> _Run:
        return _Run()

    def head(self, line: Line) -> None:
        if match := _PROCESSES.search(line.text):
            self.run.facts.say("gpus", int(match[1]), line.number, "Process ..., total")
        elif _SINGLE.search(line.text):
            self.run.facts.say("gpus", 1, line.number, "a single process on GPUs:")
        else:
            self.run.facts.take(line)

    def step(self, match: re.Match[bytes]) -> None:
        epoch, step, of, time, rate, mean, means = match.groups()
        if self.epoch_line(int(epoch), int(step), int(of), mean, match.start()) and int(step) + 1 < int(of):
            run, line = self.run, self.numbers.at(match.start())
            run.batch.add(float(rate), half(rate), float(time), half(time), line)
            run.mean.add(float(means), half(means), float(mean), half(mean), line)

    def figures(self, found: Matches, begin: int, end: int, steps: list[int]) -> bool:
        of, run = found.column(3, begin, end), self.run
        if not same(of):
            return False
        end = begin + bisect.bisect_left(steps, int(of[0]) - 1)  # The last step's batch may be smaller.
        if begin == end:
            return True
        time, rate, mean, means = (rounded(found, group, begin, end) for group in (4, 5, 6, 7))
        bounds, mean_bounds = run.batch.bounds(rate, time), run.mean.bounds(means, mean)
        if not bounds or not mean_bounds:
            return False
        line = self.line_of(found, end - 1)
        run.batch.narrow(bounds, line)
        run.mean.narrow(mean_bounds, line)
        return True

    def end(self, run: _Run) -> None:
        steady = run.steady()
        batch, mean = run.batch.fact(), run.mean.fact()
        why = run.batch.why or run.mean.why or contradiction(mean, batch)
        whole = run.batch.whole() or run.mean.whole()
        total = mean.value * steady.rate if steady and mean and not whole and not why else None
        self.add_epochs(run, steady, "rate over all GPUs", "images", batch=whole, why=why, total=total)
