"""Writes runs for tests: the lines that the trainer writes, with chosen figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hpcjobs.base.contract import CLAIM, EXIT_JSON, TRAIN_LOG, LogKey


def line(key: str, value: Any = None, at: float = 0.0, **metadata: Any) -> str:
    entry = {
        "namespace": "",
        "time_ms": int(at * 1000),
        "event_type": "POINT_IN_TIME",
        "key": key,
        "value": value,
        "metadata": metadata,
    }
    return f":::MLLOG {json.dumps(entry)}\n"


def train_log(
    *,
    gpus: int = 2,
    batch: int = 4,
    step_ms: tuple[float, ...] = (50.0, 50.0),
    warmup_ms: float = 500.0,
    steps: int = 40,
    cut_short: bool = True,
    epochs: int = 1,
    train_images: int = 512,
    auc: float | None = 0.75,
    status: str | None = "success",
    start: float = 1000.0,
) -> str:
    """A train.log: one warm-up window and one timed window of 5 steps for each of `step_ms`."""
    about = {
        "run": "g", "gpus": gpus, "local_batch": batch, "global_batch": batch * gpus, "hosts": ["n1"], "steps": steps,
        "epochs": epochs, "train_images": train_images, "cut_short": cut_short,
    }  # fmt: skip
    text = (
        line(LogKey.RUN, about, start) + line(LogKey.RUN_START, None, start) + line(LogKey.FIRST_STEP, None, start + 2)
    )
    text += line(LogKey.EPOCH_START, None, start, epoch_num=1)
    for number, ms in enumerate((warmup_ms, *step_ms), 1):
        value = {"throughput": batch * gpus / ms * 1000, "step_ms": ms, "loss": 0.5}
        text += line(LogKey.WINDOW, value, start + number, step=5 * number, steps=5, epoch_num=1, warmup=number == 1)
    text += line(LogKey.EPOCH_STOP, None, start + 30, epoch_num=1)
    text += line(LogKey.EVAL_START, None, start + 30) + line(LogKey.EVAL_STOP, None, start + 33)
    if auc is not None:
        text += line(LogKey.EVAL_ACCURACY, auc, start + 33, epoch_num=1)
    if status is not None:
        text += line(LogKey.RUN_STOP, None, start + 40, status=status)
    return text


def attempt(
    folder: Path, *, job: str = "1_0", rc: int | None = 0, log: str | None = None, nodelist: str = "n1"
) -> Path:
    """An attempt folder as the job script leaves it; without exit.json if `rc` is None."""
    folder.mkdir(parents=True)
    about = {"run": folder.parent.name, "attempt": folder.name, "job": job, "nodelist": nodelist, "start": 990}
    (folder / CLAIM).write_text(json.dumps({**about, "submission": 1, "restart": 0, "host": "n1"}))
    if log is not None:
        (folder / TRAIN_LOG).write_text(log)
    if rc is not None:
        signal = rc - 128 if rc > 128 else 0
        (folder / EXIT_JSON).write_text(json.dumps({**about, "rc": rc, "signal": signal, "end": 1050}))
    return folder
