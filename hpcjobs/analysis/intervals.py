"""Intervals of means and of ratios, and a test of which of many differences are real. Pure.

The functions import scipy when they need it: it takes a tenth of a second, and a table of single runs does not use it.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from typing import ClassVar

from hpcjobs.base.metrics import Spread

CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Interval:
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float

    # An interval whose high end is more than this many times its low end is too wide to be of use.
    WIDEST: ClassVar[int] = 10

    @property
    def wide(self) -> bool:
        """Whether it is too wide to be of use. An unbounded interval always is."""
        return not self.high <= self.WIDEST * self.low


def student_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Student's 95 % interval of the mean of `values`, mean -+ t(0.975, n - 1) s / sqrt(n).

    None with fewer than two values: one repeat does not show the spread. (Student, Biometrika 6, 1908.)
    """
    if len(values) < 2:
        return None
    mean = statistics.fmean(values)
    half = _quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return mean - half, mean + half


def variation(values: Sequence[float]) -> float | None:
    """The coefficient of variation s / mean, a fraction. None with fewer than two values."""
    return statistics.stdev(values) / statistics.fmean(values) if len(values) > 1 else None


@dataclasses.dataclass(frozen=True)
class Ratio:
    """The 95 % interval of the ratio of two samples' means, and the p value of the ratio 1."""

    low: float
    high: float
    p: float


def welch_ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio | None:
    """Welch's 95 % interval of the mean of log `ours` less that of log `theirs`, as a ratio.

    With a = s1^2 / n1 and b = s2^2 / n2 of the logarithms: difference -+ t(0.975, nu) sqrt(a + b), where
    nu = (a + b)^2 / (a^2 / (n1 - 1) + b^2 / (n2 - 1)). (Welch, Biometrika 34, 1947.) It is a ratio of geometric
    means. If both samples have the same relative spread, that is the ratio of the means.
    None if a sample has fewer than two values.
    """
    if min(len(ours), len(theirs)) < 2:
        return None
    logs, others = [math.log(value) for value in ours], [math.log(value) for value in theirs]
    difference = statistics.fmean(logs) - statistics.fmean(others)
    a, b = statistics.variance(logs) / len(logs), statistics.variance(others) / len(others)
    if a + b == 0:
        return Ratio(math.exp(difference), math.exp(difference), float(difference == 0))
    from scipy.special import stdtr

    freedom = (a + b) ** 2 / (a**2 / (len(logs) - 1) + b**2 / (len(others) - 1))
    error = math.sqrt(a + b)
    half = _quantile(freedom) * error
    return Ratio(
        math.exp(difference - half), math.exp(difference + half), 2 * float(stdtr(freedom, -abs(difference) / error))
    )


def difference_half_width(ours: Spread, theirs: Spread, factor: float) -> float:
    """Half the width of Welch's 95 % interval of a mean less `factor` times another, from their standard errors.

    The degrees of freedom are those of Welch and Satterthwaite (Biometrics Bulletin 2, 1946).
    """
    a, b = ours.error**2, (factor * theirs.error) ** 2
    if a + b == 0:
        return 0.0
    return _quantile((a + b) ** 2 / (a**2 / ours.freedom + b**2 / theirs.freedom)) * math.sqrt(a + b)


def spread(values: Sequence[float]) -> Spread | None:
    """The standard error of the mean of `values`; None with fewer than two."""
    if len(values) < 2:
        return None
    return Spread(statistics.stdev(values) / math.sqrt(len(values)), len(values) - 1)


def holm(p_values: Sequence[float], level: float = 1 - CONFIDENCE) -> list[bool]:
    """Which of the differences are real. With probability 1 - `level` no difference is called real by chance.

    In ascending order the m p values must be at most level / m, level / (m - 1), ..., level. The first one that is
    larger, and all after it, are not real. (Holm, Scand. J. Statist. 6, 1979.)
    """
    real = [False] * len(p_values)
    for rank, number in enumerate(sorted(range(len(p_values)), key=lambda each: p_values[each])):
        if p_values[number] > level / (len(p_values) - rank):
            break
        real[number] = True
    return real


def _quantile(freedom: float) -> float:
    """Student's t at (1 + 0.95) / 2, with `freedom` degrees of freedom."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2))
