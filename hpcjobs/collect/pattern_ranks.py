"""Whether several ranks print the figure of a pattern that is said to count the work of all of them.

With a launcher's prefixes the ranks are known. Without, lines of the same step that follow one another and have figures
that differ are those of several ranks, if most steps have them.
"""

from __future__ import annotations

from collections import Counter

from hpcjobs.collect.pattern_numbers import Found

# Matches of the first rank that are kept for the others' to come.
_KEPT = 1000
# Fewer steps with several figures are chance.
_STEPS = 2
_ASK = "is it the rate of one? (--of rank; in an experiment measure.of: rank)"


class RankLines:
    """The figures of the first rank beside those of the others."""

    def __init__(self) -> None:
        self.differ = False
        self._others = False  # another rank has a rate
        self._figures: dict[int, float | None] = {}
        # Without prefixes: how many figures each step has, of the steps that are over.
        self._counts: Counter[int] = Counter()
        self._step: int | None = None
        self._of_step: set[float] = set()

    def keep(self, number: int, rank: str, found: Found) -> None:
        """Take a match of the rank that counts: its first one has the number 0."""
        rate = _rate(found)
        self._figures[number] = rate
        self._figures.pop(number - _KEPT, None)
        if rank or rate is None or found.step is None:
            return
        if found.step != self._step:
            self._end_step()
            self._step = found.step
        self._of_step.add(rate)

    def compare(self, number: int, found: Found) -> None:
        """Take a match of another rank."""
        rate = _rate(found)
        self._others |= rate is not None
        self.differ |= self._figures.get(number, rate) != rate

    def told(self, ranks: int, gpus: int | None) -> str:
        """What is to be told of the ranks that print the figure, or "" if one does. `ranks` have prefixes."""
        if self._others and ranks > 1:
            if self.differ:
                return (
                    f"{ranks} ranks print figures that differ; of all counts those of the first. Each its own: {_ASK}"
                )
            return f"{ranks} ranks print it, and each the same: {_ASK}"
        self._end_step()
        several = self._counts - Counter({1: self._counts[1]})
        often = sum(several.values())
        if often < _STEPS or often < self._counts[1]:
            return ""
        count = several.most_common(1)[0][0]
        if gpus and count > gpus:
            return ""
        self.differ = True
        return f"most steps are printed {count} times with figures that differ, so {count} ranks print it: {_ASK}"

    def _end_step(self) -> None:
        if self._of_step:
            self._counts[len(self._of_step)] += 1
        self._of_step = set()


def _rate(found: Found) -> float | None:
    """What a figure says of the work; the time of a step is the same for one rank and for all."""
    if found.throughput is not None:
        return found.throughput
    return found.samples / found.step_ms if found.samples is not None and found.step_ms else None
