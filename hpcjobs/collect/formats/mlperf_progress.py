"""The time and the progress of one MLPerf run: its clock without evaluations, its epochs and blocks, its counters.

Events count what was trained under several names (samples_count, epoch_num, step_num, iteration, step), in samples,
steps, tokens or epochs. What a counter counts follows from its increments: multiples of the global batch are samples,
multiples of the tokens of a global batch are tokens.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from typing import Any

from hpcjobs.collect.agreement import Figure, Kind, alike
from hpcjobs.collect.steady import Windows, scaled

# Names of counters, the clearest first. `step` may be an epoch, a step or a sample.
COUNTERS = ("samples_count", "step_num", "iteration", "epoch_num", "epoch", "step")
_STEPS = ("step_num", "iteration")
_EPOCHS = ("epoch_num", "epoch")
# A counter of epochs does not get this far; one of samples starts beyond it.
MOST_EPOCHS = 1000
# An epoch that took less than this part of the others' time was cut short: the run had reached its target.
_CUT = 0.9
_RULE = "all but the first tenth of the {}, and at least one of several"


def number(value: object) -> float | None:
    """A finite number, also of a string, which some logs write; else None."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


class Counter:
    """One counter: its first and newest value with their times, and what all increments are multiples of."""

    def __init__(self, value: float, at: float, clock: float, line: int) -> None:
        self.first = self.last = value
        self.began = self.ended = at
        self.windows = Windows()  # counts and s without pauses
        self._marked, self._clock = value, clock  # the end of the newest window
        self.begin = self.line = line  # of the first value, and of the newest
        self.points = 1
        self.divisor = 0  # of all increments; 1: some are no whole numbers
        self.fractions = value != int(value)

    def add(self, value: float, at: float, clock: float, line: int) -> None:
        if value <= self.last:  # another rank's copy, or an evaluation of the same step
            return
        step = value - self.last
        self.fractions = self.fractions or step != int(step)
        self.divisor = 1 if self.fractions else math.gcd(self.divisor, int(step))
        self.last, self.ended, self.line = value, at, line
        self.points += 1
        if clock > self._clock:
            self.windows.add(value - self._marked, clock - self._clock)
            self._marked, self._clock = value, clock


class Progress:
    """What one run has done when."""

    def __init__(self) -> None:
        self.paused = 0.0  # s of evaluations that the training waited for
        self.epochs: list[
            tuple[float, float, int]
        ] = []  # s without and with pauses, and line, of epochs that are epochs
        self.counted: tuple[float, float, float, int] | None = (
            None  # an epoch that counts: samples, s, s with pauses, line
        )
        self.blocks: list[tuple[float, float, int]] = []  # epochs, s, line
        self.counters: dict[str, Counter] = {}
        self.evals: list[float] = []
        self._open: dict[str, tuple[float | None, float, float]] = {}  # mark, time, clock of what has begun
        self._blocked = 0.0  # epochs of the open block
        self._done: dict[tuple[str, str], float] = {}  # what has ended, and when
        self._epoched = False
        self.last_began: float | None = None
        self._eval_ended = -math.inf
        self._by_steps = False  # whether the open evaluation began by a line of its steps

    def clock(self, at: float) -> float:
        """Time without pauses."""
        begun = self._open.get("eval")
        return (begun[1] if begun and self._waits() else at) - self.paused

    def _waits(self) -> bool:
        """Whether the training waits for an evaluation: not if an epoch or block begins before it has ended."""
        begun = self._open.get("eval")
        return not (begun and self.last_began is not None and self.last_began > begun[1])

    def again(self, what: str, mark: float | None, at: float) -> bool:
        """Whether what begins now has ended before, with the same mark."""
        return at > self._done.get((what, str(mark)), math.inf)

    def start(self, what: str, mark: float | None, at: float, about: dict[str, Any]) -> None:
        if (what, str(mark)) in self._done:
            return  # another rank's copy of what has ended
        if what != "block" and what in self._open:
            return
        if what != "eval":
            self.last_began = at
        self._epoched = self._epoched or what == "epoch"
        if what == "block":  # A block that never ended is replaced.
            if self._open.get("block", (None,))[0] == mark and "block" in self._open and mark is not None:
                return
            self._blocked = number(about.get("epoch_count")) or 0.0
        self._open[what] = (mark, at, self.clock(at))

    def stop(self, what: str, mark: float | None, at: float, line: int) -> None:
        if what not in self._open:
            return
        begun, since, clock = self._open[what]
        if what == "eval":
            waits = self._waits()
            del self._open["eval"]
            self.evals.append(at - since)
            self._eval_ended, self._by_steps = at, False
            self.paused += at - since if waits else 0.0
        else:
            trained = self.clock(at) - clock
            del self._open[what]
            if what == "epoch" and mark is not None and begun is not None and mark != begun:
                self.counted = mark - begun, trained, at - since, line
            elif what == "epoch":
                self.epochs.append((trained, at - since, line))
            elif 0 < self._blocked <= MOST_EPOCHS:
                self.blocks.append((self._blocked, trained, line))
        if begun is not None:
            self._done[what, str(begun)] = at

    def evaluated(self, begun: float) -> None:
        """Take a step of an evaluation by its begin. It begins an evaluation if no event has; eval_stop ends that."""
        if "eval" not in self._open and begun >= self._eval_ended:
            self._open["eval"] = None, begun, self.clock(begun)
            self._by_steps = True

    def trained(self, begun: float) -> None:
        """Take a step of the training by its begin: it ends an evaluation that no event began, and none has ended."""
        if self._by_steps and "eval" in self._open and begun > self._open["eval"][1]:
            self.stop("eval", None, begun, 0)

    def count(self, about: dict[str, Any], at: float, line: int) -> None:
        """Take the counters of an event of the training."""
        for name in COUNTERS:
            value = number(about.get(name))
            if value is not None and value >= 0:
                kept = self.counters.get(name)
                if kept is None:
                    self.counters[name] = Counter(value, at, self.clock(at), line)
                else:
                    kept.add(value, at, self.clock(at), line)

    def whole_epochs(self) -> list[tuple[float, float, int]]:
        """The epochs without a last one that was cut short."""
        if len(self.epochs) > 1:
            typical = statistics.median(took for took, _, _ in self.epochs[:-1])
            if self.epochs[-1][0] < _CUT * typical:
                return self.epochs[:-1]
        return self.epochs

    def epoch_s(self) -> float | None:
        """The time of an epoch without its pauses, in the steady state; None if there are no epochs."""
        windows = Windows()
        for took, _, _ in self.whole_epochs():
            windows.add(1.0, took)
        steady = windows.steady()
        return 1 / steady.rate if steady else None

    def epoch_figure(self, samples: float | None, kind: Kind, sure: bool) -> Figure | None:
        """Samples over the time of epochs, or of blocks of epochs. `sure`: what the samples are is known otherwise."""
        epochs = self.whole_epochs()
        if samples and epochs:
            windows = Windows()
            for took, _, _ in epochs:
                windows.add(1.0, took)
            steady = windows.steady(rule=_RULE.format("epochs"))
            if steady is None:
                return None
            whole = statistics.fmean(whole for _, whole, _ in epochs)
            words = "train_samples over the time of epochs"
            several = len(self.epochs) > 1
            rate = steady.rate * samples
            least = min(samples / whole, rate) if whole > 0 else None
            return Figure(
                *(kind, rate, epochs[0][2], words),
                least=least,
                alone=sure or several,
                steady=scaled(steady, samples),
                last=epochs[-1][2],
            )
        if samples and self.blocks and not self._epoched and not self._counts_to(samples):
            windows, blocks = Windows(), self.blocks
            if len(blocks) > 1:
                typical = statistics.median(took / count for count, took, _ in blocks[:-1])
                blocks = blocks[:-1] if blocks[-1][1] / blocks[-1][0] < _CUT * typical else blocks
            for count, took, _ in blocks:
                windows.add(count * samples, took)
            steady = windows.steady(rule=_RULE.format("blocks"))
            words, several = "samples over the time of blocks", len(self.blocks) > 1
            if steady is not None:
                sure = sure or several
                return Figure(kind, steady.rate, blocks[0][2], words, alone=sure, steady=steady, last=blocks[-1][2])
        return None

    def _counts_to(self, samples: float) -> bool:
        """Whether events count up to `samples`: then these are the whole run's, and blocks are no epochs of them."""
        return any(counter.last > MOST_EPOCHS and counter.last >= samples * 0.99 for counter in self.counters.values())

    def counter_figure(
        self, batch: int | None, tokens: int | None, samples: float | None, ended: float | None
    ) -> Figure | None:
        """The rate of the counter that says most clearly what it counts; None if there is none."""
        found: list[tuple[bool, Figure | None]] = []
        if self.counted is not None:
            count, took, whole, line = self.counted
            share = count if count > MOST_EPOCHS else count * samples if samples else None
            if share and took > 0:
                share = samples if samples and abs(share - samples) <= 1 else share
                words = "samples that the epoch counts, over its time"
                found.append((False, Figure(Kind.COUNT, share / took, line, words, least=share / whole)))
        for name in COUNTERS:
            counter = self.counters.get(name)
            if counter is not None and counter.windows:
                found.append(self._counted(name, counter, batch, tokens, samples))
        figures = [figure for _, figure in sorted(found, key=lambda one: one[0]) if figure is not None]
        best = next((figure for figure in figures if figure.alone), figures[0] if figures else None)
        if best is not None and self.counted is not None and best is found[0][1]:
            # Counters begin after the first interval. If that held a warm-up worth a contradiction, they count.
            later = next((one for one in figures if one is not best and one.alone and one.value < 2 * best.value), None)
            if later is not None and later.value > best.value and not alike(later.value, best.value):
                return dataclasses.replace(later, least=min(best.value, later.least or later.value))
            best = dataclasses.replace(best, most=later.value if later else None)
        return best

    def _counted(
        self, name: str, counter: Counter, batch: int | None, tokens: int | None, samples: float | None
    ) -> tuple[bool, Figure | None]:
        """(whether another counter is better, the figure)."""
        factor, kind, alone, words = 1.0, Kind.COUNT, False, f"{name} of events"
        step = counter.divisor
        if name in _EPOCHS and counter.last <= MOST_EPOCHS:
            # The time of whole epochs is the better figure, if there are any.
            if not samples or self.whole_epochs() or counter.points < 3:
                return True, None
            factor, alone, words = samples, counter.points > 2, f"train_samples x {name} of events"
        elif name in _STEPS:
            if not batch:
                return True, None
            factor, kind, alone, words = float(batch), Kind.TOTAL, True, f"global batch x {name} of events"
        elif batch and batch > 1 and tokens and tokens > 1 and step and step % (batch * tokens) == 0:
            factor, kind, alone, words = 1 / tokens, Kind.TOTAL, True, f"{name} of events, in tokens"
        elif batch and batch > 1 and step and step % batch == 0:
            kind, alone = Kind.TOTAL, True
        elif name == "samples_count" or (name in _EPOCHS and batch and step and counter.last > MOST_EPOCHS):
            alone = True
        elif name == "step" and counter.last <= len(self.epochs) + 1:
            return True, None  # It counts epochs.
        steady = scaled(counter.windows.steady(), factor)
        if steady is None:
            return True, None
        done, rate = (counter.last - counter.first) * factor, steady.rate
        least = done / (counter.ended - counter.began) if counter.ended > counter.began else None
        return not alone, Figure(
            *(kind, rate, counter.begin, words), least=least, alone=alone, steady=steady, last=counter.line
        )
