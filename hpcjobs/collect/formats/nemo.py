"""NeMo, in both forms that its versions print: a line for each step, or the bar of PyTorch Lightning.

    Training epoch 0, iteration 45/99 | lr: 6.897e-06 | global_batch_size: 128 | global_step: 45 | ... |
      train_step_timing in s: 6.08 | TFLOPS_per_GPU: 1.249e+03 | consumed_samples: 5888
    Epoch 0: :  47%|████▋     | 7/15 [06:19<07:13, reduced_train_loss=11.50, global_step=5.000,
      consumed_samples=12288.0, train_step_timing in s=49.50]

The time is of one step. The bar says no batch, but what it has consumed: its numbers of four digits and more count only
if they are not rounded (2.56e+5).
"""

from __future__ import annotations

import math
import re

from hpcjobs.collect.formats.facts import Fact, contradiction
from hpcjobs.collect.formats.matches import Matches, positive, quotients, same
from hpcjobs.collect.formats.steps import Run, StepReader
from hpcjobs.collect.lines import WHOLE

_NUMBER = rb"(\d{1,15}(?:\.\d{1,15})?(?:e[+-]?\d{1,3})?)" + WHOLE
_PLAIN = rb"(\d{1,12}\.?\d{0,12})"


class _Run(Run):
    """One run."""

    def __init__(self) -> None:
        super().__init__()
        self.batch: Fact | None = None
        self.exact: tuple[int, int] | None = None  # step and consumed samples of the newest line that rounds neither
        self.lines = 0
        self.why = ""


class NemoReader(StepReader[_Run]):
    """Reads the logs that the text at the top of this file describes."""

    name = "nemo"
    begin = b"MEMBER: "
    steps = re.compile(
        rb"global_(?:batch_size: (\d{1,9}) \| global_)?step[:=] ?" + _NUMBER + rb"\b(?:, consumed_samples=" + _NUMBER
        + rb")?[^\n\x1e]*?train_step_timing in s[:=] ?" + _NUMBER
        + rb"(?:(?: \| \w+: [^|\n\x1e]*)*? \| consumed_samples: " + _NUMBER + rb")?"
    )  # fmt: skip
    plain = re.compile(
        rb"global_batch_size: (\d{1,9}) \| global_step: (\d{1,12}) (\x1e)?.*train_step_timing in s: " + _PLAIN
        + rb" .*consumed_samples: (\d{1,12})(?=[ \n])"
    )  # fmt: skip
    marks = (b"train_step_timing in s",)

    def new(self) -> _Run:
        return _Run()

    def step(self, match: re.Match[bytes]) -> None:
        run, step = self.run, _whole(match[2])
        if step is None:
            return
        run, count = self.follow(step, match)
        if not count:
            return
        if match[1]:
            batch = Fact(int(match[1]), self.numbers.at(match.start()), "global_batch_size")
            run.why = run.why or contradiction(batch, run.batch, exact=True)
            run.batch = run.batch or batch
        consumed = match[3] or match[5]
        if consumed and b"e" not in consumed and b"e" not in match[2]:
            self._consumed(match, step, int(float(consumed)))
        time = float(match[4])
        run.lines += 1
        if 0 < time < math.inf:
            run.add(1.0, time)

    def many(self, found: Matches, begin: int) -> int:
        run, batches = self.run, found.column(1, begin)
        times, steps = found.floats(4, begin), found.wholes(2, begin)
        if run.batch is None or not (same(batches) and positive(times)):
            return begin
        if batches[0] and int(batches[0]) != run.batch.value:
            return begin
        group = 3 if any(found.column(3, begin)) else 5
        consumed = found.column(group, begin)
        before, newest = run.exact, None
        if not same(consumed) or consumed[0]:
            if before is None:
                return begin
            samples = found.wholes(group, begin)
            newest = steps[-1], samples[-1]
            each = quotients(samples, before[1], steps, before[0])
            if not run.why and each.count(run.batch.value) < len(each):
                return begin
        if not run.counts(steps):
            return begin
        run.exact = newest or before
        run.lines += len(steps)
        run.extend([1.0] * len(times), times)
        return found.count

    def _consumed(self, match: re.Match[bytes], step: int, consumed: int) -> None:
        """Compare the batch with the samples since the line before; the first line has those since the begin."""
        run, before = self.run, self.run.exact
        run.exact = step, consumed
        each = consumed / (step + 1) if before is None else (consumed - before[1]) / (step - before[0])
        if before is None and (not each.is_integer() or run.batch):
            return  # A training that goes on from a checkpoint may have had another batch.
        said = Fact(each, self.numbers.at(match.start()), "consumed samples of a step")
        run.batch = run.batch or said
        if not run.why and each != run.batch.value:
            run.why = contradiction(said, run.batch, exact=True)

    def end(self, run: _Run) -> None:
        whole = int(run.batch.value) if run.batch else run.facts.get("global_batch", self.findings)
        figure = "global batch over train_step_timing"
        why = run.why or ("" if whole else "the log does not say the batch, nor whether a step is one of the optimizer")
        self.add_steps(run, run.settled(), figure, "sequences", batch=whole, why=why, shared=True)


def _whole(number: bytes) -> int | None:
    value = float(number)
    return int(value) if value < 1e15 else None
