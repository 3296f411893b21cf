"""The ranks decide together, every few steps, whether to stop and whether to write a checkpoint."""

from __future__ import annotations

import signal
import time
from typing import NamedTuple

import horovod.tensorflow as hvd
import tensorflow as tf

# Seconds from one agreement to the next, about; the docs promise at most 5.
_EVERY_S = 2.0
SIGNALS = (signal.SIGUSR1, signal.SIGTERM)


class Agreed(NamedTuple):
    """What the ranks agreed on: the number of the signal that stops them (0: none), and to write a checkpoint."""

    signal: int
    checkpoint: bool


# The signals that this process has received.
_received: list[int] = []


def catch_signals() -> None:
    """Record SIGNALS from now on. Call it at the start: by default SIGUSR1 would kill a rank that is starting."""
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: _received.append(number))


class Agreement:
    """An all-reduce every few steps, after the same steps on every rank because all get the same result.

    If one rank received one of SIGNALS, all stop. A checkpoint is due `checkpoint_s` after the last one.
    The number of steps between two agreements follows from the pace of the slowest rank. It at most doubles
    each time, because the first paces are too fast if the device lags behind the host.
    """

    def __init__(self, step: int, checkpoint_s: float):
        self.checkpoint_s = checkpoint_s
        self.apart = 1
        self.step, self.at = step, time.monotonic()
        self.saved = self.at

    def after(self, step: int) -> Agreed:
        """Agree if an agreement is due after `step` steps. Collective."""
        if step - self.step < self.apart:
            return Agreed(0, False)
        return self.now(step)

    def now(self, step: int) -> Agreed:
        """Agree at once. Collective."""
        pace = (time.monotonic() - self.at) / max(1, step - self.step)
        due = time.monotonic() - self.saved > self.checkpoint_s
        mine = tf.constant([float(_received[-1] if _received else 0), float(due), pace], tf.float64)
        number, due_now, slowest = hvd.allreduce(mine, op=hvd.Max, name="agreement").numpy()
        self.apart = max(1, min(2 * self.apart, int(_EVERY_S / max(slowest, 1e-6))))
        self.step, self.at = step, time.monotonic()
        return Agreed(int(number), bool(due_now))

    def checkpointed(self) -> None:
        """Call it when a checkpoint is written."""
        self.saved = time.monotonic()
