"""Timed windows of steps, written into train.log."""

from __future__ import annotations

import math
import time

import tensorflow as tf
from mlperf_logging.mllog.mllog import MLLogger

from hpcjobs import meter
from hpcjobs.base.contract import ErrorCode, LogKey
from hpcjobs.chexnet.train.failure import TrainError
from hpcjobs.chexnet.train.schedule import Schedule


def check_loss(loss: float, step: int) -> None:
    """Raises TrainError (nan_loss) if the loss is not finite."""
    if not math.isfinite(loss):
        raise TrainError(
            ErrorCode.NAN_LOSS,
            f"the loss is {loss} at step {step}: lower lr.base, or check the data (hpcjobs data verify)",
        )


def log_window(
    log: MLLogger, *, step: int, steps: int, seconds: float, global_batch: int, loss: float, epoch: int, warmup: bool
) -> None:
    """Write the line of a window of `steps` steps that ends with `step`; `loss` is their mean.

    Raises TrainError (nan_loss) instead if the loss is not finite.
    """
    check_loss(loss, step)
    log.event(
        LogKey.WINDOW,
        {**meter.window_figures(steps, seconds, global_batch), "loss": loss},
        metadata={"step": step, "steps": steps, "epoch_num": epoch, "warmup": warmup},
    )


class Windows:
    """Logs the first step and windows of steps. On rank 0.

    A window ends after `window_steps` steps, and earlier at the end of the warm-up and of an epoch, so that it
    holds steps of one kind only. Reading the loss (`loss_sum`, on the device) waits for the device, so it is read
    at a window's end only: the steps within overlap as they do untimed. This process began after `step` steps; its
    first `warmup_steps` are not part of the steady state.
    """

    def __init__(
        self,
        log: MLLogger,
        schedule: Schedule,
        global_batch: int,
        loss_sum: tf.Variable,
        *,
        step: int,
        warmup_steps: int,
        window_steps: int,
    ):
        self.log = log
        self.schedule = schedule
        self.global_batch = global_batch
        self.loss_sum = loss_sum
        self.begun = step
        self.warm = step + warmup_steps
        self.window_steps = window_steps
        self.open(step)

    def open(self, step: int) -> None:
        """Begin a window after `step` steps."""
        self.opened = step
        self.loss_before = float(self.loss_sum)
        self.started = time.perf_counter()

    def after(self, step: int) -> None:
        """Call it when `step` steps have been handed to the device."""
        if step == self.begun + 1:
            check_loss(float(self.loss_sum), step)  # Reading it waits for the step's end.
            self.log.event(LogKey.FIRST_STEP, metadata={"step": step})
        ends = (self.opened + self.window_steps, self.warm, self.schedule.steps)
        if step in ends or step % self.schedule.steps_per_epoch == 0:
            self._close(step)
            self.open(step)

    def _close(self, step: int) -> None:
        loss_sum = float(self.loss_sum)
        seconds = time.perf_counter() - self.started
        steps = step - self.opened
        log_window(
            self.log,
            step=step,
            steps=steps,
            seconds=seconds,
            global_batch=self.global_batch,
            loss=(loss_sum - self.loss_before) / steps,
            epoch=self.opened // self.schedule.steps_per_epoch + 1,
            warmup=self.opened < self.warm,
        )
