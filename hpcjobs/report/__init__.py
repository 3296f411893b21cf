"""The scaling report: tables, figures, page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hpcjobs.records import ScalingRow


def write(folder: Path, rows: Sequence[ScalingRow], *, title: str) -> list[Path]:
    """Write scaling-report.csv and the figures into `folder`; returns the paths of what was written.

    There is no figure for a table without a measurement.
    """
    from hpcjobs.report import tables

    folder.mkdir(parents=True, exist_ok=True)
    paths = [tables.write_csv(folder, rows)]
    if any(row.images_per_sec is not None for row in rows):
        from hpcjobs.report import figures  # matplotlib takes half a second

        paths += figures.write(folder, rows, title=title)
    return paths
