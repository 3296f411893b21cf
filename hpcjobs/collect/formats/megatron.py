"""Megatron-LM, and Megatron-DeepSpeed, from 2020 on: lines of iterations.

    using world size: 32, data-parallel-size: 1, tensor-model-parallel size: 4, pipeline-model-parallel size: 8
     iteration       20/    1000 | consumed samples:           80 | elapsed time per iteration (ms): 1572.7 | learning
      rate: 3.750E-05 | global batch size:     4 | lm loss: 1.210588E+01 | ...
     [2025-11-28 18:48:17] iteration       50/    5000 | consumed samples:        51200 | elapsed time per iteration
      (ms): 61674.3 | throughput per GPU (TFLOP/s/GPU): 68.2 | ... | global batch size:  1024 | ...

The time is the mean of the iterations since the line before, in s in some forks; `samples per second` is over all GPUs.
What they consume checks the batch. While the batch grows, only the lines of the newest one count.
"""

from __future__ import annotations

import math
import re
import sys
from itertools import repeat
from operator import mul, truediv

from hpcjobs.collect.formats.facts import Fact, Facts, contradiction
from hpcjobs.collect.formats.matches import Matches, positive, quotients, same
from hpcjobs.collect.formats.steps import Run, StepReader
from hpcjobs.collect.lines import WHOLE, Line

_NUMBER = rb"(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)" + WHOLE
_PLAIN = rb"(\d{1,12}\.?\d{0,12})"
_WORLD = re.compile(r"using world size: (\d{1,9})\b")
_ARGUMENT = re.compile(r"^\s*(world_size|global_batch_size) \.{2,} (\d{1,9})\b")
_PER_SECOND = re.compile(rb"\| samples per second: " + _NUMBER)


class _Run(Run):
    """One run."""

    def __init__(self) -> None:
        super().__init__()
        self.batch: Fact | None = None
        self.consumed: tuple[int, int] | None = None  # step and samples of the newest line
        self.rate: Fact | None = None
        self.grew = False
        self.why = ""


class MegatronReader(StepReader[_Run]):
    """Reads the logs that the text at the top of this file describes."""

    name = "megatron"
    begin = b"using world size: "
    heads = (b"using world size: ", b"_size ..", *Facts.needles)
    steps = re.compile(
        rb"iteration +(\d{1,12})/ *\d+ \|(?: +consumed samples: +(\d{1,15}) \|)?(?: +consumed tokens: +\d+ \|)?"
        rb" +elapsed time per iteration \((m?)s\): +" + _NUMBER + rb"(?:[^\n]*?\| glob?al? ?batch size: +(\d{1,9}))?"
    )
    plain = re.compile(
        rb"iteration +(\d{1,12})/ *\d+ \| +consumed samples: +(\d{1,15}) \|(?: +consumed tokens: +\d+ \|)?"
        rb" elapsed time per iteration \((m)s\): +" + _PLAIN + rb" .*\| global batch size: +(\d{1,9})"
    )  # fmt: skip
    marks = (b"elapsed time per iteration (",)

    def new(self) -> _Run:
        return _Run()

    def head(self, line: Line) -> None:
        facts = self.run.facts
        if match := _WORLD.search(line.text):
            facts.say("gpus", int(match[1]), line.number, "using world size")
        elif match := _ARGUMENT.match(line.text):
            name = "gpus" if match[1] == "world_size" else "global_batch"
            facts.say(name, int(match[2]), line.number, match[1])
        elif "[config.py:" not in line.text:  # DeepSpeed's world size leaves out model parallelism
            facts.take(line)

    def step(self, match: re.Match[bytes]) -> None:
        step = int(match[1])
        run, count = self.follow(step, match)
        if not count:
            return
        time = float(match[4]) / (1000 if match[3] else 1)
        batch = int(match[5]) if match[5] else 0
        if batch and run.batch is not None and batch < run.batch.value:  # It grows within a run.
            run = self.again(match.start())
            count = run.count(step)
        if batch and (run.batch is None or run.batch.value != batch):
            grew = run.batch is not None
            run.batch = Fact(batch, self.numbers.at(match.start()), "global batch size")
            run.consumed = None
            if grew:  # Its iterations had both batches.
                run.grew, run.rate = True, None
                run.clear()
                return
        if match[2]:
            self._consumed(match, step, int(match[2]))
        if run.rate is None:
            end = self.numbers.block.find(b"\n", match.end())
            found = _PER_SECOND.search(self.numbers.block, match.end(), end if end >= 0 else sys.maxsize)
            words = "samples per second x time of an iteration"
            run.rate = Fact(float(found[1]) * time if found else 0, self.numbers.at(match.start()), words)
        if 0 < time < math.inf:
            run.add(count, count * time)

    def many(self, found: Matches, begin: int) -> int:
        run = self.run
        units, batches, consumed = (found.column(group, begin) for group in (3, 5, 2))
        times = found.floats(4, begin)
        if run.rate is None or run.batch is None or not (same(units) and same(batches) and positive(times)):
            return begin
        if batches[0] and int(batches[0]) != run.batch.value:
            return begin
        steps = found.wholes(1, begin)
        before, newest = run.consumed, None
        if not same(consumed) or consumed[0]:
            if before is None or None in consumed:
                return begin
            samples = found.wholes(2, begin)
            newest = steps[-1], samples[-1]
            each = quotients(samples, before[1], steps, before[0])
            if not run.why and each.count(run.batch.value) < len(each):
                return begin
        if not (ahead := run.counts(steps)):
            return begin
        run.consumed = newest or before
        times = list(map(truediv, times, repeat(1000))) if units[0] else times
        run.extend(ahead, list(map(mul, ahead, times)))
        return found.count

    def _consumed(self, match: re.Match[bytes], step: int, consumed: int) -> None:
        """Compare the batch with the samples since the line before."""
        run, before = self.run, self.run.consumed
        run.consumed = step, consumed
        if before is None or run.why:
            return
        each = (consumed - before[1]) / (step - before[0])
        if run.batch is None or each != run.batch.value:
            said = Fact(each, self.numbers.at(match.start()), "consumed samples of an iteration")
            run.batch = run.batch or said
            run.why = contradiction(said, run.batch, exact=True)

    def end(self, run: _Run) -> None:
        steady = run.settled()
        if steady is None:
            return
        whole = run.facts.get("global_batch", self.findings) if run.batch is None else int(run.batch.value)
        if run.grew:
            self.findings.problem(run.line, f"the batch grows: only the lines with the newest, {whole}, count")
        why = run.why or contradiction(run.rate, run.batch)
        self.add_steps(
            run, steady, "global batch over the time of iterations", "sequences", batch=whole, why=why, shared=True
        )
