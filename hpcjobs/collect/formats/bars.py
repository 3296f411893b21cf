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
from typing import NamedTuple

from hpcjobs.collect.measurements import SteadyRate
from hpcjobs.collect.steady import Windows

BAR = re.compile(
    rb"%\|[^|\n\x1e]*\| (\d{1,12})/(\d{1,12}) \[(?:(\d{1,4}) days?, )?(?:(\d{1,4}):)?(\d\d):(\d\d)<[^,\n\x1e\]]*, *"
    rb"(?:(\d{1,12}(?:\.\d{1,12})?)(it/s|s/it)|\?it/s)"
)
# Of a shorter time, whole seconds do not give a rate.
LEAST_S = 10
_KEPT = 4096


class State(NamedTuple):
    """What a bar shows: its name, steps done and in all, whole seconds, and the printed steps a second or 0."""

    name: str
    done: int
    total: int
    seconds: int
    rate: float


def states(block: bytes, begin: int = 0, end: int | None = None) -> Iterator[tuple[int, State]]:
    """The bars of a block: where each stands, and what it shows."""
    for match in BAR.finditer(block, begin, len(block) if end is None else end):
        at = match.start()
        start = max(block.rfind(b"\n", 0, at), block.rfind(b"\x1e", 0, at)) + 1
        done, total, days, hours, minutes, seconds, rate, unit = match.groups()
        whole = (int(days or 0) * 24 + int(hours or 0)) * 3600 + int(minutes) * 60 + int(seconds)
        shown = float(rate) if rate else 0.0
        if shown and unit == b"s/it":
            shown = 1 / shown
        name = block[start:at].rstrip(b"0123456789 ").decode("utf-8", "replace").strip()
        yield at, State(name, int(done), int(total), whole, shown)


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
