"""What a log says of its run, each number with the line that says it; and whether two figures of a log agree."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from itertools import repeat
from operator import add, mul, sub
from typing import Any, NamedTuple

from hpcjobs.collect.agreement import TOLERANCE, where
from hpcjobs.collect.formats.context import Context
from hpcjobs.collect.formats.matches import Matches, decimals, numbers
from hpcjobs.collect.formats.reader import Findings
from hpcjobs.collect.lines import Line

# Rounding of more than this part of a figure is told; more than the tolerance of agreement leaves no figure.
TOLD = 0.02

# How many micro-batches a step of the optimizer has, in arguments and configurations.
ACCUMULATION = re.compile(
    r"(?i)\b(?:accumulate_grad_batches|grad(?:ient)?[ _]accum(?:ulation)?(?:[ _]steps)?|accumulation[ _]steps"
    r"|accum_iter)\W{1,5}(\d{1,9})\b"
)
# Lines of PyTorch Lightning and of DeepSpeed's launcher that say how many processes there are, one for each GPU.
_PROCESSES = re.compile(
    r"\b(?:GLOBAL_RANK: \d+, (MEMBER): \d+/|(dist_world_size)=|(Starting with) (?=\d+ processes))(\d{1,9})\b"
)


class Fact(NamedTuple):
    """A number, the line that says it, and the log's word for it; of a mean the first line and the last."""

    value: float
    line: int
    words: str
    last: int = 0

    def __str__(self) -> str:
        return f"{self.words} {self.value:.6g} ({where(self.line, self.last)})"


class Facts:
    """Whole numbers that a log says of a run, by name. If it says two, none is known, and both are named."""

    processes = (b"MEMBER: ", b" processes", b"dist_world_size=")
    needles = (b"atch", *processes)

    def __init__(self) -> None:
        self.first: dict[str, Fact] = {}
        self.against: dict[str, Fact] = {}

    def say(self, name: str, value: int, line: int, words: str) -> None:
        """Take a number above 0. The first counts, and one that differs contradicts it."""
        if value <= 0:
            return
        known = self.first.setdefault(name, Fact(value, line, words))
        if known.value != value:
            self.against.setdefault(name, Fact(value, line, words))

    def take(self, line: Line) -> None:
        """Read what scripts of any framework print about the batch, and launchers about their processes."""
        if match := _PROCESSES.search(line.text):
            self.say("gpus", int(match[4]), line.number, match[1] or match[2] or match[3])
            return
        context = Context()
        context.take(line.text)
        for name, said in (("local_batch", context.local_batch), ("global_batch", context.global_batch)):
            self.say(name, said or 0, line.number, name.replace("_", " "))

    def own(self, findings: Findings) -> dict[str, Any]:
        """What the room's own lines say of the number of GPUs, as FormatReader.add_run takes it."""
        gpus = self.get("gpus", findings)
        return {"gpus": gpus, "gpus_at": (self.first["gpus"].line, self.first["gpus"].words)} if gpus else {}

    def get(self, name: str, findings: Findings | None = None) -> int | None:
        """The number, or None if it is not known; a contradiction becomes a problem."""
        if name not in self.first:
            return None
        if name in self.against:
            if findings is not None:
                findings.problem(
                    self.against[name].line,
                    f"the log contradicts itself: {self.first[name]}; {self.against[name]}: none counts",
                )
            return None
        return int(self.first[name].value)


def contradiction(one: Fact | None, other: Fact | None, half: float = 0.0, exact: bool = False) -> str:
    """What two figures of a log that should be equal say, if they do not agree; else "".

    They agree within agreement.TOLERANCE, or if they are `exact` (two statements of one number), within rounding alone.
    `half` is the relative rounding error of both together.
    """
    slack = 0.0 if exact else TOLERANCE
    if one is None or other is None or one.value <= 0 or other.value <= 0:
        return ""
    bound = 1 + slack + half
    if 1 / bound <= one.value / other.value <= bound:
        return ""
    return f"the log contradicts itself: {one}; {other}: no figure counts"


# Figures, and the largest rounding error of each.
Figures = tuple[list[float], Iterable[float]]


def rounded(found: Matches, group: int, begin: int, end: int | None = None) -> Figures:
    """Numbers of matches with their rounding errors."""
    return found.floats(group, begin, end), _halves(found.column(group, begin, end), found.fixed)


def rounded_texts(column: Sequence[bytes]) -> Figures:
    """Numbers with their rounding errors; a ValueError as of Matches."""
    return numbers(column), _halves(column)


def _halves(column: Sequence[bytes], fixed: bool = False) -> Iterable[float]:
    """`half` of each number; reckoned once where all are printed with as many digits, as those of `fixed` are."""
    return repeat(half(column[0])) if fixed or decimals(column) else list(map(half, column))


class Product:
    """A rate times the time of a step, over many lines: the batch of a step, as far as rounding lets it be known."""

    def __init__(self, words: str) -> None:
        self.words = words
        self.low, self.high = 0.0, math.inf
        self.line = self.last = 0  # the first and the last line of a step
        self.why = ""  # what contradicts it

    def add(self, rate: float, half_rate: float, time: float, half_time: float, line: int) -> None:
        """Take the two figures of a line, with the largest rounding error of each. A rate of 0 is left out."""
        if rate <= half_rate:
            return
        low = (rate - half_rate) * max(time - half_time, 0)
        high = (rate + half_rate) * (time + half_time)
        if not 0 < high < math.inf:
            return
        self.last = line
        if (low > self.high * (1 + TOLERANCE) or high * (1 + TOLERANCE) < self.low) and not self.why:
            here = Fact(rate * time, line, self.words)
            self.why = f"the log contradicts itself: {here}; {self.fact()}: no figure counts"
        if low <= self.high and high >= self.low:
            self.low, self.high, self.line = max(low, self.low), min(high, self.high), self.line or line

    def bounds(self, rates: Figures, times: Figures) -> tuple[float, float] | None:
        """What is left of `low` and `high` after many lines; None if `add` must take them, to say what contradicts it.

        Both are figures with the largest rounding error of each.
        """
        slow, fast = list(map(sub, *rates)), list(map(add, *rates))
        short, long = list(map(sub, *times)), list(map(add, *times))
        least, most = max(map(mul, slow, short)), min(map(mul, fast, long))
        if not self.line or min(short) < 0 or min(slow) <= 0 or not 0 < most < math.inf:
            return None
        low, high = max(self.low, least), min(self.high, most)
        if low > high:
            low, high = self.low, self.high
            for least, most in zip(map(mul, slow, short), map(mul, fast, long), strict=True):
                if least <= high and most >= low:
                    low, high = max(least, low), min(most, high)
                elif (least > high * (1 + TOLERANCE) or most * (1 + TOLERANCE) < low) and not self.why:
                    return None
        return low, high

    def narrow(self, bounds: tuple[float, float], line: int) -> None:
        """Take what `bounds` gave of lines up to `line`."""
        self.low, self.high = bounds
        self.last = line

    def fact(self) -> Fact | None:
        """The middle of what it may be, or None."""
        return Fact((self.low + self.high) / 2, self.line, self.words, self.last) if self.high < math.inf else None

    def error(self) -> float:
        """The relative rounding error of the middle."""
        return (self.high - self.low) / (self.high + self.low) if self.high < math.inf else 0.0

    def whole(self) -> int | None:
        """The one whole number that it can be, or None."""
        least = math.ceil(self.low - 1e-9)
        return least if self.high < math.inf and least > 0 and math.floor(self.high + 1e-9) == least else None


# By the number of decimals: of each step of a log, so not reckoned anew.
_HALVES = tuple(0.5 * 10.0**-decimals for decimals in range(64))


def half(number: bytes) -> float:
    """The largest rounding error of a number as it is printed: half a unit of its last digit."""
    if b"e" in number or b"E" in number:
        digits, _, power = number.lower().partition(b"e")
        return float(0.5 * 10.0 ** (int(power or 0) - len(digits.partition(b".")[2])))
    point = number.find(b".")
    return _HALVES[min(len(number) - point - 1, 63) if point >= 0 else 0]


def coarse(error: float, what: str) -> tuple[str, str]:
    """What is to be told of a figure that rounding leaves open by `error` (0.05: by 5 %), and why it does not count.

    Either is "" where it does not apply. `what` is what the log rounds, such as `epochs` to whole seconds.
    """
    if error > TOLERANCE:
        return "", f"{what} are rounded too much: the figure is known to {error:.0%} only, and does not count"
    return (f"{what} are rounded: the figure is known to {error:.1%}" if error > TOLD else ""), ""
