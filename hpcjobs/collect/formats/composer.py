"""MosaicML's Composer, and LLM Foundry: blocks of metrics, of which SpeedMonitor's count.

    [batch=4/1000]:
         Train throughput/batches_per_sec: 0.0027
         Train throughput/samples_per_sec: 2.7330
         Train throughput/device/samples_per_sec: 0.1708
         Train throughput/tokens_per_sec: 20082.8418
         Train throughput/device/tokens_per_sec: 1255.1776

The rates are means over the newest batches. A rate over all GPUs divided by that of one is the number of GPUs.
"""

from __future__ import annotations

import re

from hpcjobs.collect.formats.facts import Fact, Facts, Product, contradiction, half
from hpcjobs.collect.formats.reader import Findings, FormatReader
from hpcjobs.collect.lines import Line
from hpcjobs.collect.steady import Windows

_METRIC = re.compile(r"\bthroughput/(device/)?(batches|samples|tokens)_per_sec: (\d{1,15}(?:\.\d{1,15})?)\s*$")
_BATCH = re.compile(r"\[batch=(\d{1,12})(?:/\d{1,12})?\]:")
_SETTING = re.compile(r"^\s*(n_gpus|global_train_batch_size|device_train_batch_size): (\d{1,9})\s*$")
_NAMES = {"n_gpus": "gpus", "global_train_batch_size": "global_batch", "device_train_batch_size": "local_batch"}


class ComposerReader(FormatReader):
    """Reads the logs that the text at the top of this file describes."""

    name = "composer"
    needles = (b"throughput/", b"[batch=", b"n_gpus: ", b"train_batch_size: ", *Facts.needles)

    def __init__(self, findings: Findings) -> None:
        super().__init__(findings)
        self._begin()

    def _begin(self) -> None:
        self.line = 0
        self.open: tuple[re.Match[str], int] | None = None
        self.batch = 0
        self.facts = Facts()
        self.windows: dict[str, Windows] = {"samples": Windows(), "tokens": Windows()}
        self.block: dict[str, tuple[float, float]] = {}  # the metrics of a block, and their rounding errors
        self.ratio = Product("GPUs by the rates of all and of one:")
        self.size = Product("samples_per_sec over batches_per_sec")

    def take(self, line: Line) -> None:
        text = line.text
        if self.open is not None:
            self._metric(*self.open)
            self.open = None
        if match := _METRIC.search(text):
            self.open = match, line.number
        elif match := _BATCH.search(text):
            batch = int(match[1])
            if batch < self.batch and batch <= 2:
                self.close()
            if batch != self.batch:
                self.batch, self.block = batch, {}
        elif match := _SETTING.match(text):
            self.facts.say(_NAMES[match[1]], int(match[2]), line.number, match[1])
        elif not self.line:
            self.facts.take(line)

    def _metric(self, match: re.Match[str], line: int) -> None:
        """Take a metric after which the log goes on: a number at its end may be cut off."""
        name, value = (match[1] or "") + match[2], float(match[3])
        if name not in self.block and value > 0:  # else another rank's copy
            self.line = self.line or line
            self.block[name] = value, half(match[3].encode())
            self._compare(name, line)

    def _compare(self, name: str, line: int) -> None:
        """Take a metric of all GPUs, and compare it with those of the block before it."""
        block, (value, error) = self.block, self.block[name]
        if name in self.windows:
            self.windows[name].add(1.0, 1 / value)
        whole = name.removeprefix("device/")
        if name != whole and whole in block:
            self.ratio.add(*block[whole], 1 / value, error / value**2, line)
        if name == "samples" and "batches" in block:
            batches, its_error = block["batches"]
            self.size.add(value, error, 1 / batches, its_error / batches**2, line)

    def close(self) -> None:
        name = "samples" if self.windows["samples"] else "tokens"
        steady, facts = self.windows[name].steady(), self.facts
        if steady is not None:
            if (count := self.ratio.whole()) is not None:
                facts.say("gpus", count, self.ratio.line, self.ratio.words)
            said: Fact | None = facts.first.get("global_batch")
            error = (self.size.high - self.size.low) / self.size.high if self.size.high < float("inf") else 0.0
            why = self.ratio.why or self.size.why or contradiction(self.size.fact(), said, error)
            batch = facts.get("global_batch", self.findings) or self.size.whole()
            self.add_run(
                self.line,
                f"throughput/{name}_per_sec",
                total=None if why else steady.rate,
                global_batch=batch if name == "samples" and not why else None,
                sd=None if why else steady.sd,
                steady=None if why else steady,
                unit=name,
                why=why,
                **facts.own(self.findings),
            )
        self._begin()
