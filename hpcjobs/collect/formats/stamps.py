"""The time between steps by the time stamps of their lines, which checks what the log says of its steps."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from hpcjobs.collect.formats.matches import Matches
from hpcjobs.collect.lines import seconds

# So many lines of a run are enough, and so many without a stamp show that it has none.
_MOST = 100


class Stamps:
    """The first lines of a run: of each the s of a step since the line before, by both time stamps."""

    def __init__(self) -> None:
        self._values: list[float] = []
        self._lost = 0  # lines without a stamp that tells the time of a step
        self._at: float | None = None

    def open(self) -> bool:
        """Whether lines are still wanted."""
        return len(self._values) < _MOST and self._lost < _MOST

    def take(self, before: bytes, steps: int, times: float = 1.0) -> None:
        """Take a line: what stands on it before the step, the steps since the line before, and what to multiply by."""
        at = seconds(before.decode("utf-8", "replace"))
        if at is not None and self._at is not None and at > self._at:
            self._values.append(times * (at - self._at) / steps)
        else:
            self._lost += 1
        self._at = at

    def extend(self, before: Iterable[bytes], steps: Iterable[int], times: Iterable[float]) -> None:
        """Take lines as long as they are wanted: of each what `take` takes."""
        for text, count, factor in zip(before, steps, times, strict=False):
            if not self.open():
                return
            self.take(text, count, factor)

    def wanted(self, found: Matches, begin: int) -> list[bytes]:
        """What stands before steps on their lines, from that of `begin` on, as many as may still be wanted.

        A ValueError says that a line has two steps.
        """
        if not self.open():
            return []
        texts = found.before(begin, min(found.count, begin + 2 * _MOST))
        if not all(b"\n" in text for text in (texts if begin else texts[1:])):
            raise ValueError
        return [text[text.rfind(b"\n") + 1 :] for text in texts]

    def median(self) -> float | None:
        """The median, in s times what was multiplied by; None if no line has a stamp."""
        return statistics.median(self._values) if self._values else None


def line_before(block: bytes, at: int) -> bytes:
    """What stands before position `at` on its line."""
    return block[block.rfind(b"\n", 0, at) + 1 : at]
