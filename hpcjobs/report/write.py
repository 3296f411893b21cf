"""Writes the scaling report: tables, figures, page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcjobs.base.files import write_atomic
from hpcjobs.base.metrics import Run, ScalingRow
from hpcjobs.base.records import Reference

if TYPE_CHECKING:
    from hpcjobs.analysis.compare import Difference
    from hpcjobs.analysis.predict import SeriesModels
    from hpcjobs.collect.inspector import Collective


def write_report(
    folder: Path,
    rows: Sequence[ScalingRow],
    *,
    title: str,
    runs: Sequence[Run] = (),
    auc: Sequence[Mapping[str, Any]] = (),
    models: Sequence[SeriesModels] = (),
    reference: Reference | None = None,
    others: Sequence[ScalingRow] = (),
    others_name: str = "the other sweep",
    differences: Sequence[Difference] = (),
    provenance: Mapping[str, Any] | None = None,
    tails: Mapping[str, str] | None = None,
    collectives: Sequence[Collective] = (),
) -> list[Path]:
    """Write scaling-report.csv, the figures and report.html into `folder`. Returns the paths of the written files.

    The other arguments are the fields of contents.Contents.
    """
    from hpcjobs.report import figures, page, tables  # importing matplotlib takes half a second
    from hpcjobs.report.contents import Contents

    contents = Contents(
        title=title, rows=rows, runs=runs, auc=auc, models=models, reference=reference, others=others,
        others_name=others_name, differences=differences, provenance=provenance or {}, tails=tails or {},
        collectives=collectives,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    drawings = figures.draw(contents)
    paths = [tables.write_csv(folder, rows), *figures.write(folder, drawings), folder / page.FILE]
    write_atomic(paths[-1], page.render(contents, drawings))
    return paths
