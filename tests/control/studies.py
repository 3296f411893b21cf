"""A made-up study of five sizes with known figures, for figures, sentences and page."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from hpcjobs.analysis.scaling import table
from hpcjobs.base.metrics import Run, ScalingRow
from hpcjobs.chexnet.classes import CLASSES
from hpcjobs.report.contents import Contents
from tests.control.sweeps import run

SIZES = (1, 2, 4, 8, 16)
# Of each repeat: how much longer its steps are than the first one's.
NOISE = (1.0, 1.01, 0.99)
SCRIPT = "<script>document.title = 'it ran'</script>"


def runs(
    sizes: Sequence[int] = SIZES, repeats: int = 3, params: str = "", strong: bool = False, **more: Any
) -> list[Run]:
    """Runs whose step takes 100 ms, and beyond one GPU 2 ms of input, 10 + gpus of all-reduce and 3 of skew more.

    A training takes 6.4e7 images.
    """
    return [_run(gpus, repeat, params, strong, repeats, **more) for gpus in sizes for repeat in range(1, repeats + 1)]


def _run(gpus: int, repeat: int, params: str, strong: bool, repeats: int, **more: Any) -> Run:
    local, ideal = (64 // gpus, 100.0 / gpus) if strong else (64, 100.0)
    compute = ideal * NOISE[repeat - 1]
    wait, allreduce, skew = (2.0, 10.0 + gpus, 3.0) if gpus > 1 else (0.0, 0.0, 0.0)
    step = compute + wait + allreduce + skew
    rate = 1000 * local * gpus / step
    figures: dict[str, Any] = {
        "local_batch": local, "global_batch": local * gpus, "step_ms": step, "compute_ms": compute,
        "input_wait_ms": wait, "allreduce_ms": allreduce, "skew_ms": skew, "slowest_rank_ms": compute + skew,
        "time_to_train_s": 6.4e7 / rate, "time_to_train_kind": "derived_fixed_epochs", "repeats_asked": repeats,
        "source": f"runs/g{gpus:04d}-r{repeat:02d}/a001/train.log", "nodelist": f"n{repeat}", "job_ids": f"{gpus}_{repeat}",
    }  # fmt: skip
    return run(gpus, rate, repeat, params, **(figures | more))


def failing(those: Sequence[Run], gpus: int, failure: str = "out_of_memory: no room") -> list[Run]:
    """The same runs, those of that size without a measurement."""
    figures = ("throughput", "step_ms", "input_wait_ms", "allreduce_ms", "skew_ms", "compute_ms")
    empty: dict[str, Any] = dict.fromkeys((*figures, "slowest_rank_ms", "time_to_train_s"))
    state = run(gpus, None).state
    return [
        dataclasses.replace(each, **empty, state=state, failure=failure) if each.gpus == gpus else each
        for each in those
    ]


def auc(those: Sequence[Run], split: str = "test") -> list[dict[str, str]]:
    """Rows of auc.csv: finding i has 0.6 + i / 100, with an interval of 0.02 to either side."""
    found = []
    for each in those:
        for number, name in enumerate((*CLASSES, "mean")):
            value = 0.6 + number / 100
            whose = {"run": each.run, "experiment": each.experiment, "params": each.params, "gpus": str(each.gpus)}
            ends = {"auc_low": f"{value - 0.02:.3f}", "auc_high": f"{value + 0.02:.3f}"}
            found.append({**whose, "split": split, "class": name, "auc": f"{value:.3f}", **ends})
    return found


def rows(*args: Any, **more: Any) -> list[ScalingRow]:
    return table(runs(*args, **more))


def study(those: Sequence[Run] | None = None, **more: Any) -> Contents:
    """All five sizes with everything a report may show, or what `those` runs have."""
    found = list(runs() if those is None else those)
    tails = {each.run: f"\x1b[31mstep 40\x1b[0m of {each.run}\n{SCRIPT}\n" for each in found}
    about = {"command": ["hpcjobs", "sweep", "--set", "data.dir=/a b"], "git": {"commit": "abc", "clean": False}}
    whole: dict[str, Any] = {"title": "demo on mine", "rows": table(found), "runs": found, "tails": tails}
    return Contents(**{**whole, "provenance": about, **more})
