"""The steps of a block as columns of figures, so that a long series of them is read at once and not line by line."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from operator import itemgetter, sub, truediv
from typing import Any

import msgspec

# Stands for a step in the text that remains.
CUT = b"\x1f"

_wholes = msgspec.json.Decoder(list[int])
_floats = msgspec.json.Decoder(list[float])
_COMMAS = bytes.maketrans(b" ", b",")
# Of larger figures a pattern of a step may say that they are none.
_LARGEST = 1e12


class Matches:
    """What a pattern with groups finds in a text. Figures are those of a group in the matches from `begin` to `end`.

    A ValueError says that a figure is not printed as JSON prints numbers, or too large.
    """

    def __init__(self, pattern: re.Pattern[bytes], text: bytes, fixed: bool = False) -> None:
        self.pattern = pattern
        self.fixed = fixed  # whether the numbers of a group have as many digits after the point
        self.pieces: list[bytes] = pattern.split(text)
        self.width = pattern.groups + 1
        self.count = len(self.pieces) // self.width
        self._figures: dict[int, list[Any]] = {}
        self._rest: bytes | None = None

    def rest(self) -> bytes:
        """The text with CUT for each match: it has the same lines."""
        if self._rest is None:
            self._rest = CUT.join(self.pieces[:: self.width])
        return self._rest

    def before(self, begin: int, end: int) -> list[bytes]:
        """The texts before the matches from `begin` to `end`, after the matches before them."""
        return self.pieces[begin * self.width : end * self.width : self.width]

    def column(self, group: int, begin: int, end: int | None = None) -> list[Any]:
        """A group as bytes, None where a match has nothing of it."""
        stop = self.count if end is None else end
        if group >= self.width:
            return []
        return self.pieces[begin * self.width + group : stop * self.width : self.width]

    def wholes(self, group: int, begin: int, end: int | None = None) -> list[int]:
        """Whole numbers."""
        return self._decoded(_wholes, group)[begin:end]

    def floats(self, group: int, begin: int, end: int | None = None) -> list[float]:
        """Numbers."""
        return self._decoded(_floats, group)[begin:end]

    def _decoded(self, decoder: msgspec.json.Decoder[Any], group: int) -> list[Any]:
        if group not in self._figures:
            column = self.column(group, 0)
            if None in column:
                raise ValueError
            self._figures[group] = _decode(decoder, column)
        return self._figures[group]

    def end(self, text: bytes) -> int:
        """Where the last match ends in the text, 0 without one."""
        return len(text) - len(self.pieces[-1]) if self.count else 0


def wholes(column: Sequence[bytes]) -> list[int]:
    """A column of whole numbers; a ValueError as of Matches."""
    return _decode(_wholes, column)


def numbers(column: Sequence[bytes]) -> list[float]:
    """A column of numbers; a ValueError as of Matches."""
    return _decode(_floats, column)


def grouped(column: Sequence[bytes]) -> list[float]:
    """A column of whole numbers whose thousands may be apart by a comma; a ValueError as of Matches."""
    return _decoded(_floats, b" ".join(column).translate(_COMMAS, b","))


def _decode(decoder: msgspec.json.Decoder[Any], column: Sequence[bytes]) -> list[Any]:
    return _decoded(decoder, b",".join(column))


def _decoded(decoder: msgspec.json.Decoder[Any], text: bytes) -> list[Any]:
    found: list[Any] = decoder.decode(b"[" + text + b"]")
    if found and max(found) >= _LARGEST:
        raise ValueError
    return found


def same(column: Sequence[bytes]) -> bool:
    """Whether all of a column say the same."""
    return column.count(column[0]) == len(column)


def leading(column: Sequence[bytes]) -> int:
    """How many of a column, from its first on, say the same."""
    return len(column) if same(column) else next(at for at, one in enumerate(column) if one != column[0])


def counts(last: int, steps: Sequence[int]) -> list[int]:
    """The steps from each line to the one before, the first of which is `last`; empty if they do not ascend."""
    found = list(map(sub, steps, [last, *steps[:-1]]))
    return found if found and min(found) > 0 else []


def quotients(figures: Sequence[float], figure: float, steps: Sequence[int], step: int) -> list[float]:
    """By how much figures grow in a step, from the line before on, which has `figure` at `step`; 0 if steps do not."""
    grown, ahead = map(sub, figures, [figure, *figures[:-1]]), list(map(sub, steps, [step, *steps[:-1]]))
    return list(map(truediv, grown, ahead)) if 0 not in ahead else [0.0]


def positive(figures: Sequence[float]) -> bool:
    """Whether all figures are above 0 and finite."""
    return min(figures) > 0 and max(figures) < math.inf


def decimals(column: Sequence[bytes]) -> bool:
    """Whether all numbers of a column have as many digits after the point, so that their rounding is the same."""
    after = len(column[0].partition(b".")[2])
    try:
        return after > 0 and set(map(itemgetter(-after - 1), column)) == {ord(".")}
    except IndexError:
        return False
