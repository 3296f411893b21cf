"""The Hugging Face Trainer, from version 4 on, and scripts that print its head and a bar of tqdm (Diffusers).

    ***** Running training *****
      Num examples = 346,940
      Num Epochs = 1
      Instantaneous batch size per device = 10
      Total train batch size (w. parallel, distributed & accumulation) = 640
      Gradient Accumulation steps = 8
      Total optimization steps = 10
    {'loss': 0.28, 'learning_rate': 6.4e-06, 'epoch': 2.61}                       no time: not read
    {'train_runtime': 437.8544, 'train_samples_per_second': 25.132, 'train_steps_per_second': 3.145, ..., 'epoch': 3.0}

The summary counts what was planned: it does not hold if the training goes on from a checkpoint, or stops before its
end, which the bar of all steps shows where the head is not printed. Until version 4.5 train_samples_per_second was the
steps a second: without train_steps_per_second it counts if the head confirms it. Every rank may print it: lines that
say the same are one run. Without it the bar of all optimization steps counts.
"""

from __future__ import annotations

import re

from hpcjobs.collect.formats.bars import BAR, Steps, stretches
from hpcjobs.collect.formats.facts import Fact, Facts, contradiction, half
from hpcjobs.collect.formats.matches import Matches
from hpcjobs.collect.formats.progress import add_bars
from hpcjobs.collect.formats.reader import Findings, FormatReader
from hpcjobs.collect.formats.steps import sections
from hpcjobs.collect.lines import WHOLE_OR_END, Line, lines

_WHOLE = r"(\d{1,3}(?:,\d{3})+|\d{1,12})\s*$"
_HEAD = re.compile(
    r"\b(Num examples|Num Epochs|Instantaneous batch size per (?:device|GPU)|Total train batch size \(w\. parallel, "
    r"distributed(?: & accumulation)?\)|Gradient Accumulation steps|Total optimization steps) = " + _WHOLE
)
_NAMES = {
    "Num exa": "examples",
    "Num Epo": "epochs",
    "Instant": "each",
    "Total t": "whole",
    "Gradien": "accumulation",
    "Total o": "steps",
}
_BEGIN = b"***** Running training *****"
_GOES_ON = re.compile(r"Continuing training from (?:checkpoint|global step (\d+)|epoch (\d+))")
# DeepSpeed's engine tells its configuration when it starts; a Trainer that looks for a batch starts it again.
_ENGINE = re.compile(r"\[config\.py:\d+:print\] +(train_batch_size|world_size) \.{2,} (\d{1,9})\s*$")
_VALUE = r"['\"]: ['\"]?(\d{1,15}(?:\.\d{1,15})?(?:e[+-]?\d{1,3})?)" + WHOLE_OR_END
_SUMMARY = {
    name: re.compile(rf"['\"]{name}" + _VALUE)
    for name in ("train_runtime", "train_samples_per_second", "train_steps_per_second", "epoch")
}
_TABLE = re.compile(r"^\s*train_(samples|steps)_per_second\s*=\s*(\d{1,15}(?:\.\d{1,15})?)\s*$")
# Bars of so many totals are kept.
_BARS = 64
# Two summaries that differ by less are of one run: its ranks stop at slightly different times.
_SAME = 0.02


class _Run:
    """One call of train()."""

    def __init__(self) -> None:
        self.line = 0
        self.facts = Facts()
        self.head: dict[str, Fact] = {}
        self.goes_on: int | None = None
        self.steps = Steps()
        self.bars: dict[int, _Bar] = {}  # by their total
        self.summary: dict[str, str] = {}
        self.at = 0  # its line


class _Bar:
    """The first steps that a bar shows, and the newest."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.done = 0

    def take(self, done: int) -> None:
        """Take the steps done."""
        if done and done not in self.seen and len(self.seen) < 2:
            self.seen.append(done)
        self.done = max(done, self.done)

    def why(self, total: int) -> str:
        """What makes the steps that were run fewer than the total, or ""."""
        if self.done < 0.98 * total:
            return f"of which {self.done} were done"
        if len(self.seen) > 1 and self.seen[0] > max(0.02 * total, 3 * (self.seen[1] - self.seen[0])):
            return f"of which it began at {self.seen[0]}"
        return ""


class HuggingfaceReader(FormatReader):
    """Reads the logs that the text at the top of this file describes."""

    name = "huggingface"
    needles = (
        *(
            b"Num examples = ",
            b"Num Epochs = ",
            b"Instantaneous batch size per",
            b"Total train batch size (w. parallel",
        ),
        *(
            b"Gradient Accumulation steps = ",
            b"Total optimization steps = ",
            b"Continuing training from",
            b"train_runtime",
        ),
        *(
            b"train_samples_per_second",
            b"train_steps_per_second",
            b"Running training *****",
            b":print]   train_batch_size ..",
            b":print]   world_size .",
        ),
    )

    def __init__(self, findings: Findings) -> None:
        super().__init__(findings)
        self.run = _Run()
        self.table: tuple[str, int] | None = None  # a rate of the table at the end, which its next line confirms
        self.before: _Run | None = None  # the run that ended last, whose summary other ranks may print again

    def feed(self, first: int, block: bytes, sign: int = 0) -> None:
        number = first
        for begin, end in sections(block, _BEGIN):
            part = block[begin:end]
            if _BEGIN in part[: part.find(b"\n") + 1 or len(part)] and (self.run.summary or self.run.steps.newest):
                self._end()
            facts, found = Facts.needles if not self.run.summary else (), Matches(BAR, part)
            for line in lines(found.rest(), number, (*self.needles, *facts)):
                self.findings.before = self.findings.at = line.number
                self.take(line)
            planned = self.run.head.get("steps")
            for stretch in stretches(found):
                if planned is not None and stretch.total == planned.value:
                    self.run.steps.go(stretch)
                elif planned is None and not re.search("[A-Za-z]{2}", stretch.name()) and len(self.run.bars) < _BARS:
                    bar = self.run.bars.setdefault(stretch.total, _Bar())
                    for done in (*stretch.done[:3], stretch.done[-1]):  # Between them it only goes on.
                        bar.take(done)
            number += part.count(b"\n")

    def take(self, line: Line) -> None:
        run, text = self.run, line.text
        if match := _HEAD.search(text):
            run.head[_NAMES[match[1][:7]]] = Fact(int(match[2].replace(",", "")), line.number, match[1])
            run.line = run.line or line.number
        elif match := _GOES_ON.search(text):
            run.goes_on = max(int(match[1] or match[2] or 1), run.goes_on or 0)
        elif match := _ENGINE.search(text):
            name = "global_batch" if match[1] == "train_batch_size" else "gpus"
            for known in (run.facts.first, run.facts.against):
                known.pop(name, None)
            run.facts.say(name, int(match[2]), line.number, match[1])
        elif found := {name: match[1] for name, pattern in _SUMMARY.items() if (match := pattern.search(text))}:
            if "train_samples_per_second" in found and "train_runtime" in found:
                self._summary(line, found)
        elif match := _TABLE.match(text):
            if match[1] == "samples":
                self.table = match[2], line.number
            elif self.table and not run.summary and not _same(self.before, self.table[0]):
                run.summary, run.at = {"train_samples_per_second": self.table[0]}, self.table[1]
                run.line = run.line or run.at
        elif "[config.py:" not in text:
            run.facts.take(line)

    def _summary(self, line: Line, found: dict[str, str]) -> None:
        run, rate = self.run, found["train_samples_per_second"]
        if _same(run, rate) or (not run.head and _same(self.before, rate)):
            return
        if run.summary:
            self._end()
            run = self.run
        run.summary, run.at = found, line.number
        run.line = run.line or line.number

    def _end(self) -> None:
        run, self.run = self.run, _Run()
        if run.summary:
            self.before = run
            self.run.facts = run.facts  # Another call of train() has the GPUs of the first.
        elif not run.steps.newest:
            return
        facts, head = run.facts, run.head
        each, whole, accumulation = head.get("each"), head.get("whole"), head.get("accumulation")
        parts = each.value * (accumulation.value if accumulation else 1) if each else 0
        # If both are the same, there is one GPU, or one process that drives several: some versions do not say.
        if whole and parts and whole.value > parts and whole.value % parts == 0:
            facts.say("gpus", int(whole.value / parts), whole.line, "total batch over that of a device:")
        if whole:
            facts.first.pop("global_batch", None)
            facts.say("global_batch", int(whole.value), whole.line, "Total train batch size")
        if not run.summary:
            times = int(accumulation.value) if accumulation else None
            add_bars(self, run.steps, facts, run.line, facts.get("global_batch"), times)
            return
        rate = float(run.summary["train_samples_per_second"])
        why = self._why(run, rate)
        self.add_run(
            run.line,
            "train_samples_per_second",
            total=None if why else rate,
            global_batch=facts.get("global_batch", self.findings),
            accumulation=int(accumulation.value) if accumulation else None,
            unit="samples",
            why=why,
            **facts.own(self.findings),
        )

    @staticmethod
    def _why(run: _Run, rate: float) -> str:
        """What contradicts the summary, or ""."""
        head, said = run.head, Fact(rate, run.at, "train_samples_per_second")
        planned, newest = head.get("steps"), run.steps.newest
        if run.goes_on:
            return f"{said} counts all samples, but the training goes on from a checkpoint: no figure counts"
        if planned and newest and newest.done < 0.98 * planned.value:
            return (
                f"{said} counts {planned.value:.0f} planned steps, of which {newest.done} were done: no figure counts"
            )
        epochs = head.get("epochs")
        if epochs and "epoch" in run.summary and float(run.summary["epoch"]) < 0.9 * min(epochs.value, _epochs(head)):
            return f"{said} counts {epochs} planned, of which {run.summary['epoch']} were done: no figure counts"
        if "train_runtime" not in run.summary:
            return ""
        seconds = float(run.summary["train_runtime"])
        if not planned and (cut := _cut(run, seconds)):
            return f"{said} counts {cut}: no figure counts"
        error = half(run.summary["train_samples_per_second"].encode()) / rate if rate else 0.0
        samples, examples = (
            Fact(rate * seconds, run.at, "train_samples_per_second x train_runtime"),
            head.get("examples"),
        )
        whole = head.get("whole") or run.facts.first.get("global_batch")
        whys = []
        if examples and epochs:
            epoch = Fact(examples.value * epochs.value, examples.line, "Num examples x Num Epochs")
            whys.append(contradiction(samples, epoch, error))
        if planned and whole:
            steps = Fact(planned.value * whole.value, planned.line, "optimization steps x batch")
            whys.append(contradiction(samples, steps, error))
        if not whys and whole and float(run.summary.get("train_steps_per_second", 0)):
            text = run.summary["train_steps_per_second"]
            steps = Fact(float(text) * whole.value, run.at, "train_steps_per_second x batch")
            whys.append(contradiction(said, steps, error + half(text.encode()) / float(text)))
        if not whys and "train_steps_per_second" not in run.summary:
            return f"{said} without train_steps_per_second is the steps a second in versions until 4.5"
        return whys[0] if whys and all(whys) else ""

    def close(self) -> None:
        self._end()


def _cut(run: _Run, seconds: float) -> str:
    """What the bar of the planned steps shows that were not run, or "". The summary gives the steps, rounded."""
    text = run.summary.get("train_steps_per_second", "0")
    steps, error = float(text) * seconds, half(text.encode()) * seconds + 1
    for total, bar in run.bars.items():
        if abs(total - steps) <= error and (why := bar.why(total)):
            return f"{total} planned steps, {why}"
    return ""


def _epochs(head: dict[str, Fact]) -> float:
    """The epochs that the planned steps are: fewer than one if the training has a limit of steps."""
    if not {"steps", "whole", "examples"} <= head.keys():
        return float("inf")
    return head["steps"].value * head["whole"].value / max(head["examples"].value, 1)


def _same(run: _Run | None, rate: str) -> bool:
    """Whether a summary says what that of a run says."""
    if run is None or not run.summary:
        return False
    known = float(run.summary["train_samples_per_second"])
    return abs(float(rate) - known) <= _SAME * known
