"""Progress bars of trainings, above all PyTorch Lightning's: a rate of steps.

    Epoch 3:  47%|████▋     | 7/15 [06:19<07:13,  1.35it/s, v_num=0]
    Validation DataLoader 0: 100%|██████████| 3/3 [00:01<00:00,  2.1it/s]

A bar counts if its name says an epoch with its number, or steps, and nothing else: a download, the preparation of data,
an evaluation, a bar without a name may be anything. One named after the training alone may count epochs, so it needs
another after it. Bars of epochs are never steps. A validation that begins ends its epoch's bar. A step of a bar is one
batch of each rank, so there is a rate of samples only if the log says the batch, and no accumulation of gradients.
"""

from __future__ import annotations

import enum
import itertools
import re

from hpcjobs.collect.formats.bars import BAR, Steps, stretches
from hpcjobs.collect.formats.facts import ACCUMULATION, Facts, coarse
from hpcjobs.collect.formats.matches import Matches
from hpcjobs.collect.formats.reader import Findings, FormatReader
from hpcjobs.collect.formats.steps import NO_BATCH
from hpcjobs.collect.lines import Line, Numbers, lines
from hpcjobs.collect.steady import scaled
from hpcjobs.collect.wordings import Wordings

_STEPS = re.compile(r"(?i)\bepoch\W{0,3}\d|\b(?:train(?:ing)?[ _])?steps?\b")
_TRAINING = re.compile(r"(?i)\btrain(?:ing)?\b")
# What else the name of a training's bar may have: numbers, a rank, a loss.
_WORDS = frozenset(
    (
        *("epoch", "epochs", "train", "training", "step", "steps", "of", "rank", "gpu", "stdout", "stderr", "model"),
        *("loss", "lr", "acc", "avg", "mean", "iter", "iters", "iteration", "iterations", "progress", "info", "e"),
    )
)
_VALIDATION = re.compile(r"(?i)\bvalid|\beval|\btest")


class _Kind(enum.Enum):
    """What a bar counts."""

    STEPS = "steps of a training"
    OPEN = "steps of a training, or its epochs"
    VALIDATION = "steps of a validation"
    OTHER = "anything else"


def _kind(name: str) -> _Kind:
    if {word.lower() for word in re.findall(r"[A-Za-z]+", name)} <= _WORDS:
        if _STEPS.search(name):
            return _Kind.STEPS
        if _TRAINING.search(name):
            return _Kind.OPEN
    return _Kind.VALIDATION if _VALIDATION.search(name) else _Kind.OTHER


class ProgressReader(FormatReader):
    """Reads the bars that the text at the top of this file describes."""

    name = "progress"

    def __init__(self, findings: Findings) -> None:
        super().__init__(findings)
        self.facts = Facts()
        self.steps = Steps()
        self.open = Steps()  # bars that may count epochs
        self.line = 0
        self.found = Matches(BAR, b"")  # the bars of the block that is read next
        self.kinds: dict[bytes, _Kind] = {}  # of bars, by the words of their names

    def rest(self, block: bytes, wordings: Wordings) -> tuple[bytes, Wordings]:
        self.found = Matches(BAR, block)
        rest = self.found.rest()
        return rest, Wordings(rest)

    def feed(self, first: int, block: bytes, sign: int = 0) -> None:
        numbers = Numbers(block, first)
        for stretch in stretches(self.found):
            kind = self.kinds.get(stretch.words)
            if kind is None:
                kind = self.kinds[stretch.words] = _kind(stretch.name())
            bars = self.open if kind is _Kind.OPEN else self.steps
            if kind in (_Kind.OPEN, _Kind.STEPS):
                if not self.line:
                    at = next(itertools.islice(BAR.finditer(block), stretch.place, None)).start()
                    self.line = numbers.at(at)
                bars.go(stretch)
            elif kind is _Kind.VALIDATION:
                self.steps.frozen = self.open.frozen = True
        # Another start may say another batch.
        for line in lines(self.found.rest(), first, (b"ccumulat", *Facts.needles)):
            self._head(line)

    def _head(self, line: Line) -> None:
        if match := ACCUMULATION.search(line.text):
            self.facts.say("accumulation", int(match[1]), line.number, "accumulation of gradients")
        else:
            self.facts.take(line)

    def close(self) -> None:
        if not self.steps.newest and not self.steps.bars:
            self.open.close()
            if len(self.open.bars) == 1:
                self.findings.problem(self.line, "one bar named after the training may count steps or epochs")
                return
            self.steps = self.open
        batches = [name for name in ("local_batch", "global_batch") if name in self.facts.against]
        for name in batches:  # The bars may be of several starts.
            self.facts.get(name, self.findings)
        if not batches:
            add_bars(self, self.steps, self.facts, self.line)


def add_bars(
    reader: FormatReader,
    steps: Steps,
    facts: Facts,
    line: int,
    batch: int | None = None,
    accumulation: int | None = None,
) -> None:
    """Add a run by its bars; `batch` is that of one of their steps over all GPUs, with `accumulation`, if known."""
    findings = reader.findings
    steady, error = steps.steady()
    if steady is None or not line:
        return
    told, refused = coarse(error, "the seconds of bars")
    if told or refused:
        findings.problem(line, told or refused)
    if refused:
        return
    own = facts.own(findings)
    gpus, local = reader.count(line, own.get("gpus")), facts.get("local_batch", findings)
    whole = batch
    if whole is None and "accumulation" not in facts.first:
        whole = facts.get("global_batch", findings)
    if whole is None and local and gpus:
        whole = local * gpus
    reader.add_run(
        line,
        "steps of progress bars",
        global_batch=whole,
        accumulation=accumulation,
        step_ms=1000 / steady.rate,
        steady=scaled(steady, whole),
        unit="samples" if whole else "steps",
        why=NO_BATCH,
        **own,
    )
