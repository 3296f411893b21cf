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

from hpcjobs.collect.formats.bars import BAR, Steps, Stretch, stretches
from hpcjobs.collect.formats.facts import ACCUMULATION, Facts, coarse
from hpcjobs.collect.formats.matches import Matches
from hpcjobs.collect.formats.reader import Findings, FormatReader
from hpcjobs.collect.formats.steps import NO_BATCH
from hpcjobs.collect.lines import Line, Numbers, lines
from hpcjobs.collect.steady import scaled
from hpcjobs.collect.wordings import Wordings

_STEPS = re.compile(r"(?i)\bepoch\W{0,3}\d|\b(?:train(?:ing)?[ _])?steps?\b")
_EPOCH = re.compile(r"(?i)\bepochs?\W{0,3}(\d{1,9})")
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
        self._begin()
        self.found = Matches(BAR, b"")  # the bars of the block that is read next
        self.kinds: dict[bytes, _Kind] = {}  # of bars, by the words of their names

    def _begin(self) -> None:
        self.facts = Facts()
        self.steps = Steps()
        self.open = Steps()  # bars that may count epochs
        self.line = 0
        self.epoch = -1  # the newest that a bar of steps names

    def rest(self, block: bytes, wordings: Wordings) -> tuple[bytes, Wordings]:
        self.found = Matches(BAR, block)
        rest = self.found.rest()
        return rest, Wordings(rest)

    def feed(self, first: int, block: bytes, sign: int = 0) -> None:
        numbers, heads = Numbers(block, first), self._heads(first)
        for stretch in stretches(self.found):
            kind = self.kinds.get(stretch.words)
            if kind is None:
                kind = self.kinds[stretch.words] = _kind(stretch.name())
            if kind in (_Kind.OPEN, _Kind.STEPS):
                epoch = int(match[1]) if (match := _EPOCH.search(stretch.text())) else -1
                if self.line and self._restarts(epoch, stretch):
                    places = list(itertools.islice(BAR.finditer(block), stretch.place + 1))
                    last = numbers.at(places[-2].start()) if stretch.place else first - 1
                    self._anew(last, numbers.at(places[-1].start()), heads)
                if not self.line:
                    at = next(itertools.islice(BAR.finditer(block), stretch.place, None)).start()
                    self.line = numbers.at(at)
                self.epoch = epoch
                (self.open if kind is _Kind.OPEN else self.steps).go(stretch)
            elif kind is _Kind.VALIDATION:
                self.steps.frozen = self.open.frozen = True
        for line in heads:  # Another start may say another batch.
            self._head(line)

    def _heads(self, first: int) -> list[Line]:
        """The lines of the block that may say something of a run."""
        return list(lines(self.found.rest(), first, (b"ccumulat", *Facts.needles)))

    def _restarts(self, epoch: int, stretch: Stretch) -> bool:
        """Whether bars begin an epoch of before again: another start of the training, and not another rank's copy."""
        newest, done = self.steps.newest or self.open.newest, stretch.done[0]
        if not 0 <= epoch <= self.epoch or (epoch == self.epoch and newest is None):
            return False
        if epoch < self.epoch - 1:
            return True
        far = newest is None or epoch < self.epoch or 10 * newest.done >= newest.total
        return far and 2 * done < stretch.total and (epoch < self.epoch or newest is None or 2 * done <= newest.done)

    def _anew(self, last: int, line: int, heads: list[Line]) -> None:
        """End the run whose last bar is in a line; another begins at `line`, with what lines between them say."""
        while heads and heads[0].number <= last:
            self._head(heads.pop(0))
        self.findings.before, self.findings.at = last, line
        self.close()
        self._begin()
        self.anew(last, line, any(head.number < line for head in heads))

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
