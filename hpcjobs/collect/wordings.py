"""The wordings of a log's lines: what a line says without its digits.

A long log has millions of lines, but few wordings. What a line says of GPUs, or that it is of a format, depends on its
wording, so lines of a wording that says nothing are looked at once. Nothing is left out: a line of another wording, and
every line of a wording that says something, is looked at.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence

from hpcjobs.collect.sources import SPLIT

_DIGITS = b"0123456789"
# Texts that a terminal shows one after another on a line have a wording each.
_LINES = bytes.maketrans(SPLIT, b"\n")
# Of so many bytes of wordings, all are forgotten, so that memory is bounded.
_MOST = 4 << 20


class Wordings:
    """The wordings of the texts of a block, which are found when they are asked for. A line with SPLIT has several."""

    def __init__(self, block: bytes) -> None:
        self._block = block

    @functools.cached_property
    def words(self) -> list[bytes]:
        """Those of all lines, in order."""
        text = self._block.translate(_LINES, _DIGITS)
        first = text[: text.find(b"\n") + 1]
        count = len(text) // len(first) if first else 0
        if count > 1 and first * count == text:  # So are nearly all blocks of many logs, and that is seen at once.
            return [*[first[:-1]] * count, b""]
        return text.split(b"\n")

    @functools.cached_property
    def all(self) -> frozenset[bytes]:
        """Which these are."""
        return frozenset(self.words)


def without_digits(text: bytes) -> bytes:
    """A text as a wording has it."""
    return text.translate(None, _DIGITS)


class Needles:
    """Texts that a line has if it may matter; or a line that begins with `start`, after blanks.

    Logs of one program have the same wordings: which of them have a needle is kept for all logs that are read.
    """

    def __init__(self, needles: Sequence[bytes], start: bytes = b"") -> None:
        self._needles = [without_digits(needle) for needle in needles]
        self._start = start
        self._having: set[bytes] = set()
        self._without: set[bytes] = set()
        self._size = 0

    def having(self, words: frozenset[bytes]) -> frozenset[bytes]:
        """Those of some wordings that have a needle."""
        found = words - self._without
        if found <= self._having:
            return found
        fresh = found - self._having
        text = b"\n".join(fresh)
        needles = [needle for needle in self._needles if needle in text]
        having = {word for word in fresh if any(map(word.__contains__, needles))}
        if self._start:
            having |= {word for word in fresh if word.lstrip().startswith(self._start)}
        without = fresh - having
        self._having |= having
        self._without |= without
        self._size += len(text)
        if self._size > _MOST:
            self._size, self._having, self._without = 0, set(), set()
        return found - without


class Spoken:
    """Finds the lines to look at: those of new wordings with one of the needles, and those of wordings that spoke."""

    def __init__(self, needles: Needles) -> None:
        self.needles = needles
        self.silent: set[bytes] = set()
        self.size = 0

    def look(self, first: int, block: bytes, wordings: Wordings, take: Callable[[int, bytes], bool]) -> None:
        """Give each such line and its number to `take`, which returns whether its wording speaks.

        `first` is the number of the block's first line.
        """
        wanted = self.needles.having(wordings.all) - self.silent
        if not wanted:
            return
        spoke: set[bytes] = set()
        for number, raw, said in _lines(first, block, wordings.words, wanted):
            if take(number, raw):
                spoke.update(said)
        silent = wanted - spoke
        self.silent |= silent
        self.size += sum(map(len, silent))
        if self.size > _MOST:
            self.size, self.silent = 0, set()


def _lines(
    first: int, block: bytes, words: list[bytes], wanted: frozenset[bytes]
) -> Iterator[tuple[int, bytes, Sequence[bytes]]]:
    """Each line of a block with a wording that is wanted: its number, it, and its wordings."""
    raws = block.split(b"\n")
    if len(raws) == len(words):
        for place, word in enumerate(words):
            if word in wanted:
                yield first + place, raws[place], (word,)
        return
    at = 0
    for number, raw in enumerate(raws, first):
        stop = at + raw.count(SPLIT) + 1
        if not wanted.isdisjoint(words[at:stop]):
            yield number, raw, words[at:stop]
        at = stop
