"""The training loop of one rank: steps, epochs, evaluations, checkpoints, and the stop after a signal."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import horovod.tensorflow as hvd
import tensorflow as tf
from mlperf_logging.mllog.mllog import MLLogger

from hpcjobs.base.contract import LogKey
from hpcjobs.chexnet.train import checkpoints, evaluation, mllog, rates
from hpcjobs.chexnet.train.agreement import Agreement
from hpcjobs.chexnet.train.checkpoints import Progress
from hpcjobs.chexnet.train.ranks import Interrupted, average_moving_statistics
from hpcjobs.chexnet.train.schedule import Schedule
from hpcjobs.chexnet.train.step import Step, optimizer_state
from hpcjobs.chexnet.train.watchdog import Watchdog
from hpcjobs.chexnet.train.windows import Windows, check_loss


@dataclasses.dataclass
class Loop:
    """The parts of a training; `run` does it. Collective.

    `log` is None except on rank 0. `folder` of the checkpoints is None if none are written. `val` is this rank's
    share of the validation split, None without evaluation.
    """

    step: Step
    schedule: Schedule
    progress: Progress
    rate: float
    warmup_steps: int
    watchdog: Watchdog
    attempt: Path
    folder: Path | None = None
    checkpoint_s: float = 900.0
    val: tf.data.Dataset | None = None
    target_auc: float | None = None
    log: MLLogger | None = None
    windows: Windows | None = None

    def __post_init__(self) -> None:
        self.agreement = Agreement(self.progress.step, self.checkpoint_s if self.folder else float("inf"))
        self.predict = evaluation.predictor(self.step.model)
        self.rate_now: float | None = None
        # The newest evaluation.
        self.validated: evaluation.Evaluation | None = None

    def run(self, batches: Iterator[Any]) -> None:
        """Train from `progress` to the end. `batches` begin at that step.

        Raises Interrupted after a signal, with a checkpoint written; TrainError.
        """
        progress, plan = self.progress, self.schedule
        while progress.step < plan.steps and not progress.reached:
            epoch = progress.step // plan.steps_per_epoch
            if self.log:
                self.log.start(LogKey.EPOCH_START, metadata={"epoch_num": epoch + 1})
            first = progress.step
            self.step.loss_sum.assign(0.0)
            if self.windows:
                self.windows.open(first)
            while progress.step < min((epoch + 1) * plan.steps_per_epoch, plan.steps):
                self._one(batches)
            self._end_epoch(epoch, progress.step - first)

    def _one(self, batches: Iterator[Any]) -> None:
        progress = self.progress
        rate = rates.warmed(self.rate * progress.plateau.scale, progress.step, self.warmup_steps)
        if rate != self.rate_now:
            self.step.optimizer.learning_rate.assign(rate)
            self.rate_now = rate
        self.step(batches)
        progress.step += 1
        self.watchdog.beat(f"step {progress.step}")
        if self.windows:
            self.windows.after(progress.step)
        agreed = self.agreement.after(progress.step)
        ends = progress.step % self.schedule.steps_per_epoch == 0 or progress.step == self.schedule.steps
        if agreed.signal and not ends:
            self._leave(agreed.signal)
        elif agreed.checkpoint and not ends:
            self._save(best=False)
            if self.windows:
                self.windows.open(progress.step)

    def _end_epoch(self, epoch: int, steps: int) -> None:
        progress = self.progress
        # Weighted by the number of steps of each rank, which is the same here.
        sums = hvd.allreduce(tf.stack([self.step.loss_sum, float(steps)]), op=hvd.Sum, name="epoch_loss").numpy()
        loss = float(sums[0] / sums[1])
        if self.log:
            self.log.end(LogKey.EPOCH_STOP, metadata={"epoch_num": epoch + 1, "loss": loss})
            check_loss(loss, progress.step)  # On rank 0 only, so that it is reported once.
        average_moving_statistics(self.step.model)
        best = False
        if self.val is not None:
            result = self.validated = self._evaluate(self.val, "val", epoch)
            progress.plateau.update(result.loss)
            if result.mean_auc is not None:
                best = progress.best_auc is None or result.mean_auc > progress.best_auc
                progress.best_auc = result.mean_auc if best else progress.best_auc
                progress.reached = self.target_auc is not None and result.mean_auc >= self.target_auc
        number = self.agreement.now(progress.step).signal
        if number and progress.step < self.schedule.steps and not progress.reached:
            self._leave(number, best=best)
        self._save(best=best)

    def _evaluate(self, batches: tf.data.Dataset, split: str, epoch: int) -> evaluation.Evaluation:
        where = {"epoch_num": epoch + 1, "split": split}
        if self.log:
            self.log.start(LogKey.EVAL_START, metadata=where)
        result = evaluation.evaluate(self.predict, batches, split, self.watchdog.beat)
        if self.log:
            evaluation.log_result(self.log, result, where)
            evaluation.write_auc([(result, None)], self.attempt)
        return result

    def _leave(self, number: int, *, best: bool = False) -> None:
        self._save(best=best, must=True)
        if self.log:
            step = self.progress.step
            what = f"a checkpoint of step {step} is written" if self.folder else "no checkpoint is written"
            mllog.interrupted(self.log, number, step, what)
        raise Interrupted(number)

    def _save(self, *, best: bool, must: bool = False) -> None:
        """Rank 0 writes a checkpoint. An OSError ends the training only if it `must` be written."""
        if self.folder is None:
            return
        average_moving_statistics(self.step.model)
        if self.log:
            began = time.monotonic()
            try:
                checkpoints.save(
                    self.folder, self.step.model, optimizer_state(self.step.optimizer), self.progress, best=best
                )
                epoch = (self.progress.step - 1) // self.schedule.steps_per_epoch + 1
                value = {"best": best, "seconds": round(time.monotonic() - began, 3)}
                self.log.event(LogKey.CHECKPOINT, value, metadata={"epoch_num": epoch, "step": self.progress.step})
            except OSError as error:
                if must:
                    raise
                print(f"hpcjobs: warning: no checkpoint of step {self.progress.step}: {error}", file=sys.stderr)
        self.watchdog.beat(f"checkpoint of step {self.progress.step}")
        self.agreement.checkpointed()


def begin(step: Step, folder: Path | None, plateau: rates.Plateau, log: MLLogger | None) -> Progress:
    """Restore the newest intact checkpoint on rank 0, if there is one, and give all ranks the variables of rank 0.

    Returns the progress of that checkpoint, or that of a new training. Collective.
    """
    optimizer = optimizer_state(step.optimizer)
    progress = None
    if log and folder is not None:
        progress = checkpoints.restore(
            folder, step.model, optimizer, lambda text: print(f"hpcjobs: warning: {text}", file=sys.stderr, flush=True)
        )
        if progress:
            log.event(LogKey.RESUMED, progress.step)
    hvd.broadcast_variables(step.variables, root_rank=0)
    return hvd.broadcast_object(progress, root_rank=0, name="progress") or Progress(plateau)
