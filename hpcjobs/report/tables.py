"""The scaling table, as CSV and for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from hpcjobs.columns import REPORT_COLUMNS, with_params
from hpcjobs.files import write_atomic
from hpcjobs.records import ScalingRow, to_csv

SCALING_CSV = "scaling-report.csv"


def write_csv(folder: Path, rows: Sequence[ScalingRow]) -> Path:
    """Write scaling-report.csv, one row per GPU count and parameter set."""
    path = folder / SCALING_CSV
    write_atomic(path, to_csv(with_params(REPORT_COLUMNS, [row.params for row in rows]), [row.row() for row in rows]))
    return path


def terminal(rows: Sequence[ScalingRow]) -> Table:
    """What fits a terminal of the table."""
    grid = Table(box=None, header_style="bold", pad_edge=False)
    swept = any(row.params for row in rows)
    if swept:
        grid.add_column("params")
    for name in (
        "gpus",
        "nodes",
        "runs",
        "failed",
        "images/s",
        "95 % interval",
        "speed-up",
        "efficiency",
        "step ms",
        "AUC",
    ):
        grid.add_column(name, justify="right")
    for row in rows:
        interval = ""
        if row.images_per_sec_low is not None and row.images_per_sec_high is not None:
            interval = f"{row.images_per_sec_low:.1f} to {row.images_per_sec_high:.1f}"
        elif row.images_per_sec is not None:
            interval = "one run"
        cells = [
            str(row.gpus),
            str(row.nodes),
            str(row.runs),
            str(row.failed_runs),
            _figure(row.images_per_sec, ".1f"),
            interval,
            _figure(row.speedup, ".2f"),
            _figure(row.efficiency, ".1%"),
            _figure(row.step_ms, ".1f"),
            _figure(row.mean_auc, ".3f"),
        ]
        grid.add_row(*([row.params] if swept else []), *cells)
    return grid


def _figure(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
