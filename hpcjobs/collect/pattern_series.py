"""The matches of one rank in order, and what is shown of a pattern's matches: a few of them, and counts."""

from __future__ import annotations

import dataclasses
import statistics
from collections import Counter, deque
from operator import truediv

from hpcjobs.collect.pattern import Pattern
from hpcjobs.collect.pattern_numbers import Found
from hpcjobs.collect.steady import Windows

# Matches that are shown, from the begin and from the end, and the length of their texts.
SHOWN = 20
_TEXT_LENGTH = 200
# Windows of one rank before neighbours are joined: there may be thousands of ranks.
_KEPT = 4096


@dataclasses.dataclass(frozen=True)
class Matched:
    """One match: the line, the rank that printed it ("": no launcher names it), its figures, and why it is left out.

    `left_out` is empty if it counts.
    """

    line: int
    rank: str
    text: str
    found: Found
    left_out: str


class Matches:
    """All matches of a log: the first and the last 20, how many count, and how many do not, by the reason."""

    def __init__(self) -> None:
        self.first: list[Matched] = []
        self.last: deque[Matched] = deque(maxlen=SHOWN)
        self.total = 0
        self.counted = 0
        self.left_out: Counter[str] = Counter()
        # The first match that is left out for each reason, in its own words.
        self.details: dict[str, str] = {}

    def add(self, line: int, rank: str, text: str, found: Found, left_out: str, detail: str = "") -> None:
        """Take a match. `left_out` is the reason as it is counted, `detail` the same of this match."""
        self.total += 1
        if left_out:
            self.left_out[left_out] += 1
            if detail:
                self.details.setdefault(left_out, f"{detail}, line {line}")
        else:
            self.counted += 1
        if len(text) > _TEXT_LENGTH:
            text = f"{text[:_TEXT_LENGTH]}..."
        match = Matched(line, rank, text, found, detail or left_out)
        if len(self.first) < SHOWN:
            self.first.append(match)
        else:
            self.last.append(match)

    @property
    def hidden(self) -> int:
        """Matches between the first and the last ones."""
        return self.total - len(self.first) - len(self.last)


class Series:
    """The matches of one rank: those after the warm-up, as windows in flat memory."""

    def __init__(self, line: int) -> None:
        self.line = line  # of the first match
        self.matches = 0
        self.warmup = 0  # matches that were left out
        self._first_step: int | None = None
        self._warm = True
        # Work and seconds of each match: units if the pattern has a rate, and steps if it has step_ms.
        self.units = Windows(_KEPT)
        self.steps = Windows(_KEPT)
        self._last: dict[str, float] = {}

    def is_warmup(self, found: Found, pattern: Pattern) -> bool:
        """Whether a match belongs to the warm-up. Once it is over, it does not come back with another epoch."""
        self.matches += 1
        if self._warm and found.step is not None:
            if self._first_step is None:
                self._first_step = found.step
            self._warm = self._first_step <= found.step < self._first_step + pattern.warmup
        elif self._warm and not pattern.has("step"):
            self._warm = self.matches <= pattern.warmup
        self.warmup += self._warm
        return self._warm

    def add(self, found: Found) -> None:
        """Take a match that counts."""
        if found.throughput is not None:
            self._add("units", 1.0, 1 / found.throughput)
        elif found.samples is not None and found.step_ms is not None:
            self._add("units", found.samples, found.step_ms / 1000)
        if found.step_ms is not None:
            self._add("steps", 1.0, found.step_ms / 1000)

    def _add(self, what: str, work: float, seconds: float) -> None:
        windows: Windows = getattr(self, what)
        windows.add(work, seconds)
        self._last[what] = work / seconds

    def rate(self, what: str, take: str) -> float | None:
        """Units or steps a second, or None if no match counts."""
        windows: Windows = getattr(self, what)
        steady = windows.steady(0)
        if steady is None:
            return None
        if take == "last":
            return self._last[what]
        return statistics.median(map(truediv, windows.work, windows.times)) if take == "median" else steady.rate
