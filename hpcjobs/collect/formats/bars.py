"""Progress bars of tqdm, which PyTorch Lightning and the Hugging Face Trainer print, too.

    Epoch 3:  47%|████▋     | 7/15 [06:19<07:13,  1.35it/s, v_num=0]
     12%|█▏        | 45/378 [18:03<2:13:35, 24.07s/it]

The seconds before < are cut to whole ones. The rate behind them is smoothed while the bar runs. Once it has ended, it
is steps over time, and counts if it lies where the seconds let it.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator
from operator import and_, eq, le, lt
from typing import NamedTuple

from hpcjobs.collect.formats.matches import CUT, Matches, wholes
from hpcjobs.collect.measurements import SteadyRate
from hpcjobs.collect.sources import SPLIT
from hpcjobs.collect.steady import Windows

BAR = re.compile(
    rb"%\|[^|\n\x1e]*\| (\d{1,12})/(\d{1,12}) \[((?:\d{1,4} days?, )?(?:\d{1,4}:)?\d\d:\d\d)<[^,\n\x1e\]]*, *"
    rb"(\d{1,12}\.?\d{0,12}(?:it/s|s/it)|\?it/s)"
)
# Of a shorter time, whole seconds do not give a rate.
LEAST_S = 10
_KEPT = 4096
_MOST_TIMES = 100_000


class State(NamedTuple):
    """What a bar shows: steps done and in all, whole seconds, and the printed steps a second or 0."""

    done: int
    total: int
    seconds: int
    rate: float


class Stretch(NamedTuple):
    """States of bars in order, each with more steps than the one before, and no fewer seconds, of the same total.

    `place` is which bar of its block the first is, and `before` the text before it; `words` are those of their names,
    which differ in figures only. `rates` are as printed.
    """

    place: int
    before: bytes
    words: bytes
    total: int
    done: list[int]
    seconds: list[int]
    rates: list[bytes]

    def text(self) -> str:
        """What stands before the first on its line, up to its percentage."""
        start = max(self.before.rfind(b"\n"), self.before.rfind(SPLIT)) + 1
        return self.before[start:].decode("utf-8", "replace")

    def name(self) -> str:
        """The name of the first."""
        return self.text().rstrip("0123456789 ").strip()

    def state(self, at: int) -> State:
        """One of its states."""
        return State(self.done[at], self.total, self.seconds[at], _rate(self.rates[at]))


def stretches(found: Matches) -> Iterator[Stretch]:
    """The bars of a block, which are what BAR finds in it."""
    if not found.count:
        return
    done, totals, rates = found.column(1, 0), found.column(2, 0), found.column(4, 0)
    try:
        done = wholes(done)
    except ValueError:
        done = list(map(int, done))
    seconds, before = list(map(_TIMES.__getitem__, found.column(3, 0))), found.before(0, found.count)
    texts = CUT.join(before).translate(_TEXTS, b"0123456789 ").split(CUT)
    names = {text: text.rpartition(SPLIT)[2] for text in set(texts)}
    words = list(map(names.__getitem__, texts))
    going = map(and_, map(lt, done, done[1:]), map(le, seconds, seconds[1:]))
    alike = map(and_, map(eq, totals, totals[1:]), map(eq, words, words[1:]))
    ends = [place for place, goes in enumerate(map(and_, going, alike), 1) if not goes]
    begin = 0
    for end in (*ends, found.count):
        total = int(totals[begin])
        yield Stretch(begin, before[begin], words[begin], total, done[begin:end], seconds[begin:end], rates[begin:end])
        begin = end


class _Times(dict[bytes, int]):
    """The whole seconds that a bar's time says."""

    def __missing__(self, text: bytes) -> int:
        *days, time = text.split(b", ")
        seconds = int(days[0].split()[0]) * 86_400 if days else 0
        for place, part in enumerate(reversed(time.split(b":"))):
            seconds += int(part) * 60**place
        if len(self) >= _MOST_TIMES:
            self.clear()
        self[text] = seconds
        return seconds


_TIMES = _Times()
_TEXTS = bytes.maketrans(b"\n", SPLIT)


def _rate(text: bytes) -> float:
    """The steps a second that a bar prints, or 0."""
    shown = float(text[:-4]) if text != b"?it/s" else 0.0
    return 1 / shown if shown and text.endswith(b"s/it") else shown


class Steps:
    """The bars of one loop, one after another: an epoch each, or one for the whole training."""

    def __init__(self) -> None:
        self.newest: State | None = None
        self.done = array("d")  # of the open bar: steps of each state, and its seconds
        self.seconds = array("d")
        self.bars: list[tuple[float, float]] = []  # of each bar that ended: steps, and s
        self.frozen = False

    def take(self, state: State) -> bool:
        """Take a state; returns whether it begins another bar. A copy of another rank, or of before, is left out."""
        newest = self.newest
        fresh = (
            newest is None or state.total != newest.total or (state.done < newest.done and 2 * state.done < state.total)
        )
        if fresh:
            self.close()
        elif self.frozen or (newest and (state.done < newest.done or state.seconds < newest.seconds)):
            return False
        self.newest = state
        if self.done and state.done == self.done[-1]:
            return fresh  # Drawn again: the rate may be that of the ended bar.
        self.done.append(state.done)
        self.seconds.append(state.seconds)
        if len(self.done) > _KEPT:
            self.done, self.seconds = self.done[::2], self.seconds[::2]
        return fresh

    def go(self, stretch: Stretch) -> None:
        """Take the states of a stretch."""
        for at in range(len(stretch.done)):
            state = stretch.state(at)
            self.take(state)
            if self.newest is state:  # Then all others go on from it.
                self._go(stretch.done[at + 1 :], stretch.seconds[at + 1 :])
                self.newest = stretch.state(-1)
                return

    def _go(self, done: list[int], seconds: list[int]) -> None:
        while done:
            free = _KEPT + 1 - len(self.done)
            self.done += array("d", done[:free])
            self.seconds += array("d", seconds[:free])
            done, seconds = done[free:], seconds[free:]
            if len(self.done) > _KEPT:
                self.done, self.seconds = self.done[::2], self.seconds[::2]

    def close(self) -> None:
        """End the open bar."""
        if self.newest is not None and self.newest.done:
            self.bars.append((self.newest.done, self._time(self.newest)))
            if len(self.bars) == 1:
                self.whole = self.done, self.seconds
        self.newest, self.frozen = None, False
        self.done, self.seconds = array("d"), array("d")

    @staticmethod
    def _time(state: State) -> float:
        """The s of a bar: as its rate says if it has ended and the whole seconds allow it, else half a second more."""
        if state.done == state.total and state.rate:
            time = state.done / state.rate
            if 0.99 * state.seconds <= time <= 1.01 * (state.seconds + 1):
                return time
        return state.seconds + 0.5

    def steady(self) -> tuple[SteadyRate | None, float]:
        """The steady state in steps a second, and how far whole seconds leave it open (0.05: by 5 %).

        Of several bars the first does not count, of one its first tenth.
        """
        self.close()
        windows = Windows()
        if len(self.bars) > 1:
            for count, time in self.bars[1:]:
                windows.add(count, time)
            return windows.steady(0, "all but the first epoch"), 0.5 * (len(self.bars) - 1) / sum(windows.times)
        if not self.bars:
            return None, 0.0
        done, seconds = self.whole
        count, time = self.bars[0]
        begin = next((at for at, value in enumerate(done) if 10 * value >= done[-1]), 0)
        if begin and seconds[-1] - seconds[begin] >= LEAST_S:
            windows.add(done[-1] - done[begin], seconds[-1] - seconds[begin])
            return windows.steady(0, "all but the first tenth of the steps"), 1 / (seconds[-1] - seconds[begin])
        windows.add(count, time)
        return windows.steady(0, "all steps"), 0.5 / time
