"""Logs of NERSC's deep-learning tutorials and of scripts that began with them: time and mean rate of each epoch.

    2021-11-12 00:46:23,492 - root - INFO - Time taken for epoch 1 is 752.95 sec, avg 87.04 samples/sec

The rate is the global batch times the steps of the epoch, over its time: samples of all GPUs. The first of several
epochs is warm-up. Where the log says how many samples an epoch has (`Nsamples`), they must fit.
"""

from __future__ import annotations

import re
from operator import mul

from hpcjobs.collect.formats.facts import Fact, Facts, contradiction
from hpcjobs.collect.formats.matches import Matches, positive
from hpcjobs.collect.formats.steps import Run, StepReader
from hpcjobs.collect.lines import Line

_NUMBER = rb"(\d{1,12}(?:\.\d{1,20})?)"
_SAMPLES = re.compile(r"\bNsamples[:=]? (\d{1,12})\b")


class _Run(Run):
    """One run."""

    def __init__(self) -> None:
        super().__init__()
        self.epochs = 0
        self.why = ""  # what contradicts an epoch


class EpochsReader(StepReader[_Run]):
    """Reads the logs that the text at the top of this file describes."""

    name = "epochs"
    heads = (b"Nsamples", *Facts.needles)
    of_epochs = True
    steps = re.compile(rb"Time taken for epoch (\d{1,9}) is " + _NUMBER + rb" sec, avg " + _NUMBER + rb" samples/sec")

    def new(self) -> _Run:
        return _Run()

    def head(self, line: Line) -> None:
        if match := _SAMPLES.search(line.text):
            self.run.facts.say("samples", int(match[1]), line.number, "Nsamples")
        else:
            super().head(line)

    def step(self, match: re.Match[bytes]) -> None:
        epoch, time, rate = int(match[1]), float(match[2]), float(match[3])
        run, count = self.follow(epoch, match)
        if count:
            run.add(rate * time, time)
            run.epochs += 1
            samples = run.facts.first.get("samples")
            said = Fact(rate * time, self.numbers.at(match.start()), "samples of an epoch")
            run.why = run.why or contradiction(said, samples)

    def many(self, found: Matches, begin: int) -> int:
        run, times, rates = self.run, found.floats(2, begin), found.floats(3, begin)
        work, samples = list(map(mul, rates, times)), run.facts.first.get("samples")
        if not positive(work) or not positive(times):
            return begin
        if not run.why and any(contradiction(Fact(one(work), 0, ""), samples) for one in (min, max)):
            return begin
        if not run.counts(found.wholes(1, begin)):
            return begin
        run.extend(work, times)
        run.epochs += len(times)
        return found.count

    def end(self, run: _Run) -> None:
        several = run.epochs > 1
        steady = run.settled(1 if several else 0, "all but the first epoch" if several else "all")
        facts = {**run.facts.own(self.findings), "global_batch": run.facts.get("global_batch", self.findings)}
        if run.why or steady is None:
            self.add_run(run.line, "avg of an epoch", unit="samples", why=run.why, **facts)
        else:
            self.add_run(
                *(run.line, "avg of the epochs"),
                total=steady.rate,
                sd=steady.sd,
                steady=steady,
                unit="samples",
                **facts,
            )
