"""The interval of the mean of a run's step times, and the end of its warm-up. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

BATCHES = 20
CORRELATION = 0.2
CONFIDENCE = 0.95


class Estimate(NamedTuple):
    """Mean of a series and half the width of its 95 % interval (in the series' unit), with the batches behind them."""

    mean: float
    half_width: float
    batches: int
    batch_length: int
    correlation: float

    @property
    def relative(self) -> float:
        """Half-width over mean."""
        return self.half_width / self.mean


def estimate(series: Sequence[float]) -> Estimate | None:
    """The mean of a stationary series and its interval; None if the series is too short.

    Batch means (Law and Kelton, Simulation Modeling and Analysis, section 9.5.3): the values are
    averaged in batches. The batch length doubles, from one, until the lag-1 correlation r of the batch
    means is below 0.2 and the correlation of the values implies that too, while there are at least 20
    batches. From k batches, r is known only to within 1 / sqrt(k), and (1 + 3 r) / k too low (Kendall,
    Biometrika 41, 1954). Its upper 95 % bound R widens the variance of Student's interval by
    (1 + R) / (1 - R), as for a first-order autoregression.
    """
    # The length from which batch means of a first-order autoregression with the correlation of the values are
    # correlated by less than about 0.2, whatever a few batches show.
    close = min(max(lag_one(np.asarray(series, np.float64)), 0.0) + 4 / len(series), 0.99) if len(series) else 0.0
    least = (1 + close) / (1 - close) - 1
    length = 1
    while len(series) // length >= BATCHES:
        count = len(series) // length
        # The newest values: the remainder that is left out is nearest to the start-up.
        means = np.asarray(series[-count * length :], np.float64).reshape(count, length).mean(axis=1)
        found = lag_one(means)
        if found < CORRELATION and length >= least:
            from scipy.special import stdtrit  # Here: only rank 0 needs it.

            bound = found + (1 + 3 * max(found, 0.0)) / count + 1.645 / math.sqrt(count)
            bound = min(max(bound, 0.0), 0.9)
            error = math.sqrt(float(means.var(ddof=1)) / count * (1 + bound) / (1 - bound))
            half_width = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2)) * error
            return Estimate(float(means.mean()), half_width, count, length, found)
        length *= 2
    return None


def lag_one(values: np.ndarray) -> float:
    """Correlation of each value with the next; 0 of a constant series."""
    deviations = values - values.mean()
    whole = float(deviations @ deviations)
    return float(deviations[:-1] @ deviations[1:]) / whole if whole > 0 else 0.0


def next_check(steps: int) -> int:
    """The timed step of the next check: 20, then a quarter more each time.

    The points are fixed and few, because each check is one more chance to stop at an interval that is too narrow
    by luck.
    """
    return max(BATCHES, steps + steps // 4)


def agree(means: Sequence[float], tolerance: float) -> bool:
    """Whether the last three windows' means lie within `tolerance` of each other, as a fraction of their mean."""
    last = means[-3:]
    return len(last) == 3 and max(last) - min(last) <= tolerance * sum(last) / 3
