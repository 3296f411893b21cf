"""All figures of a study, as PNG and SVG. There is none for data that is not there."""

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

# The files that a report may have, without their ending.
NAMES = ("scaling", "efficiency", "time-to-train", "breakdown", "auc")


def draw(contents: Contents) -> list[Drawing]:
    """The figures that the study has data for, in the order of NAMES."""
    with figures_style.settings():
        found = [make(contents) for make in (throughput, efficiency, time_to_train, breakdown, auc)]
    return [drawing for drawing in found if drawing is not None]


def write(folder: Path, drawings: Sequence[Drawing]) -> list[Path]:
    """Write each as PNG and SVG, and remove those of an earlier report that there is no data for now."""
    paths = []
    for drawing in drawings:
        for ending, data in (("png", drawing.png()), ("svg", drawing.svg())):
            write_atomic(folder / f"{drawing.name}.{ending}", data)
            paths.append(folder / f"{drawing.name}.{ending}")
    for name in set(NAMES) - {drawing.name for drawing in drawings}:
        for ending in ("png", "svg"):
            (folder / f"{name}.{ending}").unlink(missing_ok=True)
    return paths
