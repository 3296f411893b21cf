"""The MetricLogger of torchvision's references, and of DETR, DeiT, MAE, DINO, ConvNeXt and others that began with it.

    Namespace(amp=True, batch_size=128, ..., world_size=8)
    Epoch: [0]  [  10/5004]  eta: 0:30:12  lr: 0.1  img/s: 2625.49  loss: ...  time: 0.3591  data: 0.0019  max mem: 8000
    Epoch: [0] Total time: 0:10:00 (0.1199 s / it)

The time is the mean of the newest 20 steps; a mean that holds steps of a run's first 20 is left out. batch_size is of
one GPU. img/s is of one GPU, too, of one step, and leaves out the wait for data: it checks the batch, and is no rate of
the training. If the epochs say s / it, they count. Where only the first steps of epochs are printed, the whole seconds
of the epochs contradict them.
"""

from __future__ import annotations

import math
import re
import statistics
from itertools import repeat
from operator import add, mul

from hpcjobs.collect.agreement import alike
from hpcjobs.collect.formats.facts import Fact, Facts, contradiction
from hpcjobs.collect.formats.matches import Matches, leading, positive, same
from hpcjobs.collect.formats.steps import Run, StepReader
from hpcjobs.collect.lines import WHOLE, Line, Numbers
from hpcjobs.collect.measurements import SteadyRate
from hpcjobs.collect.steady import Windows

_NUMBER = rb"(\d{1,12}(?:\.\d{1,20})?)" + WHOLE
_ARGUMENT = re.compile(
    r"(?<![\w.])(batch_size|batch_size_per_gpu|world_size|accum_iter|update_freq)=(\d{1,9})(?=[,)\s]|$)"
)
_FACTS = {"world_size": "gpus", "accum_iter": "accumulation", "update_freq": "accumulation"}
_TOTAL = re.compile(
    rb"poch: \[(\d{1,9})[\]/][^\n\x1e]{0,20}Total time: (\d{1,4}):(\d\d):(\d\d)\b(?: \(" + _NUMBER + rb" s / it\))?"
)
# The steps whose mean a line shows.
_SMOOTHED = 20
# How much longer, beyond the tolerance, an epoch may take than its steps: its start, and the pauses between lines.
_BETWEEN = 0.15
_KEPT = 500


class _Run(Run):
    """One run."""

    def __init__(self) -> None:
        super().__init__()
        self.epoch = self.first = -1
        self.sum = (0, 0.0)  # steps and s of the open epoch's first lines
        self.epochs = Windows()
        self.batches: list[float] = []  # img/s times time without data
        self.length = 0  # steps of an epoch
        self.seconds: list[tuple[int, int, int]] = []  # epoch, its whole seconds, and the line


class TorchvisionReader(StepReader[_Run]):
    """Reads the logs that the text at the top of this file describes."""

    name = "torchvision"
    begin = b"Namespace("
    heads = (b"batch_size=", b"batch_size_per_gpu=", b"world_size=", b"accum_iter=", b"update_freq=", *Facts.needles)
    steps = re.compile(
        rb"poch: \[(\d{1,9})(?:/\d{1,9})?\] +\[ *(\d{1,9})/(\d{1,9})\] +eta: (?:[^\n\x1e]*? img/s: " + _NUMBER
        + rb")?[^\n\x1e]*? time: " + _NUMBER + rb" +data: " + _NUMBER
    )  # fmt: skip
    plain = re.compile(
        rb"poch: \[(\d{1,9})\] +\[ *(\d{1,9})/(\d{1,9})\] +eta: (?:.* img/s: (\d{1,12}\.?\d{0,20}) )?.* time: "
        rb"(\d{1,12}\.?\d{0,20}) +data: (\d{1,12}\.?\d{0,20})" + WHOLE
    )  # fmt: skip
    marks = (b" data: ",)

    def new(self) -> _Run:
        return _Run()

    def feed(self, first: int, block: bytes, sign: int = 0) -> None:
        super().feed(first, block, sign)
        if b"Total time: " not in block:
            return
        numbers = Numbers(block, first)
        for match in _TOTAL.finditer(block):
            epoch, hours, minutes, seconds = map(int, match.groups()[:4])
            if match[5]:
                self.run.epochs.add(1.0, float(match[5]))
            if len(self.run.seconds) < _KEPT:
                whole = hours * 3600 + minutes * 60 + seconds
                self.run.seconds.append((epoch, whole, numbers.at(match.start())))

    def head(self, line: Line) -> None:
        found = _ARGUMENT.findall(line.text)
        for name, value in found:
            self.run.facts.say(_FACTS.get(name, "local_batch"), int(value), line.number, name)
        if "Not using distributed mode" in line.text:
            self.run.facts.say("gpus", 1, line.number, "Not using distributed mode: GPUs")
        elif not found:
            self.run.facts.take(line)

    def step(self, match: re.Match[bytes]) -> None:
        epoch, step, of, rate, time, data = match.groups()
        at, mean = int(epoch) * int(of) + int(step), float(time)
        run, count = self.follow(at, match)
        run.length = int(of)
        if not count or not 0 < mean < math.inf:
            return
        if run.epoch != int(epoch):
            run.first = int(epoch) if run.epoch < 0 else run.first
            run.epoch, run.sum = int(epoch), (0, 0.0)
        done = int(step) + 1
        if done <= _SMOOTHED:  # The mean of all steps of the epoch.
            count, spent = done - run.sum[0], done * mean - run.sum[1]
            run.sum = done, done * mean
            run.add(float(count), spent)
        elif run.epoch != run.first or done > 2 * _SMOOTHED - 1:  # Before, the mean holds steps of the warm-up.
            run.add(float(count), count * mean)
        if rate and len(run.batches) < _KEPT:
            run.batches.append(float(rate) * max(mean - float(data), 0))

    def many(self, found: Matches, begin: int) -> int:
        run, epochs = self.run, found.column(1, begin)
        if int(epochs[0]) != run.epoch:
            return begin
        end = begin + leading(epochs)
        of, rates = found.column(3, begin, end), found.column(4, begin, end)
        steps, means = found.wholes(2, begin, end), found.floats(5, begin, end)
        warm = steps[0] >= (2 * _SMOOTHED - 1 if run.epoch == run.first else _SMOOTHED)
        known = len(run.batches) >= _KEPT or (same(rates) and not rates[0])
        if not (warm and known and same(of) and positive(means)):
            return begin
        if not (ahead := run.counts(list(map(add, steps, repeat(run.epoch * int(of[0])))))):
            return begin
        run.length = int(of[0])
        run.extend(ahead, list(map(mul, ahead, means)))
        return end

    def end(self, run: _Run) -> None:
        facts = run.facts
        steady = run.settled()
        if len(run.epochs) > 1:
            steady = run.epochs.steady(1, "all but the first epoch")
        why = _contradicted(run, steady)
        accumulation = facts.get("accumulation", self.findings) or 1
        local, gpus = facts.get("local_batch"), self.gpus(run.line, facts.get("gpus")).gpus
        if run.batches and local and not why:
            implied = statistics.median(run.batches)
            said = Fact(implied, run.line, "img/s x time of a step", self.findings.at), facts.first["local_batch"]
            wholes = (local, local * gpus) if gpus else (local,)
            if not any(alike(implied, whole) for whole in wholes):
                why = f"the log contradicts itself: {said[0]}; {said[1]}: no figure counts"
        unit = "images" if run.batches else "samples"
        if "accumulation" in facts.against:
            why = why or "the log says two accumulations of gradients: no figure counts"
        self.add_steps(run, steady, "time of a step", unit, accumulation=accumulation, why=why)


def _contradicted(run: _Run, steady: SteadyRate | None) -> str:
    """What the whole seconds of epochs say against the time of a step, if they do."""
    later = [each for each in run.seconds if each[0] != run.first] or run.seconds
    if not (later and steady and run.length):
        return ""
    took = statistics.median(seconds for _, seconds, _ in later) + 0.5
    said = Fact(1 / steady.rate, run.line, "time of a step")
    whole = Fact(took / run.length, later[0][2], "Total time over the steps of an epoch,")
    return contradiction(said, whole, 1 / took + _BETWEEN)
