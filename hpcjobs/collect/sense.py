"""Rates that no run can have measured: the other columns of the row contradict them, or any GPU does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hpcjobs.base.gpu_peaks import TABLE
from hpcjobs.base.metrics import Run
from hpcjobs.collect.agreement import alike

# Operations a second: the largest dense peak of hpcjobs' table of GPUs.
_FASTEST = 1e12 * max(tflops for peaks in TABLE for tflops in peaks.tflops.values())
# Slurm's longest time limit of a job that is asked for in days is a year on most sites; no benchmark lasts as long.
_YEAR_S = 365 * 86400


def contradiction(run: Run, row: Mapping[str, Any]) -> str:
    """What contradicts the throughput of a run, or an empty text. `row` is the row of the file, as it was read.

    A unit (a sample, a token) takes at least one operation, and a run has trained at least one. Columns that say the
    same thing agree within 15 %, as figures of one log do.
    """
    rate = run.throughput
    if rate is None:
        return ""
    if rate / run.gpus > _FASTEST:
        return f"no GPU does more than {_FASTEST:.2g} operations a second, and each would do as many units"
    if rate < 1 / _YEAR_S:
        return "one unit would take longer than a year"
    if run.mfu is not None and run.mfu > 1:
        return f"mfu is {run.mfu:g}: more than the peak of the GPU"
    if run.step_ms and run.global_batch:
        by_step = 1000 * run.global_batch / run.step_ms
        if not alike(rate, by_step):
            return f"global_batch {run.global_batch} in step_ms {run.step_ms:g} is {by_step:.6g} a second"
    try:
        per_gpu = float(row.get("throughput_per_gpu") or 0)
    except ValueError:
        return ""
    if per_gpu and not alike(rate, per_gpu * run.gpus):
        return f"throughput_per_gpu {per_gpu:g} on {run.gpus} GPUs is {per_gpu * run.gpus:.6g}"
    return ""
