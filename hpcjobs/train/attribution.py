"""Where a step's time goes, from the step times of three control phases. Pure.

(a) the training as it is; (b) the same on batches that lie on the device; (c) those without the
all-reduce, so that each rank runs free.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Attribution:
    """Parts of a step in ms, and each rank's step in (c).

    `input_wait_ms` = (a) - (b). `skew_ms` = mean over steps of (slowest rank - mean rank) in (c).
    `allreduce_ms` = (b) - mean over steps of the slowest rank in (c): what waiting for the slowest
    does not explain, hence the exposed part only. `compute_ms` is the mean of (c). The four sum to
    `step_ms`, the mean of (a). Differences may come out below 0 by chance.
    """

    step_ms: float
    compute_ms: float
    skew_ms: float
    allreduce_ms: float
    input_wait_ms: float
    # Of each rank in (c): minimum, median, maximum.
    ranks: tuple[tuple[float, float, float], ...]

    @property
    def slowest(self) -> int:
        """The rank of the largest median in (c)."""
        return max(range(len(self.ranks)), key=lambda rank: self.ranks[rank][1])

    def told(self, hosts: list[str]) -> dict[str, Any]:
        """The value of train.log's hpcjobs_control line; `hosts[rank]` is where the rank ran. Times in ms."""
        names = ("step_ms", "compute_ms", "skew_ms", "allreduce_ms", "input_wait_ms")
        return {
            **{name: round(getattr(self, name), 4) for name in names},
            "slowest_rank": self.slowest,
            "slowest_host": hosts[self.slowest],
            "ranks": [
                {"host": host, "min_ms": round(low, 4), "median_ms": round(middle, 4), "max_ms": round(high, 4)}
                for host, (low, middle, high) in zip(hosts, self.ranks, strict=True)
            ],
        }


def attribute(as_is: np.ndarray, no_input: np.ndarray, alone: np.ndarray) -> Attribution:
    """The parts, of step times in ms [ranks, steps] of (a), (b) and (c)."""
    slowest = float(alone.max(axis=0).mean())
    compute = float(alone.mean())
    return Attribution(
        step_ms=float(as_is.mean()),
        compute_ms=compute,
        skew_ms=slowest - compute,
        allreduce_ms=float(no_input.mean()) - slowest,
        input_wait_ms=float(as_is.mean() - no_input.mean()),
        ranks=tuple(tuple(float(v) for v in np.percentile(row, (0, 50, 100))) for row in alone),  # type: ignore[misc]
    )
