"""All figures of a report, as PNG and SVG. A figure without data is left out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hpcjobs.base.files import write_atomic
from hpcjobs.report import figures_style
from hpcjobs.report.contents import Contents
from hpcjobs.report.figures_auc import auc
from hpcjobs.report.figures_scaling import efficiency, throughput, time_to_train
from hpcjobs.report.figures_steps import breakdown
from hpcjobs.report.figures_style import Drawing

# The files of the figures, without their extension.
NAMES = ("scaling", "efficiency", "time-to-train", "breakdown", "auc")


def draw(contents: Contents) -> list[Drawing]:
    """The figures for which there is data, in the order of NAMES."""
    with figures_style.settings():
        found = [make(contents) for make in (throughput, efficiency, time_to_train, breakdown, auc)]
    return [drawing for drawing in found if drawing is not None]


def write(folder: Path, drawings: Sequence[Drawing]) -> list[Path]:
    """Write each figure as PNG and SVG. Remove those of an earlier report that no longer have data."""
    paths = []
    for drawing in drawings:
        for suffix, data in (("png", drawing.png()), ("svg", drawing.svg())):
            write_atomic(folder / f"{drawing.name}.{suffix}", data)
            paths.append(folder / f"{drawing.name}.{suffix}")
    for name in set(NAMES) - {drawing.name for drawing in drawings}:
        for suffix in ("png", "svg"):
            (folder / f"{name}.{suffix}").unlink(missing_ok=True)
    return paths
