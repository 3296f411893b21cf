"""What the patched places of PyTorch (meter_torch.py) know of a training, and when they may tell METER of it."""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

WAY = "auto"
METER: Any = sys.modules["_hpcjobs_meter"].METER


class Driver:
    """What the patched places call."""

    # Few places in memory, as meter.py says of a step.
    __slots__ = (
        *("child", "ended", "evaluating", "fetches", "grad", "known", "leader", "sharded", "steps", "strange"),
        *("taken", "thread", "trained", "unfed"),
    )

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.child = False  # of a fork: a worker of a DataLoader, or something of the user's
        self.grad: Callable[[], bool] = self._find_grad  # whether gradients are wanted
        self.known: dict[int, Any] = {}  # the live optimizers, as METER has them
        self.sharded: dict[int, Any] = {}  # the live FSDP modules, likewise
        self.evaluating = False
        self.steps = 0  # of all optimizers
        self.taken: set[int] = set()  # what else batches were taken from before the first step
        self.ended: set[int] = set()  # of these, what came to its end
        self.fetches = 0  # batches of the training since the last step
        self.strange: int | None = None  # what else batches were taken from, and gradients were wanted
        self.trained: set[int] = set()  # what the training takes its batches from
        self.leader = 0  # id of the optimizer whose steps are counted where no DataLoader hands out batches
        self.unfed = 0  # its steps since the last batch of the training
        os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        self.child = True

    def here(self) -> bool:
        """Whether this is the training's own process and thread, and the meter is on."""
        return bool(METER.on) and not self.child and threading.get_ident() == self.thread

    def drives(self) -> bool:
        """Whether what this file sees is what METER is told now. Claims it, if nobody has a better claim."""
        # METER.way changes when another driver takes over.
        return self.here() and (METER.way == WAY or bool(METER.drives(WAY)))

    def evaluates(self, now: bool) -> None:
        """An evaluation goes on, or the training. It is told in the log once there is a step."""
        if now:
            METER.pause()
        if now != self.evaluating and METER.step:
            self.evaluating = now
            key, kind = ("eval_start", "INTERVAL_START") if now else ("eval_stop", "INTERVAL_END")
            METER.tell(key, kind=kind, epoch_num=METER.epoch)

    def trains(self) -> bool:
        """Whether gradients are wanted: an evaluation takes its batches without."""
        return self.grad()

    def _find_grad(self) -> bool:
        """PyTorch is whole once the first batch is taken, and not where its modules are patched."""
        self.grad = sys.modules["torch"].is_grad_enabled
        return self.grad()

    def guard(self, where: str, action: Callable[..., Any], *arguments: Any) -> None:
        """Do what a patched place is there for. Whatever it raises turns the meter off."""
        try:
            if METER.way == WAY and self.here():
                action(*arguments)
        except Exception as error:
            self.surprise(where, error)

    def surprise(self, where: str, error: Exception) -> None:
        """Turn the meter off, in one line. What the script's own signal handler raised is raised."""
        METER.surprise(error, f"{where}: {type(error).__name__}: {' '.join(str(error).split())}")


DRIVER = Driver()


def remember(items: list[Any], one: Any, gone: Callable[[], object] = bool) -> Any:
    """Put an object into a list of METER's without keeping it alive. Returns what stands there for it."""

    def forget(proxy: Any) -> None:
        gone()
        items[:] = [item for item in items if item is not proxy]

    proxy = weakref.proxy(one, forget)
    items.append(proxy)
    return proxy
