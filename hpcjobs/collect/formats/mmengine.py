"""OpenMMLab: mmcv until version 1, and mmengine.

    2020-02-14 03:22:53,663 - mmdet - INFO - Epoch [1][50/7330]  lr: 0.00399, eta: 2 days, 21:25:59, time: 0.947,
      data_time: 0.116, memory: 7966, loss: 2.6714
    02/20 14:43:11 - mmengine - INFO - Epoch(train)   [1][ 100/3125]  lr: 1.0000e-01  eta: 6:12:01  time: 0.0149
      data_time: 0.0003  memory: 214  loss: 2.0611

The time is the mean of the steps since the line before (mmengine: of its window). The batch of a GPU stands in the
configuration, as samples_per_gpu, imgs_per_gpu, or batch_size of train_dataloader; the GPUs as gpu_ids = range(0, 8) or
GPU number: 8. `gpu_ids = range(0, 1)` of a distributed training is no number: versions until 2020 print it for any.
A step is a batch: with an accumulation, several are one of the optimizer.
"""

from __future__ import annotations

import math
import re
from itertools import repeat
from operator import add, mul

from hpcjobs.collect.formats.matches import Matches, positive, same
from hpcjobs.collect.formats.reader import Findings
from hpcjobs.collect.formats.steps import Run, StepReader
from hpcjobs.collect.lines import WHOLE, Line

_NUMBER = rb"(\d{1,12}(?:\.\d{1,12})?)" + WHOLE
_PLAIN = rb"(\d{1,12}\.?\d{0,12})"
_SECTION = re.compile(r"^(?:\d.*INFO - )?(\w+) ?= ?dict\(")
_BATCH = re.compile(r"\b(samples_per_gpu|imgs_per_gpu) ?= ?(\d{1,9})\b")
_LOADER = re.compile(r"(?<!\w)batch_size ?= ?(\d{1,9})\b")
_GPUS = re.compile(r"\bgpu_ids = (?:range\(0, (\d{1,9})\)|\[([\d, ]{1,200})\])|^\s*GPU number: (\d{1,9})\s*$")
_ACCUMULATION = re.compile(r"\b(?:accumulative_counts|cumulative_iters) ?= ?(\d{1,9})\b")


class MmengineReader(StepReader[Run]):
    """Reads the logs that the text at the top of this file describes."""

    name = "mmengine"
    begin = b"Distributed training: "
    heads = (
        *(b"dict(", b"batch_size", b"samples_per_gpu", b"imgs_per_gpu", b"gpu_ids = ", b"GPU number: "),
        *(b"accumulative_counts", b"cumulative_iters", b"Distributed training: "),
    )
    steps = re.compile(
        rb"(?:Epoch|Iter)(?:\(train\))? *(?:\[ *(\d{1,9})\])?\[ *(\d{1,9})/(\d{1,9})\](?=[^\n\x1e]{1,2000}?data_time: )"
        rb"[^\n\x1e]*?(?<![\w.])time: " + _NUMBER
    )  # fmt: skip
    plain = re.compile(
        rb"Epoch(?:\(train\))? +\[(\d{1,9})\]\[ *(\d{1,9})/(\d{1,9})\].* time: " + _PLAIN + rb",? +data_time: "
    )  # fmt: skip
    marks = (b"data_time: ",)

    def __init__(self, findings: Findings) -> None:
        super().__init__(findings)
        self.section = ""
        self.distributed = False

    def new(self) -> Run:
        return Run()

    def head(self, line: Line) -> None:
        facts, text = self.run.facts, line.text
        if "Distributed training: " in text:
            self.distributed = "Distributed training: True" in text
        if match := _SECTION.search(text):
            self.section = match[1]
        if (match := _BATCH.search(text)) and "local_batch" not in facts.first:
            facts.say("local_batch", int(match[2]), line.number, match[1])
        elif (
            self.section == "train_dataloader" and (match := _LOADER.search(text)) and "local_batch" not in facts.first
        ):
            facts.say("local_batch", int(match[1]), line.number, "batch_size of train_dataloader")
        elif match := _GPUS.search(text):
            count = int(match[1] or match[3] or 0) or len(re.findall(r"\d+", match[2]))
            if count > 1 or not self.distributed or match[3]:
                facts.say("gpus", count, line.number, "gpu_ids" if match[1] or match[2] else "GPU number")
        elif match := _ACCUMULATION.search(text):
            facts.say("accumulation", int(match[1]), line.number, "accumulation of gradients")

    def step(self, match: re.Match[bytes]) -> None:
        epoch, number, of, time = match.groups()
        step, mean = (int(epoch) * int(of) if epoch else 0) + int(number), float(time)
        run, count = self.follow(step, match)
        if count and 0 < mean < math.inf:
            run.add(float(count), count * mean)

    def many(self, found: Matches, begin: int) -> int:
        epochs, lengths, times = found.column(1, begin), found.column(3, begin), found.floats(4, begin)
        steps = found.wholes(2, begin)
        if not same(epochs) or not same(lengths):
            steps = list(map(add, steps, map(mul, found.wholes(1, begin), found.wholes(3, begin))))
        elif epochs[0]:
            steps = list(map(add, steps, repeat(int(epochs[0]) * int(lengths[0]))))
        if not positive(times) or not (ahead := self.run.counts(steps)):
            return begin
        self.run.extend(ahead, list(map(mul, ahead, times)))
        return found.count

    def end(self, run: Run) -> None:
        accumulation = run.facts.get("accumulation") or 1
        why = (
            "the log says two accumulations of gradients: no figure counts"
            if "accumulation" in run.facts.against
            else ""
        )
        self.add_steps(run, run.settled(), "time of a step", "samples", accumulation=accumulation, why=why)
