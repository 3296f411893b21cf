"""The parts of a step's time, from the step times of three control phases. Pure.

(a) the unchanged training; (b) the same on a batch in the device's memory; (c) as (b) without the
all-reduce, so that no rank waits for another.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Attribution:
    """Parts of a step in ms, and each rank's step in (c).

    `input_wait_ms` = (a) - (b). `skew_ms` = mean over steps of (slowest rank - mean rank) in (c).
    `allreduce_ms` = (b) - mean over steps of the slowest rank in (c): the exposed part of the all-reduce,
    without waiting for the slowest rank. `compute_ms` is the mean of (c). The four sum to `step_ms`, the
    mean of (a). A difference may be below 0 by chance.
    """

    step_ms: float
    compute_ms: float
    skew_ms: float
    allreduce_ms: float
    input_wait_ms: float
    # Standard errors of skew, all-reduce and input wait, if the steps are independent.
    errors_ms: tuple[float, float, float]
    # Minimum, median and maximum of each rank in (c).
    ranks: tuple[tuple[float, float, float], ...]

    @property
    def slowest(self) -> int:
        """The rank with the largest median in (c)."""
        return max(range(len(self.ranks)), key=lambda rank: self.ranks[rank][1])

    def to_log(self, hosts: list[str]) -> dict[str, Any]:
        """The value of train.log's hpcjobs_control line; `hosts[rank]` is the host of each rank. Times in ms."""
        names = ("step_ms", "compute_ms", "skew_ms", "allreduce_ms", "input_wait_ms")
        return {
            **{name: round(getattr(self, name), 4) for name in names},
            "standard_errors": dict(zip(names[2:], (round(error, 4) for error in self.errors_ms), strict=True)),
            "slowest_rank": self.slowest,
            "slowest_host": hosts[self.slowest],
            "ranks": [
                {"host": host, "min_ms": round(low, 4), "median_ms": round(middle, 4), "max_ms": round(high, 4)}
                for host, (low, middle, high) in zip(hosts, self.ranks, strict=True)
            ],
        }


def attribute(as_is: np.ndarray, no_input: np.ndarray, alone: np.ndarray) -> Attribution:
    """The parts, from step times in ms [ranks, steps] of (a), (b) and (c)."""
    slowest = float(alone.max(axis=0).mean())
    compute = float(alone.mean())
    errors = (
        _error(alone.max(axis=0) - alone.mean(axis=0)),
        math.hypot(_error(no_input.mean(axis=0)), _error(alone.max(axis=0))),
        math.hypot(_error(as_is.mean(axis=0)), _error(no_input.mean(axis=0))),
    )
    return Attribution(
        step_ms=float(as_is.mean()),
        compute_ms=compute,
        skew_ms=slowest - compute,
        allreduce_ms=float(no_input.mean()) - slowest,
        input_wait_ms=float(as_is.mean() - no_input.mean()),
        errors_ms=errors,
        ranks=tuple(tuple(float(v) for v in np.percentile(row, (0, 50, 100))) for row in alone),  # type: ignore[misc]
    )


def _error(steps: np.ndarray) -> float:
    """Standard error of the mean of independent steps, of which there are at least two."""
    return float(steps.std(ddof=1)) / math.sqrt(len(steps))
