"""The base of rooms whose logs have one line for each step, or for each few: when a run begins, and which lines count.

What a log says of its run (GPUs, batch, arguments) is read up to its first step. A step that was seen before is another
rank's copy. One far below the newest begins another run, and so does the line that the framework prints at its start.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from hpcjobs.collect.formats.facts import Facts
from hpcjobs.collect.formats.matches import CUT, Matches, counts, leading
from hpcjobs.collect.formats.reader import Findings, FormatReader
from hpcjobs.collect.lines import Line, Numbers, lines
from hpcjobs.collect.measurements import SteadyRate
from hpcjobs.collect.sources import SPLIT, feeds
from hpcjobs.collect.steady import TENTH, Windows, scaled
from hpcjobs.collect.wordings import Wordings, without_digits

_MANY = 512
# So much of what stands between two steps is kept.
_LATE = 1 << 18
# So many first steps of a run are read one by one, and at most so many others before a block is no longer read at once.
_ALONE, _ALONE_MOST = 16, 64
NO_BATCH = "the log gives the time of a step, but not the batch of all GPUs: there is no rate"


class Run:
    """One run: what the log says of it, and its steps in order."""

    def __init__(self) -> None:
        self.line = 0
        self.facts = Facts()
        self.first = 0
        self.last = -1  # the newest step
        self.gap = 1  # steps from the line before to the newest
        self.windows = Windows()
        self._work: list[float] = []  # of windows that wait to be added many at once
        self._times: list[float] = []

    def add(self, work: float, time: float) -> None:
        """Take a window: its work, and the s that it took."""
        if 0 < work < math.inf and 0 < time < math.inf:
            self._work.append(work)
            self._times.append(time)
            if len(self._work) == _MANY:
                self._flush()

    def extend(self, work: Sequence[float], times: Sequence[float]) -> None:
        """Take many windows at once. They are not checked: all figures must be above 0 and finite."""
        self._flush()
        self.windows.extend(work, times)

    def clear(self) -> None:
        """Forget all windows."""
        self.windows, self._work, self._times = Windows(), [], []

    def _flush(self) -> None:
        if self._times:
            self.windows.extend(self._work, self._times)
            self._work, self._times = [], []

    def settled(self, warmup: int | None = None, rule: str = TENTH) -> SteadyRate | None:
        """The steady state of the windows: see Windows.steady."""
        self._flush()
        return self.windows.steady(warmup, rule)

    def is_first_step(self) -> bool:
        """Whether the run has its first step alone, which holds what compiles and loads."""
        return self.first == self.last <= 1 and len(self.windows) + len(self._times) <= 1

    def count(self, step: int) -> int:
        """The steps since the line before; 0: another rank's copy; -1: another run begins. `gap` for the first line."""
        if self.last < 0:
            self.first = self.last = step
            return self.gap
        if step > self.last:
            self.gap, self.last = step - self.last, step
            return self.gap
        return -1 if step <= self.last - 3 * self.gap or (step < self.first) else 0

    def counts(self, steps: Sequence[int]) -> list[int]:
        """What `count` gives for lines that go on in the run, each a step after the one before; empty for others."""
        found = counts(self.last, steps) if self.last >= 0 else []
        if found:
            self.gap, self.last = found[-1], steps[-1]
        return found


R = TypeVar("R", bound=Run)


class StepReader(FormatReader, Generic[R]):
    """Reads `steps`, and before a run's first lines with one of `heads`. `begin` is on a line that begins a run."""

    heads: ClassVar[tuple[bytes, ...]] = Facts.needles
    begin: ClassVar[bytes] = b""
    steps: ClassVar[re.Pattern[bytes]]
    of_epochs: ClassVar[bool] = False  # whether a line is of a whole epoch
    # Finds what `steps` finds in plain lines, with the same groups, but faster. Every step has one of the texts of
    # `marks`: where these are as often in a block as the pattern is found, it leaves nothing out. `fixed` says that all
    # numbers of a group have as many digits after the point.
    plain: ClassVar[re.Pattern[bytes] | None] = None
    marks: ClassVar[tuple[bytes, ...]] = ()
    fixed: ClassVar[bool] = False

    def __init__(self, findings: Findings) -> None:
        super().__init__(findings)
        self.run = self.new()
        self.began = False  # whether the run has a step
        self.numbers = Numbers(b"", 1)
        self.begins = 1  # the line at which what is read begins, and where in it the step before ended
        self.done = 0
        self.late = b""  # what stands after the newest step in blocks before
        self.parts: list[tuple[bytes, Matches]] = []  # of the block that is read next
        self.wordings = Wordings(b"")  # of what is no step in it
        self.said: list[bytes] = []  # those of lines with steps

    def new(self) -> R:
        """An empty run."""
        raise NotImplementedError

    def head(self, line: Line) -> None:
        """Read a line before the first step of a run."""
        self.run.facts.take(line)

    def step(self, match: re.Match[bytes]) -> None:
        """Read a line of a step; `self.numbers.at(match.start())` is its number."""
        raise NotImplementedError

    def end(self, run: R) -> None:
        """Add the measurement of a run that has steps."""
        raise NotImplementedError

    def many(self, found: Matches, begin: int) -> int:
        """Take steps from `begin` on at once, as far as they go on in the run and nothing but figures changes.

        Returns the first that is left to `step`: `begin` itself if that changes more.
        """
        return begin

    def words_alike(self, begin: int) -> int:
        """How many lines of steps, from that of the step `begin` on, say the same but for figures; 0 if unknown."""
        said = [words for words in self.wordings.all if CUT in words]
        if len(self.parts) > 1 or SPLIT in self.numbers.block or any(words.count(CUT) > 1 for words in said):
            return 0
        if len(said) == 1:
            return self.parts[0][1].count - begin
        if not self.said:
            self.said = [words for words in self.wordings.words if CUT in words]
        return leading(self.said[begin:])

    def line_of(self, found: Matches, index: int) -> int:
        """The number of the line of a step."""
        return self.begins + feeds(b"".join(found.column(0, 0, index + 1)))

    def rest(self, block: bytes, wordings: Wordings) -> tuple[bytes, Wordings]:
        rest = self._cut([block], self._matches)
        if self.begin and self._says(without_digits(self.begin)):  # which no step has in itself
            rest = self._cut([block[begin:end] for begin, end in sections(block, self.begin)], self._matches)
        plain = any(found.pattern is self.plain for _, found in self.parts)
        if plain and any(map(self._says, self.marks)):
            rest = self._cut([part for part, _ in self.parts], functools.partial(Matches, self.steps))
        return rest, self.wordings

    def _cut(self, parts: list[bytes], matches: Callable[[bytes], Matches]) -> bytes:
        """Take the parts of a block with their steps; returns the block without these."""
        self.parts = [(part, matches(part)) for part in parts]
        rest = b"".join(found.rest() for _, found in self.parts)
        self.wordings, self.said = Wordings(rest), []
        return rest

    def _says(self, words: bytes) -> bool:
        """Whether what is no step in the block that is read next says these words."""
        return any(words in each for each in self.wordings.all)

    def _matches(self, part: bytes) -> Matches:
        """The steps of a section, unless `plain` does not find all that have one of `marks`."""
        if self.plain and SPLIT not in part:
            found = Matches(self.plain, part, self.fixed)
            # What skips anything could skip a step.
            if b".*" not in self.plain.pattern or sum(map(part.count, self.marks)) == found.count:
                return found
        return Matches(self.steps, part)

    def feed(self, first: int, block: bytes, sign: int = 0) -> None:
        number = first
        for place, (part, found) in enumerate(self.parts):
            self.numbers = Numbers(part, number)
            if place or (self.begin and part.find(self.begin, 0, part.find(b"\n") + 1 or len(part)) >= 0):
                between = self.late[self.late.find(b"\n") + 1 :] if self.began else b""
                self._end_at(number, self.findings.at)
                for line in lines(between, number - between.count(b"\n"), Facts.processes):
                    self.head(line)  # A launcher prints it before the run's own begin.
            self._section(part, number, found)
            number += part.count(b"\n") if place + 1 < len(self.parts) else 0

    def _section(self, part: bytes, number: int, found: Matches) -> None:
        self.begins, self.done = number, 0
        if found.count and not self.began and (match := self.steps.search(part)):
            stop = part.rfind(b"\n", 0, match.start()) + 1
            for line in lines(part[:stop], number, self.heads):
                self.head(line)
            self.began = True
            self.run.line = self.numbers.at(match.start())
            self._read(part, found, _ALONE)
        elif found.count:
            self._read(part, found, 1)
        end = found.end(part)
        self.late = part[end:][-_LATE:] if end else (self.late + part)[-_LATE:]
        if found.count:
            self.findings.before = self.findings.at = self.numbers.at(end)
        if not self.began:
            for line in lines(part[end:], number + part.count(b"\n", 0, end), self.heads):
                self.head(line)

    def _read(self, part: bytes, found: Matches, alone: int) -> None:
        """Read the steps of a section at once where they are a series, and one by one where not, at first `alone`."""
        index = seen = 0
        each = self.steps.finditer(part)
        while index < found.count:
            before = index
            if alone < _ALONE_MOST:
                with contextlib.suppress(ValueError):
                    index = self.many(found, index)
            if index > before:
                alone = 1
                continue
            if index > seen:  # After steps that were read at once: where the last of them ends.
                self.done = next(itertools.islice(each, index - seen - 1, None)).end()
            end = self.done
            for match in itertools.islice(each, alone):
                self.done = end
                self.step(match)
                end = match.end()
            self.done, index = end, index + alone
            seen = index
            alone *= 2

    def again(self, at: int) -> R:
        """End the run before the step at position `at`, and begin another: a training that was started again.

        Lines since the newest step say the other one's facts. If they say none, it has none: its head is lost, and it
        may have other GPUs and another batch than the run before.
        """
        numbers = self.numbers
        last = self.begins + numbers.block.count(b"\n", 0, self.done) if self.done else self.findings.at
        between, line = self._between(numbers.block, at), numbers.at(at)
        self._end_at(line, last)
        for each in lines(between, line - between.count(b"\n"), self.heads):
            self.head(each)
        self.anew(last, line, bool(self.run.facts.first))
        self.run.line, self.began, self.numbers = line, True, numbers
        return self.run

    def _between(self, block: bytes, at: int) -> bytes:
        """The whole lines between the newest step and the one at `at`."""
        stop = block.rfind(b"\n", 0, at) + 1
        text = block[self.done : stop] if self.done else self.late + block[:stop]
        return text[text.find(b"\n") + 1 :]

    def follow(self, step: int, match: re.Match[bytes]) -> tuple[R, int]:
        """The run of a step, and its steps since the line before; 0: another rank's copy. It may begin another run."""
        count = self.run.count(step)
        if count < 0:
            self.again(match.start())
            count = self.run.count(step)
        return self.run, count

    def add_steps(
        self,
        run: R,
        steady: SteadyRate | None,
        figure: str,
        unit: str,
        *,
        batch: int | None = None,
        accumulation: int = 1,
        why: str = "",
        **more: Any,
    ) -> None:
        """Add a run by the steady state of its steps, in steps a second, and the batch of a step of all GPUs.

        Without `batch` the local batch and the GPUs give it. `accumulation` timed steps are one of the optimizer.
        `why` is what contradicts the run's figures: it then has none.
        """
        if steady is None:
            return
        facts = run.facts
        about: dict[str, Any] = {**facts.own(self.findings), "unit": unit, **more}
        if why:
            self.add_run(run.line, figure, why=why, **{**about, "total": None})
            return
        local = facts.get("local_batch", self.findings)
        gpus = self.count(run.line, about.get("gpus"))
        each = batch / accumulation if batch else local * gpus if local and gpus else None
        self.add_run(
            run.line,
            figure,
            global_batch=batch,
            local_batch=local,
            accumulation=accumulation if accumulation > 1 else None,
            step_ms=1000 * accumulation / steady.rate,
            sd=steady.sd * each if steady.sd is not None and each else None,
            steady=scaled(steady, each),
            why=NO_BATCH,
            **about,
        )

    def _end_at(self, line: int, last: int) -> None:
        """End the run, whose last step is in line `last`, before a line that belongs to the next."""
        if self.began:
            self.findings.before, self.findings.at = last, line
            self.close()

    def close(self) -> None:
        run, began = self.run, self.began
        if began:
            self.run, self.began = self.new(), False
            if run.is_first_step() and not self.of_epochs:
                self.findings.problem(run.line, "the log has the first step alone, which is warm-up: no figure counts")
                return
            self.end(run)


def sections(block: bytes, begin: bytes) -> Iterator[tuple[int, int]]:
    """Begin and end of the parts of a block, each of which begins with a line that has `begin`, or with the block."""
    start = 0
    at = block.find(begin) if begin else -1
    while at >= 0:
        line = block.rfind(b"\n", 0, at) + 1
        if line > start:
            yield start, line
            start = line
        at = block.find(begin, at + 1)
    yield start, len(block)
