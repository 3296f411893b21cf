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

import contextlib
import itertools
import re
from itertools import repeat
from operator import truediv

from hpcjobs.collect.formats.facts import Fact, Facts, Figures, Product, contradiction, half, rounded_texts
from hpcjobs.collect.formats.matches import counts, positive, wholes
from hpcjobs.collect.formats.reader import Findings, FormatReader
from hpcjobs.collect.lines import Line
from hpcjobs.collect.steady import Windows
from hpcjobs.collect.wordings import Wordings

_METRIC = re.compile(r"\bthroughput/(device/)?(batches|samples|tokens)_per_sec: (\d{1,15}(?:\.\d{1,15})?)\s*$")
_BATCH = re.compile(r"\[batch=(\d{1,12})(?:/\d{1,12})?\]:")
_SETTING = re.compile(r"^\s*(n_gpus|global_train_batch_size|device_train_batch_size): (\d{1,9})\s*$")
_NAMES = {"n_gpus": "gpus", "global_train_batch_size": "global_batch", "device_train_batch_size": "local_batch"}


# Fewer batches of a block are not worth the search for equal ones.
_BEGIN, _FEW = b"[batch=", 5


def _inverse(figures: Figures) -> Figures:
    """One over each figure."""
    values, errors = figures
    squares = map(pow, values, repeat(2))
    return list(map(truediv, repeat(1), values)), list(map(truediv, errors, squares))


def _last(figures: Figures) -> tuple[float, float]:
    values, errors = figures
    return values[-1], next(itertools.islice(errors, len(values) - 1, None))


class ComposerReader(FormatReader):
    """Reads the logs that the text at the top of this file describes."""

    name = "composer"
    needles = (b"throughput/", b"[batch=", b"n_gpus: ", b"train_batch_size: ", *Facts.needles)

    def __init__(self, findings: Findings) -> None:
        super().__init__(findings)
        self.wordings = Wordings(b"")  # of the block that is read next
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

    def rest(self, block: bytes, wordings: Wordings) -> tuple[bytes, Wordings]:
        self.wordings = wordings
        return block, self.wordings

    def feed(self, first: int, block: bytes, sign: int = 0) -> None:
        words, raws = self.wordings.words, block.split(b"\n")
        begins = [word for word in self.wordings.all if word.startswith(_BEGIN)]
        if len(words) == len(raws) and len(begins) == 1 and words.count(begins[0]) > _FEW:
            begin = words.index(begins[0])
            size = words.index(begins[0], begin + 1) - begin
            if not self.line:  # The first batches of a run are read line by line.
                begin = min(begin + 2 * size, len(words) - 1)
            batch, end = words[begin : begin + size], begin
            while batch[0] == begins[0] and words[end : end + size] == batch:
                end += size
            end -= size  # The last batch's last figure counts once the log goes on.
            super().feed(first, b"".join(raw + b"\n" for raw in raws[:begin]))
            with contextlib.suppress(ValueError):
                begin = end if end > begin and self._many(raws[begin:end], size) else begin
            super().feed(first + begin, b"\n".join(raws[begin:]))
        else:
            super().feed(first, block)

    def _many(self, raws: list[bytes], size: int) -> bool:
        """Take batches of `size` lines each, which differ in their figures only. Returns whether it did."""
        if self.open is not None:
            self._metric(*self.open)
            self.open = None
        after = b"/" if b"/" in raws[0] else b"]"
        batches = wholes([raw[len(_BEGIN) : raw.find(after)] for raw in raws[::size]])
        figures: dict[str, Figures] = {}
        ratios: list[tuple[Figures, Figures]] = []
        for place in range(1, size):
            column = raws[place::size]
            text = column[0].decode("utf-8", "replace")
            if not (match := _METRIC.search(text)):
                if _SETTING.match(text):
                    return False
                continue
            name, whole, at = (match[1] or "") + match[2], match[2], match.start(3)
            plain = text.isascii() and match.end(3) == len(text) and not re.search(r"\d", text[:at])
            found = rounded_texts([raw[at:] for raw in column])
            if name in figures or not plain or not positive(found[0]):
                return False
            figures[name] = found
            if name != whole and whole in figures:
                ratios.append((figures[whole], _inverse(found)))
        if not self.line or not counts(self.batch, batches) or len(ratios) > 1:
            return False
        sizes = "samples" in figures and "batches" in figures
        ratio = self.ratio.bounds(*ratios[0]) if ratios else (0.0, 0.0)
        whole_batch = self.size.bounds(figures["samples"], _inverse(figures["batches"])) if sizes else (0.0, 0.0)
        if not ratio or not whole_batch:
            return False
        if ratios:
            self.ratio.narrow(ratio, self.ratio.last)
        if sizes:
            self.size.narrow(whole_batch, self.size.last)
        for name, windows in self.windows.items():
            if name in figures:
                windows.extend([1.0] * len(batches), list(map(truediv, repeat(1), figures[name][0])))
        self.batch, self.block = batches[-1], {name: _last(found) for name, found in figures.items()}
        return True

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
