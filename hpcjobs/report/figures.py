"""All figures of a report, as PNG and SVG. A figure without data is left out."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from hpcjobs.base.files import write_atomic
from hpcjobs.report import figures_style
from hpcjobs.report.contents import Contents, unit_of
from hpcjobs.report.figures_auc import auc
from hpcjobs.report.figures_scaling import efficiency, throughput, time_to_train
from hpcjobs.report.figures_steps import breakdown
from hpcjobs.report.figures_style import Drawing

# The files of the figures, without their extension.
NAMES = ("scaling", "efficiency", "time-to-train", "breakdown", "auc")
_FILE = re.compile(rf"({'|'.join(NAMES)})(-[0-9]+)?\.(png|svg)")


def draw(contents: Contents) -> list[Drawing]:
    """The figures for which there is data, in the order of NAMES; those of a second unit after those of the first.

    A figure of a second, third ... unit has a number at the end of its name, and each names its unit in its title.
    """
    parts = contents.parts
    found = []
    with figures_style.settings():
        for number, part in enumerate(parts, 1):
            for make in (throughput, efficiency, time_to_train, breakdown):
                drawing = make(part)
                if drawing is not None and len(parts) > 1:
                    name = drawing.name if number == 1 else f"{drawing.name}-{number}"
                    drawing = dataclasses.replace(drawing, name=name, title=f"{drawing.title} ({unit_of(part.rows)})")
                found.append(drawing)
        found.append(auc(contents))
    return [drawing for drawing in found if drawing is not None]


def write(folder: Path, drawings: Sequence[Drawing]) -> list[Path]:
    """Write each figure as PNG and SVG. Remove those of an earlier report that no longer have data."""
    paths = []
    for drawing in drawings:
        for suffix, data in (("png", drawing.png()), ("svg", drawing.svg())):
            write_atomic(folder / f"{drawing.name}.{suffix}", data)
            paths.append(folder / f"{drawing.name}.{suffix}")
    for path in folder.iterdir():
        if _FILE.fullmatch(path.name) and path not in paths:
            path.unlink(missing_ok=True)
    return paths
