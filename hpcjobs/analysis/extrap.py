"""The table in Extra-P's text format (github.com/extra-p/extrap, docs/file-formats.md: text file format)."""

from __future__ import annotations

from collections.abc import Sequence

from hpcjobs.base.errors import InputError
from hpcjobs.base.metrics import ScalingRow

# The parts of a step: region and figure of a row. A region is written only if all sizes have it.
_PARTS = {
    "step->input_wait": "input_lost_ms",
    "step->allreduce": "allreduce_ms",
    "step->slowest_rank": "slowest_rank_ms",
}


def extrap(rows: Sequence[ScalingRow]) -> str:
    """The file's text. Its one parameter p is the number of GPUs, its one metric is the time in ms.

    The region `step` has one value for each run, the parts of the step have one value each.
    Raises InputError if nothing is measured, or if the rows belong to several series.
    """
    measured = [row for row in rows if row.throughput is not None]
    series = {row.series for row in measured}
    if len(series) != 1:
        what = (
            "nothing is measured"
            if not series
            else f"the table has {len(series)} series (params, units, kinds of scaling)"
        )
        raise InputError(f"Extra-P needs exactly one series of sizes: {what}")
    measured.sort(key=lambda row: row.gpus)
    # The step time follows from the throughput of each run. If no batch is known, it is that of one unit per GPU, and
    # the measured parts belong to another step.
    lines = ["PARAMETER p", "POINTS " + " ".join(f"({row.gpus})" for row in measured), "METRIC time"]
    lines += ["REGION step"]
    lines += [
        "DATA " + " ".join(f"{1000 * (row.local_batch or 1) * row.gpus / rate:.6f}" for rate in row.rates)
        for row in measured
    ]
    for region, name in _PARTS.items():
        times = [getattr(row, name) for row in measured]
        if None not in times and all(row.local_batch for row in measured):
            lines += [f"REGION {region}", *(f"DATA {ms:.6f}" for ms in times)]
    return "\n".join(lines) + "\n"
