"""The ranks decide together, every few steps, whether to stop and whether to write a checkpoint."""

from __future__ import annotations

import signal
import time
from typing import NamedTuple

import horovod.tensorflow as hvd
import tensorflow as tf

# Wanted seconds from one agreement to the next; the docs promise at most 5.
_EVERY_S = 2.0
SIGNALS = (signal.SIGUSR1, signal.SIGTERM)


class Word(NamedTuple):
    """What the ranks agreed on: end with this signal's number (0: go on), write a checkpoint."""

    signal: int
    checkpoint: bool


# Signals that this process was sent.
_heard: list[int] = []


def listen() -> None:
    """Hear SIGNALS from now on, long before the first agreement: by default SIGUSR1 would kill a rank that starts."""
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: _heard.append(number))


class Agreement:
    """Asks all ranks now and then; the same steps on every rank, for they all hear the same answer.

    A rank that got one of SIGNALS makes all stop. A checkpoint is due `checkpoint_s` after the last.
    The steps between two agreements follow the slowest rank's pace, and at most double each time:
    where the device lags behind the host, the first paces are too fast.
    """

    def __init__(self, step: int, checkpoint_s: float):
        self.checkpoint_s = checkpoint_s
        self.apart = 1
        self.step, self.at = step, time.monotonic()
        self.saved = self.at

    def after(self, step: int) -> Word:
        """After step number `step` (steps done). Collective where an agreement is due."""
        if step - self.step < self.apart:
            return Word(0, False)
        return self.now(step)

    def now(self, step: int) -> Word:
        """Agree at once. Collective."""
        pace = (time.monotonic() - self.at) / max(1, step - self.step)
        due = time.monotonic() - self.saved > self.checkpoint_s
        mine = tf.constant([float(_heard[-1] if _heard else 0), float(due), pace], tf.float64)
        number, due_now, slowest = hvd.allreduce(mine, op=hvd.Max, name="agreement").numpy()
        self.apart = max(1, min(2 * self.apart, int(_EVERY_S / max(slowest, 1e-6))))
        self.step, self.at = step, time.monotonic()
        return Word(int(number), bool(due_now))

    def checkpointed(self) -> None:
        """A checkpoint is written."""
        self.saved = time.monotonic()
