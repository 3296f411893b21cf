"""A user's pattern: a regular expression with named groups that reads the rate of any program from its log.

    tokens/s: (?P<throughput>[\\d.]+)
    iteration +(?P<step>\\d+)/.* elapsed time per iteration \\(ms\\): (?P<step_ms>[\\d.]+)

It is searched in each line without launchers' prefixes, then in the line with them. Of a longer line only the first
2,000 characters are searched. Python's `re` cannot be interrupted, and a pattern such as `(a+)+$` would keep it busy
for years. The package `regex` can: a pattern that takes longer than `LINE_S` of CPU time on one line is an InputError.
"""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpcjobs.base.errors import InputError, nearest
from hpcjobs.collect.pattern_needle import needle

if TYPE_CHECKING:
    import regex

# What the named groups of a pattern mean.
GROUPS: Mapping[str, str] = {
    "throughput": "a rate, in units a second",
    "step_ms": "the time of one step in ms",
    "step_s": "the time of one step in s",
    "samples": "units that are processed in one step; it needs step_ms or step_s in the same line",
    "step": "the number of the step",
    "score": "the figure that says how good the model is; the last one counts",
}
# The groups of a step's time, and ms of one of their units.
TIMES: Mapping[str, float] = {"step_ms": 1.0, "step_s": 1000.0}
OF = ("all", "rank")
TAKE = ("mean", "median", "last")

# A longer line is cut before it is searched.
LINE_LENGTH = 2000
# CPU seconds that a search in one line may take, and those in one block of lines.
LINE_S = 1.0
BLOCK_S = 20.0


@dataclass(frozen=True)
class Pattern:
    """How the rate of a run is read from its log.

    `of` says what a figure counts: the work of all ranks, or of the one that prints it, which is multiplied by the
    number of ranks. `unit` is what the figure counts. The first `warmup` matches are left out; if the pattern has the
    group `step`, those below the first match's step plus `warmup`. `take` is how the others become one figure: the
    mean (work over time: matches stand for equal work, so the mean of rates is the harmonic one), the median, or the
    last one. Raises InputError, which says what would be right.
    """

    pattern: str
    of: str = "all"
    unit: str = "samples"
    warmup: int = 10
    take: str = "mean"

    def __post_init__(self) -> None:
        groups = set(self.compiled.groupindex)
        if unknown := sorted(groups - GROUPS.keys()):
            raise self._error(f"no such group as {unknown[0]!r}; known: {', '.join(GROUPS)}")
        if not groups & {"throughput", "samples", *TIMES}:
            raise self._error("no group gives a rate: name one of throughput, step_ms, step_s, or samples with step_ms")
        if "samples" in groups and "throughput" in groups:
            raise self._error("throughput and samples exclude each other: samples / step_ms is a throughput, too")
        if "samples" in groups and not groups & {*TIMES}:
            raise self._error("samples alone is no rate: a log's lines have no time, so name the group step_ms, too")
        if self.of not in OF:
            raise InputError(f"of {self.of!r}: {nearest(str(self.of), OF)}", ("of",))
        if self.take not in TAKE:
            raise InputError(f"take {self.take!r}: {nearest(str(self.take), TAKE)}", ("take",))
        if isinstance(self.warmup, bool) or not isinstance(self.warmup, int) or self.warmup < 0:
            raise InputError(f"warmup {self.warmup!r}: expected a number of matches or steps, 0 or more", ("warmup",))
        if not isinstance(self.unit, str) or not re.fullmatch(r"[^\W\d][\w.-]*", self.unit):
            why = f"unit {self.unit!r}: expected one word, such as images, samples, sequences or tokens"
            raise InputError(why, ("unit",))

    @functools.cached_property
    def compiled(self) -> regex.Pattern[str]:
        if not isinstance(self.pattern, str) or not self.pattern:
            raise InputError(f"pattern {self.pattern!r}: expected a regular expression", ("pattern",))
        import regex  # takes 8 ms: only where there is a pattern

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # of a later version of regex's syntax
                return regex.compile(self.pattern)
        except regex.error as error:
            raise self._error(f"not a regular expression: {error}") from None
        except (RecursionError, OverflowError, MemoryError):
            raise self._error("too large a regular expression") from None

    @functools.cached_property
    def needle(self) -> bytes:
        """A text that every match contains, or b""."""
        return needle(self.pattern)

    @property
    def shown(self) -> str:
        """The expression in quotes, on one line."""
        return f"'{self.pattern}'" if self.pattern.isprintable() else repr(self.pattern)

    def has(self, *groups: str) -> bool:
        """Whether the pattern has one of these groups."""
        return any(group in self.compiled.groupindex for group in groups)

    @property
    def counts_steps(self) -> bool:
        """Whether the time of a step is a rate, as the group throughput has it."""
        return self.unit == "steps" and self.of == "all" and self.has("throughput")

    def search(self, text: str) -> regex.Match[str] | None:
        """The first match in a line. Raises InputError if it takes longer than LINE_S."""
        try:
            return self.compiled.search(text, 0, LINE_LENGTH, timeout=LINE_S)
        except TimeoutError:
            raise self.too_slow(LINE_S, "one line") from None

    def too_slow(self, seconds: float, where: str) -> InputError:
        """The error of a pattern that takes too long."""
        return self._error(
            f"takes more than {seconds:g} s on {where}: a repetition inside a repetition, such as (a+)+, tries endless "
            "combinations; make one of them a fixed text"
        )

    def _error(self, what: str) -> InputError:
        return InputError(f"pattern {self.shown}: {what}", ("pattern",))
