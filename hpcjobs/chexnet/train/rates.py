"""The learning rate of a step: scaling with the batch, warm-up, and the plateau rule. Pure."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass
class Plateau:
    """Multiplies the rate by `factor` when the validation loss has not improved for `patience` epochs.

    `best` is the lowest loss so far, None before the first one.
    """

    factor: float
    patience: int
    best: float | None = None
    waited: int = 0
    scale: float = 1.0

    def update(self, loss: float) -> None:
        """Take the validation loss of one more epoch into account."""
        if self.best is None or loss < self.best:
            self.best, self.waited = loss, 0
            return
        self.waited += 1
        if self.waited >= self.patience:
            self.scale *= self.factor
            self.waited = 0


def peak(lr: Mapping[str, Any], global_batch: int) -> float:
    """The rate after warm-up, from an experiment's `lr` section (hpcjobs.config names the sources)."""
    ratio = global_batch / lr["reference_batch"]
    factor = {"none": 1.0, "linear": ratio, "sqrt": math.sqrt(ratio)}[lr["scaling"]]
    return float(lr["base"] * factor)


def warmed(rate: float, step: int, warmup_steps: int) -> float:
    """The rate of step number `step` (from 0): it rises linearly over `warmup_steps`, then it is `rate`."""
    return rate * min(1.0, (step + 1) / warmup_steps) if warmup_steps else rate
