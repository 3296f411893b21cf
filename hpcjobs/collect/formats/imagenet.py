"""PyTorch's ImageNet example, and the scripts that were made from it (Apex, DALI and many others).

    Epoch: [0][  10/5005]  Time  0.300 ( 0.400)  Data  0.000 ( 0.101)  Loss 6.9e+00 (7.0e+00)  Acc@1 ...
    Epoch: [0][10/125]     Time 0.866 (0.866)  Speed 230.949 (230.949)  Loss ...            Apex

The time is of one step, and in brackets the mean since the epoch's begin, which counts. Speed is over all GPUs. The
example prints neither batch nor GPUs: without them there is the time of a step alone. `Use GPU: 0 for training` says
which GPU of its node a process has, and not how many there are. Where gradients are accumulated, nobody knows whether a
step is one of the optimizer.
"""

from __future__ import annotations

import re

from hpcjobs.collect.formats.facts import ACCUMULATION, Fact, Facts, Product, contradiction, half, rounded
from hpcjobs.collect.formats.matches import Matches, same
from hpcjobs.collect.formats.meters import EpochRun, MeterReader
from hpcjobs.collect.lines import WHOLE, Line

_NUMBER = rb"(\d{1,12}(?:\.\d{1,12})?)" + WHOLE
_PLAIN = rb"(\d{1,12}\.\d{3})"


class _Run(EpochRun):
    """One run."""

    def __init__(self) -> None:
        super().__init__()
        self.batch = Product("Speed x Time of a step")


class ImagenetReader(MeterReader[_Run]):
    """Reads the logs that the text at the top of this file describes."""

    name = "imagenet"
    begin = b"Namespace("
    heads = (b"ccum", *Facts.needles)
    steps = re.compile(
        rb"Epoch: \[(\d{1,9})\]\[ *(\d{1,9})/(\d{1,9})\]\s+(?:\| )?Time +" + _NUMBER + rb" +\( *" + _NUMBER
        + rb"\)(?:[ \t]+Speed +" + _NUMBER + rb" +\( *" + _NUMBER + rb"\))?"
    )  # fmt: skip
    plain = re.compile(
        rb"Epoch: \[(\d{1,9})\]\[ *(\d{1,9})/(\d{1,9})\]\s+Time +" + _PLAIN + rb" +\( *" + _PLAIN
        + rb"\)(?:[ \t]+Speed +" + _PLAIN + rb" +\( *" + _PLAIN + rb"\))?"
    )  # fmt: skip
    marks = (b"Epoch: [",)
    fixed = True

    def new(self) -> _Run:
        return _Run()

    def head(self, line: Line) -> None:
        if match := ACCUMULATION.search(line.text):
            self.run.facts.say("accumulation", int(match[1]), line.number, "accumulation of gradients")
        self.run.facts.take(line)

    def step(self, match: re.Match[bytes]) -> None:
        epoch, step, of, _, mean, _, speed = match.groups()
        if self.epoch_line(int(epoch), int(step), int(of), mean, match.start()) and speed:
            line = self.numbers.at(match.start())
            self.run.batch.add(float(speed), half(speed), float(mean), half(mean), line)

    def figures(self, found: Matches, begin: int, end: int, steps: list[int]) -> bool:
        speeds = found.column(7, begin, end)
        if same(speeds) and not speeds[0]:
            return True
        bounds = (
            None
            if None in speeds
            else self.run.batch.bounds(rounded(found, 7, begin, end), rounded(found, 5, begin, end))
        )
        if bounds:
            self.run.batch.narrow(bounds, self.line_of(found, end - 1))
        return bounds is not None

    def end(self, run: _Run) -> None:
        steady, mean = run.steady(), run.batch.fact()
        batch, said = run.batch.whole(), run.facts.get("global_batch", self.findings)
        # Rounding may leave several batches open: their middle is exact enough for a rate.
        total = mean.value * steady.rate if mean and steady and not batch and not said else None
        why = run.batch.why or (contradiction(run.batch.fact(), run.facts.first.get("global_batch")) if said else "")
        if not why and any(value and value.value > 1 for value in _accumulated(run.facts)):
            why = "gradients are accumulated: the log does not say whether a step is one of the optimizer"
        self.add_epochs(run, steady, "mean Time of a step", "images", batch=said or batch, why=why, total=total)


def _accumulated(facts: Facts) -> tuple[Fact | None, Fact | None]:
    return facts.first.get("accumulation"), facts.against.get("accumulation")
