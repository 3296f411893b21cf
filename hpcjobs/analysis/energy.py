"""The power of a GPU at sizes that were not run: what it takes idle and a part that grows with its work.

P = a + b x, with x the units per second of one GPU: a GPU that waits more works off less and takes less. Least squares
over the measured sizes; the interval is that of one new measurement (Student, Draper and Smith, Applied Regression
Analysis, 1998, section 1.4).
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Sequence

from hpcjobs.analysis.intervals import Interval
from hpcjobs.base.metrics import ScalingRow

# Two parameters, and two sizes to spare, as of other models: with fewer the error cannot be estimated.
LEAST = 4


@dataclasses.dataclass(frozen=True)
class PowerModel:
    """`a` W and `b` J per unit, fitted to `count` sizes with mean `x` and sum of squares `spread`; `noise` in W."""

    a: float
    b: float
    noise: float
    count: int
    x: float
    spread: float

    @classmethod
    def of(cls, rows: Iterable[ScalingRow]) -> PowerModel | None:
        """The model of a series; None if the power of too few sizes is measured."""
        return cls.fit(
            [
                (row.throughput / row.gpus, row.gpu_power_w)
                for row in rows
                if row.throughput is not None and row.gpu_power_w is not None
            ]
        )

    @classmethod
    def fit(cls, points: Sequence[tuple[float, float]]) -> PowerModel | None:
        """The model of points (units per second of one GPU, W); None if they are fewer than LEAST."""
        if len(points) < LEAST:
            return None
        xs, ys = zip(*points, strict=True)
        x, y = statistics.fmean(xs), statistics.fmean(ys)
        spread = sum((each - x) ** 2 for each in xs)
        # Sizes that are all as fast as each other say nothing of b: then the power is their mean.
        flat = spread <= (1e-6 * x) ** 2
        b = 0.0 if flat else sum((each - x) * (power - y) for each, power in points) / spread
        a = y - b * x
        left = sum((power - a - b * each) ** 2 for each, power in points)
        return cls(a, b, math.sqrt(left / (len(points) - (1 if flat else 2))), len(points), x, 0.0 if flat else spread)

    def at(self, x: float) -> Interval:
        """Watts of one GPU that works off `x` units per second, with a 95 % interval. Never below 0."""
        from scipy.stats import t

        off = (x - self.x) ** 2 / self.spread if self.spread else 0.0
        half = float(t.ppf(0.975, self.count - (2 if self.spread else 1)))
        half *= self.noise * math.sqrt(1 + 1 / self.count + off)
        value = max(0.0, self.a + self.b * x)
        return Interval(value, max(0.0, value - half), value + half)

    def per_unit(self, gpus: int, rate: Interval) -> Interval:
        """Joules of all GPUs for a unit, at `rate` units per second over all of them.

        The interval takes both at their ends together, so it holds at least 95 %.
        """
        power = self.at(rate.value / gpus)
        return Interval(
            power.value * gpus / rate.value,
            power.low * gpus / rate.high,
            power.high * gpus / rate.low if rate.low > 0 else math.inf,
        )
