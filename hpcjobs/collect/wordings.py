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
    """The wordings of the texts of a block, in order, and which these are. A line with SPLIT has several."""

    def __init__(self, block: bytes) -> None:
        text = block.translate(_LINES, _DIGITS)
        first = text[: text.find(b"\n") + 1]
        count = len(text) // len(first) if first else 0
        if count > 1 and first * count == text:  # So are nearly all blocks of many logs, and that is seen at once.
            self.words = [first[:-1]] * count
            self.words.append(b"")
            self.all = frozenset(self.words[-2:])
        else:
            self.words = text.split(b"\n")
            self.all = frozenset(self.words)


def without_digits(text: bytes) -> bytes:
    """A text as a wording has it."""
    return text.translate(None, _DIGITS)


@functools.cache
def _all_without_digits(needles: tuple[bytes, ...]) -> list[bytes]:
    return [without_digits(needle) for needle in needles]


class Spoken:
    """Finds the lines to look at: those of new wordings with one of the needles, and those of wordings that spoke."""

    def __init__(self, needles: Sequence[bytes]) -> None:
        self.needles = _all_without_digits(tuple(needles))
        self.size = 0
        self.known: set[bytes] = set()
        self.speaking: set[bytes] = set()  # of the known ones

    def look(self, first: int, block: bytes, wordings: Wordings, take: Callable[[int, bytes], bool]) -> bool:
        """Give each such line and its number to `take`, which returns whether its wording speaks.

        `first` is the number of the block's first line. Returns whether a wording of the block is new, or speaks.
        """
        fresh = wordings.all - self.known
        if not fresh and self.speaking.isdisjoint(wordings.all):
            return False
        text = b"\n".join(fresh)
        needles = [needle for needle in self.needles if needle in text]
        asked = {word for word in fresh if any(map(word.__contains__, needles))}
        self.known |= fresh
        self.size += len(text)
        if asked or not self.speaking.isdisjoint(wordings.all):
            for number, raw, said in _lines(first, block, wordings.words, asked | self.speaking):
                if take(number, raw):
                    self.speaking.update(asked.intersection(said))
        if self.size > _MOST:
            self.size, self.known, self.speaking = 0, set(), set()
        return True


def _lines(
    first: int, block: bytes, words: list[bytes], wanted: set[bytes]
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
