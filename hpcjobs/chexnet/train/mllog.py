"""train.log: MLPerf `:::MLLOG` lines with the keys of contract.LogKey. Only rank 0 writes it."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlperf_logging.mllog.mllog import MLLogger

from hpcjobs.base import contract
from hpcjobs.base.contract import LogKey
from hpcjobs.chexnet.train.ranks import Interrupted


def open_log(attempt: Path) -> MLLogger:
    """A logger that writes to ATTEMPT/train.log only; each line is flushed as it is written."""
    logger = logging.Logger("hpcjobs.chexnet.train.log", logging.INFO)
    handler = logging.FileHandler(attempt / contract.TRAIN_LOG, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    return MLLogger(logger=logger, root_dir=str(Path(__file__).resolve().parents[3]))


@contextmanager
def training(log: MLLogger | None) -> Iterator[dict[str, Any]]:
    """Writes run_start and run_stop around the training. Yields a dict for further metadata of run_stop."""
    more: dict[str, Any] = {}
    if log is None:
        yield more
        return
    log.start(LogKey.RUN_START)
    try:
        yield more
    except BaseException as error:
        log.end(LogKey.RUN_STOP, metadata={"status": "interrupted" if isinstance(error, Interrupted) else "aborted"})
        raise
    log.end(LogKey.RUN_STOP, metadata={"status": "success", **more})


def interrupted(log: MLLogger, number: int, step: int, what: str) -> None:
    """Log, and print on stderr, that signal `number` ended the run after `step` steps; `what`: the checkpoint."""
    name = signal.Signals(number).name
    log.event(LogKey.INTERRUPTED, name, metadata={"step": step})
    print(f"hpcjobs: {name}: ended after step {step}, {what}", file=sys.stderr, flush=True)


def describe(log: MLLogger, run: dict[str, Any], *, seed: int, eval_images: int, learning_rate: float) -> None:
    """Write the lines between init_start and init_stop; `run` is the value of hpcjobs_run."""
    log.event(LogKey.RUN, run)
    log.event(LogKey.SEED, seed)
    log.event(LogKey.GLOBAL_BATCH, run["global_batch"])
    log.event(LogKey.TRAIN_SAMPLES, run["train_images"])
    log.event(LogKey.EVAL_SAMPLES, eval_images)
    log.event(LogKey.OPTIMIZER, "adam")
    log.event(LogKey.LEARNING_RATE, learning_rate)
    log.end(LogKey.INIT_STOP)
