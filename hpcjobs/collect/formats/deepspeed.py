"""DeepSpeed's timer of the throughput, and the lines of its pipeline engine.

    [2023-11-07 01:55:23,714] [INFO] [timer.py:260:stop] epoch=0/micro_step=40/global_step=10, RunningAvgSamplesPerSec=
      25.025771473496132, CurrSamplesPerSec=25.704280480541442, MemAllocated=4.32GB, MaxMemAllocated=38.49GB
    [...] [timer.py:198:stop] 0/20, RunningAvgSamplesPerSec=232.7, CurrSamplesPerSec=227.4         until 0.7
    [...] [timer.py:154:stop] 0/20, SamplesPerSec=109.7                                            until 0.5
    steps: 20 loss: 7.1 iter time (s): 1.230 samples/sec: 104.065                                  pipeline

The rates are over all GPUs. The running average begins at the third step; from two of them follows the rate of the
steps between, and one alone, which holds the start, gives no figure. The timer does not count what is between two
steps, such as waiting for data: time stamps and batch show how much that is.
"""

from __future__ import annotations

import math
import re
from itertools import repeat
from operator import sub, truediv

from hpcjobs.collect.formats.facts import Fact, Facts, coarse, contradiction
from hpcjobs.collect.formats.matches import Matches
from hpcjobs.collect.formats.meters import LONE, RunningMean
from hpcjobs.collect.formats.stamps import Stamps, line_before
from hpcjobs.collect.formats.steps import Run, StepReader
from hpcjobs.collect.lines import WHOLE, Line
from hpcjobs.collect.steady import scaled

_NUMBER = rb"(\d{1,12}(?:\.\d{1,20})?)" + WHOLE
_CONFIG = re.compile(
    r":print\] +(train_batch_size|train_micro_batch_size_per_gpu|gradient_accumulation_steps|world_size) "
    r"(?:\.+ | *)(\d{1,9})\s*$"
)
_NAMES = {
    "train_batch_size": "global_batch",
    "train_micro_batch_size_per_gpu": "micro",
    "gradient_accumulation_steps": "accumulation",
    "world_size": "parallel",
}
# A model that several GPUs share: then the engine's world size is a part of them.
_SHARED = re.compile(
    r"(?i)\b(?:tensor|model|pipeline|pipe|sequence|expert)[ _-](?:model[ _-])?parallel(?:[ _-](?:size|degree))?\W{1,40}"
    r"(?:[2-9]|\d\d)|\bmp_size\W{1,40}(?:[2-9]|\d\d)|\bPipelineEngine\b|\bSTAGE=[1-9]"
)
# The timer leaves out its first steps.
_START = 2


class _Run(Run):
    """One run."""

    def __init__(self) -> None:
        super().__init__()
        self.average = 0.0
        self.means = RunningMean()  # of the running averages: steps, and s of a sample for each of them
        self.stamps = Stamps()
        self.before: tuple[int, float] | None = None  # step and s of a sample up to it, of the newest running average
        self.end = 0  # the line of the newest step
        self.why = ""
        self.shared = False  # whether several GPUs share the model


class DeepspeedReader(StepReader[_Run]):
    """Reads the logs that the text at the top of this file describes."""

    name = "deepspeed"
    begin = b":print]   train_batch_size ."
    heads = (b":print]", b"arallel", b"mp_size", b"PipelineEngine", b"STAGE=", *Facts.needles)
    steps = re.compile(
        rb"[=/](\d{1,12}), (?:RunningAvg)?SamplesPerSec=" + _NUMBER
        + rb"|\bsteps: (\d{1,12}) loss: \S+ iter time \(s\): " + _NUMBER + rb" samples/sec: " + _NUMBER
    )  # fmt: skip
    plain = re.compile(
        rb"global_step=(\d{1,12}), RunningAvgSamplesPerSec=(\d{1,12}\.?\d{0,20}), CurrSamplesPerSec=[\d.]+"
    )
    marks = (b", RunningAvgSamplesPerSec=", b", SamplesPerSec=", b" iter time (s): ")

    def new(self) -> _Run:
        return _Run()

    def head(self, line: Line) -> None:
        facts = self.run.facts
        self.run.shared = self.run.shared or _SHARED.search(line.text) is not None
        if match := _CONFIG.search(line.text):
            name = _NAMES[match[1]]
            for known in (facts.first, facts.against):  # The newest engine counts.
                known.pop(name, None)
            facts.say(name, int(match[2]), line.number, match[1])
        elif ":print]" not in line.text:
            facts.take(line)

    def step(self, match: re.Match[bytes]) -> None:
        step = int(match[1] or match[3])
        run, count = self.follow(step, match)
        rate = float(match[2] or match[5])
        if not count or not 0 < rate < math.inf:
            return
        run.average, run.end = rate, self.numbers.at(match.start())
        if match[5]:
            run.shared = True
            run.add(1.0, 1 / rate)
            batch = run.facts.first.get("global_batch")
            time = float(match[4])
            said = Fact(rate * time, self.numbers.at(match.start()), "samples/sec x iter time")
            run.why = run.why or contradiction(said, batch, 0.0005 / time if time else 1)
        elif step > _START:
            total = (step - _START) / rate
            run.means.add(step - _START, total, match[2])
            if run.before is not None and total > run.before[1]:
                run.add(float(step - run.before[0]), total - run.before[1])
            run.before = step, total
        if run.stamps.open():
            run.stamps.take(line_before(self.numbers.block, match.start()), count)

    def many(self, found: Matches, begin: int) -> int:
        run, before = self.run, self.run.before
        if before is None or before[0] != run.last or any(found.column(3, begin)):
            return begin
        steps, rates, stamped = found.wholes(1, begin), found.floats(2, begin), run.stamps.wanted(found, begin)
        if steps[0] <= _START or min(rates) <= 0:
            return begin
        counts = list(map(sub, steps, repeat(_START)))
        totals = list(map(truediv, counts, rates))
        times = list(map(sub, totals, [before[1], *totals]))
        if min(times) <= 0 or not (ahead := run.counts(steps)):
            return begin
        run.stamps.extend(stamped, ahead, repeat(1.0))
        run.means.extend(counts, totals, found.column(2, begin))
        run.average, run.before, run.end = rates[-1], (steps[-1], totals[-1]), self.line_of(found, found.count - 1)
        run.extend(ahead, times)
        return found.count

    def end(self, run: _Run) -> None:
        if not run.average:
            return
        facts = run.facts
        batch, micro, parallel = (facts.first.get(name) for name in ("global_batch", "micro", "parallel"))
        # The engine's world size leaves out model parallelism: it counts if no line says the GPUs, or a shared model.
        if parallel and not run.shared and "gpus" not in facts.first and not self.gpus(run.line, None).gpus:
            facts.say("gpus", int(parallel.value), parallel.line, "world_size")
        steady, rest, why = run.settled(), run.means.rest(), run.why
        rate = steady.rate if steady else 0.0
        if rest is not None:
            rate = rest[0] / rest[1]
            told, refused = coarse(rest[2] / rest[1], "running averages")
            steady, why = scaled(steady, rate / steady.rate) if steady else None, why or refused
            if told and not why:
                self.findings.problem(run.line, told)
        elif steady is None:
            why = why or LONE
        if batch and (time := run.stamps.median()) and not why:
            stamps = Fact(
                batch.value / time,
                run.line,
                "batch over the time of a step by time stamps",
                run.end,
            )
            said = Fact(rate, run.line, "SamplesPerSec", run.end)
            why = contradiction(said, stamps)
        self.add_run(
            run.line,
            "SamplesPerSec of all GPUs",
            total=None if why else rate,
            local_batch=int(micro.value) if micro and not batch else None,
            accumulation=facts.get("accumulation") if micro and not batch else None,
            global_batch=int(batch.value) if batch else None,
            sd=steady.sd if steady and not why else None,
            steady=steady if not why else None,
            shared=run.shared,
            unit="samples",
            why=why,
            **facts.own(self.findings),
        )
