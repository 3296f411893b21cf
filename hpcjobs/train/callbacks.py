"""Keras callbacks: timed windows, the end of an epoch, the last step."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import tensorflow as tf
from mlperf_logging.mllog.mllog import MLLogger

from hpcjobs.contract import ErrorCode, LogKey
from hpcjobs.train import checkpoints, evaluation
from hpcjobs.train.evaluation import Evaluation
from hpcjobs.train.failure import TrainError
from hpcjobs.train.ranks import average_moving_statistics
from hpcjobs.train.schedule import Schedule


def check_loss(loss: float, step: int) -> None:
    """Raises TrainError (nan_loss) where the loss is not finite."""
    if not math.isfinite(loss):
        raise TrainError(
            ErrorCode.NAN_LOSS,
            f"the loss is {loss} at step {step}: lower lr.base, or check the data (hpcjobs data verify)",
        )


class StopAfter(tf.keras.callbacks.Callback):
    """Ends the training after `steps` steps, within an epoch if need be. On every rank."""

    def __init__(self, steps: int):
        super().__init__()
        self._supports_tf_logs = True  # Else Keras would copy the loss from the device after each step.
        self.left = steps

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.left -= 1
        if not self.left:
            self.model.stop_training = True


class Windows(tf.keras.callbacks.Callback):
    """Writes epochs, the first step and the timed windows of steps into train.log. On rank 0.

    A window ends after `window_steps` steps, and early where the warm-up ends and where the epoch
    does, so that it holds steps of one kind only. The loss is read, which waits for the device, at
    a window's end only: the steps inside it may overlap as they do untimed.
    """

    def __init__(self, log: MLLogger, schedule: Schedule, global_batch: int, *, warmup_steps: int, window_steps: int):
        super().__init__()
        self._supports_tf_logs = True  # As above.
        self.log = log
        self.schedule = schedule
        self.global_batch = global_batch
        self.warmup_steps = warmup_steps
        self.window_steps = window_steps
        self.step = 0  # Steps done, over all epochs.
        self.epoch = 0  # From 1.

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.epoch = epoch + 1
        self.log.start(LogKey.EPOCH_START, metadata={"epoch_num": self.epoch})
        self.epoch_first = self.step
        self.loss_sum = 0.0
        self._open()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        assert logs is not None
        self.step += 1
        if self.step == 1:
            check_loss(float(logs["loss"]), self.step)  # Reading it waits for the step's end.
            self.log.event(LogKey.FIRST_STEP, metadata={"step": 1})
        ends = (self.opened + self.window_steps, self.epoch_first + self.schedule.steps_per_epoch, self.schedule.steps)
        if self.step in ends or self.step == self.warmup_steps:
            self._close(float(logs["loss"]))
            self._open()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.log.end(LogKey.EPOCH_STOP, metadata={"epoch_num": self.epoch})

    def _open(self) -> None:
        self.opened = self.step
        self.started = time.perf_counter()

    def _close(self, epoch_loss: float) -> None:
        seconds = time.perf_counter() - self.started
        check_loss(epoch_loss, self.step)
        # Keras gives the mean over the epoch so far; the window's own is the difference of sums.
        steps, loss_sum = self.step - self.opened, epoch_loss * (self.step - self.epoch_first)
        loss, self.loss_sum = (loss_sum - self.loss_sum) / steps, loss_sum
        self.log.event(
            LogKey.WINDOW,
            {"throughput": steps * self.global_batch / seconds, "step_ms": 1000 * seconds / steps, "loss": loss},
            metadata={
                "step": self.step,
                "steps": steps,
                "epoch_num": self.epoch,
                "warmup": self.opened < self.warmup_steps,
            },
        )


class EndOfEpoch(tf.keras.callbacks.Callback):
    """Makes the ranks' models one, then evaluates: adds the global val_loss and val_auc to Keras' logs.

    `batches` is this rank's share of the split; None: no evaluation. On every rank, after the loss
    is averaged and before anything that reads val_loss.
    """

    def __init__(self, log: MLLogger | None, batches: tf.data.Dataset | None, attempt: Path):
        super().__init__()
        self.log = log
        self.batches = batches
        self.attempt = attempt
        self.predict: evaluation.Predict | None = None

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        assert logs is not None
        if self.log:  # On rank 0 alone, so that it is told once; the mean over ranks is seen by all.
            check_loss(logs["loss"], self.model.optimizer.iterations.numpy())
        average_moving_statistics(self.model)
        if self.batches is None:
            return
        where = {"epoch_num": epoch + 1}
        if self.log:
            self.log.start(LogKey.EVAL_START, metadata=where)
        self.predict = self.predict or evaluation.predictor(self.model)
        result = evaluation.evaluate(self.predict, self.batches, "val")
        logs["val_loss"] = result.loss
        if result.mean_auc is not None:
            logs["val_auc"] = result.mean_auc
        if self.log:
            self._tell(self.log, result, where)

    def _tell(self, log: MLLogger, result: Evaluation, where: dict[str, Any]) -> None:
        metadata = {**where, "split": result.split, "images": result.images, "loss": result.loss}
        log.event(LogKey.EVAL_ACCURACY, result.mean_auc, metadata={**metadata, "undefined": result.undefined})
        log.end(LogKey.EVAL_STOP, metadata=where)
        evaluation.write_auc(result, self.attempt)


class Checkpoints(tf.keras.callbacks.Callback):
    """Saves the newest and the best model (by val_auc) after each epoch. On rank 0, after the rest."""

    def __init__(self, log: MLLogger, run_folder: Path):
        super().__init__()
        self.log = log
        self.run_folder = run_folder
        self.best = -math.inf

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        auc = (logs or {}).get("val_auc", -math.inf)
        best = auc > self.best
        self.best = max(self.best, auc)
        checkpoints.save(self.model, self.run_folder, best=best)
        self.log.event(LogKey.CHECKPOINT, {"best": best}, metadata={"epoch_num": epoch + 1})
