"""`hpcjobs predict`: models of a set of runs, and what they say of sizes that were not run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from hpcjobs.analysis import extrap, models, predict, scaling
from hpcjobs.analysis.predict import SeriesModels
from hpcjobs.base.files import write_atomic
from hpcjobs.base.metrics import Run


def forecast(
    runs: Iterable[Run], sizes: Sequence[int] = (), *, fabric: Path | None = None, extrap_file: Path | None = None
) -> list[SeriesModels]:
    """Fit the models to the scaling table of the runs; `sizes` are GPU counts to predict.

    `fabric` is a file of the fabric probe. `extrap_file` is written as input of Extra-P. Raises InputError.
    """
    rows = scaling.table(runs)
    found = predict.predict(rows, sizes, fabric=models.read_fabric(fabric) if fabric else None)
    if extrap_file is not None:
        write_atomic(extrap_file, extrap.extrap(rows))
    return found


def to_json(found: Sequence[SeriesModels]) -> object:
    """The models, ready for JSON."""
    return predict.as_json(found)
