"""A training of which logs are made up: what a reader finds of it is this, or nothing."""

from __future__ import annotations

import dataclasses
import datetime
import random
from collections.abc import Callable, Iterator


@dataclasses.dataclass(frozen=True)
class Truth:
    """A run: the seconds of a step of the optimizer, samples of a GPU between two accumulations, GPUs, and how noisy."""

    step_s: float = 0.4
    local: int = 32
    gpus: int = 8
    accumulation: int = 1
    warmup: float = 3.0  # how many times longer the first steps take
    noise: float = 0.01
    seed: int = 0
    tokens: int = 1024  # of a sequence
    length: int = 1  # how many times longer than the shortest log

    @property
    def batch(self) -> int:
        return self.local * self.gpus * self.accumulation

    def times(self, count: int) -> list[float]:
        """The seconds of steps, of which the first two are slow."""
        chance = random.Random(self.seed)
        slow = [self.warmup] * 2 + [1.0] * count
        return [self.step_s * slow[step] * (1 + self.noise * chance.uniform(-1, 1)) for step in range(count)]

    def batches(self, count: int) -> list[float]:
        """The seconds of so many batches, of which each step has `accumulation`."""
        return [time / self.accumulation for time in self.times(count) for _ in range(self.accumulation)][:count]

    def stamps(self, times: list[float]) -> Iterator[str]:
        at = datetime.datetime(2025, 3, 4, 5, 6, 7)
        for time in times:
            at += datetime.timedelta(seconds=time)
            yield f"{at:%Y-%m-%d %H:%M:%S},{at.microsecond // 1000:03d}"


@dataclasses.dataclass(frozen=True)
class Made:
    """How logs of a format are made up, and what they hide: the name of the format, and what its rate counts.

    If `accumulates` is false, the log does not say how gradients are accumulated, and its step is one batch. `rate` is
    false where the log has the time of a step alone.
    """

    make: Callable[[Truth], str]
    format: str
    unit: str = "samples"
    accumulates: bool = True
    rate: bool = True
