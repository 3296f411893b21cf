"""Finds the lines of a block that matter to a format, and removes the prefixes of launchers and loggers."""

from __future__ import annotations

import datetime
import functools
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from hpcjobs.collect.sources import SPLIT, feeds

# The prefixes of Open MPI's --timestamp-output and --tag-output (in version 5 with the job's name and @),
# horovodrun ([0]<stdout>:), MPICH's and Intel's -prepend-rank and -l, srun -l, torchrun, and [host:rank].
_RANK = re.compile(
    rb"(?=[\s\[<\dA-Z])\s*(?:[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4})?"
    rb"(?:\[(?:[^\s\[\]@]+@)?(\d+(?:,\d+)?)\]<std(?:out|err|diag)>: ?"
    rb"|<std(?:out|err|diag)>: ?"
    rb"|\[([\w.-]+:\d+(?:,\d+)?)\](?:<std(?:out|err)>)?:? ?"
    rb"|\[(?:rank|default)(\d+)\]:? ?"
    rb"|\[(\d+)\]:? "
    rb"|(\d+): )"
)
# Open MPI also tags pieces in the middle of a line: every write of a rank.
_TAG = re.compile(rb"\[(?:[^\s\[\]@]+@)?(\d+(?:,\d+)?)\]<std(?:out|err|diag)>: ?")

# Time stamps and levels of Python's logging, absl, TensorFlow and MXNet, and of tools that add time stamps.
_STAMP = re.compile(
    r"\s*(?:\[?\d{4}[-/]\d\d[-/]\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?\]?[ :|-]*"
    r"|\[?\d\d:\d\d:\d\d(?:[.,]\d+)?\][ :|-]*"
    r"|\[?(?:DEBUG|INFO|WARNING|WARN|ERROR|NOTICE)\]?(?::[A-Za-z_][\w.]*)?(?:: ?| - | +)"
    r"|[IWEF]\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ [^\]\s]+\] )"
)


_TIME = re.compile(r"(\d{4}[-/]\d\d[-/]\d\d[T ]\d\d:\d\d):([0-5]\d)(?:[.,](\d{1,9}))?")


# A number of this many digits is not a figure. Python does not even convert one of several thousand.
_DIGITS = 40
_LONG = 4096
_ENDLESS = re.compile(rb"\d{40,}")


# What a number must be followed by, in a regular expression, to be whole: not by thousands after a comma or a space, an
# exponent, or a k that scales it; and not by the end of the text, where it may be cut off.
WHOLE = rb"(?=[^\d.,kKMG\xc2\xe2]|,\D)(?! \d{3}(?!\d)|[eE][+-]?\d)"
# The same, of a number with which a line may end.
WHOLE_OR_END = r"(?=[^\d.,kKMG\xa0\u202f]|[.,](?!\d)|$)(?! \d{3}(?!\d)|[eE][+-]?\d)"


class Line(NamedTuple):
    """One line: its number, the rank that wrote it ("" if no launcher names it), and its text without prefixes."""

    number: int
    rank: str
    text: str


class Numbers:
    """Gives the line number of positions in a block. Positions must ascend, so each line feed is counted once."""

    def __init__(self, block: bytes, first: int) -> None:
        self.block, self.number, self.last = block, first, 0

    def at(self, position: int) -> int:
        """The number of the line that contains a position."""
        self.number += (
            feeds(self.block[self.last : position])
            if position - self.last > _LONG
            else self.block.count(b"\n", self.last, position)
        )
        self.last = position
        return self.number


def spots(block: bytes, needles: Sequence[bytes], start: int = 0) -> list[tuple[int, int]]:
    """Begin and end of each line from `start` on that contains one of the needles, in order."""
    found: list[tuple[int, int]] = []
    for needle in needles:
        at = block.find(needle, start)
        while at >= 0:
            end = block.find(b"\n", at)
            if end < 0:
                end = len(block)
            found.append((block.rfind(b"\n", 0, at) + 1, end))
            at = block.find(needle, end)
    return found if len(needles) == 1 else sorted(set(found))


def after(block: bytes, count: int) -> bytes:
    """A block without its first `count` lines."""
    at = 0
    for _ in range(count):
        end = block.find(b"\n", at)
        if end < 0:
            return b""
        at = end + 1
    return block[at:]


def lines(block: bytes, first: int, needles: Sequence[bytes]) -> Iterator[Line]:
    """The lines of a block that contain one of the needles; `first` is the number of the block's first line."""
    numbers, split = Numbers(block, first), SPLIT in block
    for begin, end in spots(block, needles):
        if split:
            yield from parts(block[begin:end], numbers.at(begin))
        else:
            yield line(block[begin:end], numbers.at(begin))


def parts(raw: bytes, number: int) -> Iterator[Line]:
    """The texts that a terminal showed one after another on a line; all have the rank of its prefix."""
    rank = ""
    for part in raw.split(SPLIT):
        if part:
            found = line(part, number)
            rank = found.rank or rank
            yield found if found.rank or not rank else found._replace(rank=rank)


def line(raw: bytes, number: int) -> Line:
    """One line without its launcher's prefixes."""
    if len(raw) > _DIGITS:
        raw = _ENDLESS.sub(b"?", raw)
    match = _RANK.match(raw)
    if match is None:
        return Line(number, "", raw.decode("utf-8", "replace"))
    rank = ""
    while match is not None:
        rank = next((group for group in match.groups() if group), rank.encode()).decode("ascii")
        raw = raw[match.end() :]
        match = _RANK.match(raw)
    if rank and b"]<std" in raw:
        tag = rank.encode()
        raw = _TAG.sub(lambda match: b"" if match[1] == tag else match[0], raw)
    return Line(number, rank, raw.decode("utf-8", "replace"))


def rank_of(block: bytes, begin: int, at: int) -> str:
    """The rank that a launcher names between the begin of a line and position `at`."""
    return line(block[begin:at] + b" ", 0).rank


def unstamped(text: str) -> str:
    """A line's text without time stamps and log levels before it."""
    while match := _STAMP.match(text):
        text = text[match.end() :]
    return text


def seconds(text: str) -> float | None:
    """The first time stamp of a line in s since the year 1, without a time zone (for differences only), or None."""
    match = _TIME.search(text)
    if match is None:
        return None
    minute, second, part = match.groups()
    at = _minute(minute)
    return None if at is None else at + int(second) + float(f"0.{part or 0}")


@functools.lru_cache(maxsize=256)
def _minute(text: str) -> float | None:
    """The s of a minute since the year 1, None of a time that there is not."""
    try:
        at = datetime.datetime(*map(int, re.findall(r"\d+", text)))  # type: ignore[arg-type]
    except ValueError:
        return None
    return (at - datetime.datetime.min).total_seconds()
