"""The table as Extra-P reads it (github.com/extra-p/extrap, docs/file-formats.md: text file format)."""

from __future__ import annotations

from collections.abc import Sequence

from hpcjobs.base.errors import InputError
from hpcjobs.base.metrics import ScalingRow

# Of a step, by region; a region is written where all sizes have it.
_PARTS = {
    "step->input_wait": "input_wait_ms",
    "step->allreduce": "allreduce_ms",
    "step->slowest_rank": "slowest_rank_ms",
}


def extrap(rows: Sequence[ScalingRow]) -> str:
    """One parameter p, the GPUs; metric time in ms: of a step, a figure for each run, and of its parts.

    Raises InputError where nothing is measured, or the rows are of several series.
    """
    measured = [row for row in rows if row.images_per_sec is not None]
    series = {row.series for row in measured}
    if len(series) != 1:
        what = "nothing is measured" if not series else f"the table has {len(series)} series (params, kinds of scaling)"
        raise InputError(f"Extra-P takes one series of sizes: {what}")
    measured.sort(key=lambda row: row.gpus)
    # Its step time from the images/s of each run; without a batch, of one image per GPU.
    lines = ["PARAMETER p", "POINTS " + " ".join(f"({row.gpus})" for row in measured), "METRIC time"]
    lines += ["REGION step"]
    lines += [
        "DATA " + " ".join(f"{1000 * (row.local_batch or 1) * row.gpus / rate:.6f}" for rate in row.rates)
        for row in measured
    ]
    for region, name in _PARTS.items():
        figures = [getattr(row, name) for row in measured]
        if None not in figures:
            lines += [f"REGION {region}", *(f"DATA {ms:.6f}" for ms in figures)]
    return "\n".join(lines) + "\n"
