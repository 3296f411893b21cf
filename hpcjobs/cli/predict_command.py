"""`hpcjobs predict`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpcjobs.analysis import extrap, scaling
from hpcjobs.base.errors import InputError
from hpcjobs.base.files import write_atomic
from hpcjobs.cli import names, show
from hpcjobs.engine import follow
from hpcjobs.engine import sweep as sweeps
from hpcjobs.plan import planning
from hpcjobs.report import build

if TYPE_CHECKING:
    from hpcjobs.analysis.predict import SeriesModels


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), required=False, shell_complete=names.sweeps)
@click.option(
    "--runs",
    "runs_file",
    metavar="FILE|-",
    shell_complete=names.files,
    help="Predict from these runs (runs.csv, or collect --json).",
)
@click.option("--gpus", metavar="LIST", help="Sizes that were not run, such as 32,64.")
@click.option("--fabric", type=click.Path(path_type=Path), metavar="FILE", help="What the fabric probe measured.")
@click.option("--extrap", "extrap_file", type=click.Path(path_type=Path), metavar="FILE", help="Write Extra-P's input.")
@click.option("--markdown", is_flag=True, help="Print the tables for a pull request.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def predict(
    folder: Path | None,
    runs_file: str | None,
    gpus: str | None,
    fabric: Path | None,
    extrap_file: Path | None,
    markdown: bool,
    as_json: bool,
) -> None:
    """Fit models to the sweep in FOLDER: sizes not run, GPU-hours, time to train, each with an interval.

    \b
    hpcjobs predict study --gpus 32,64
    """
    # scipy takes a third of a second, which completion and --help must not.
    from hpcjobs.analysis import models
    from hpcjobs.analysis import predict as model
    from hpcjobs.report import tables

    if (folder is None) == (runs_file is None):
        raise InputError("give the FOLDER of a sweep, or --runs FILE")
    if folder is not None:
        sweep = sweeps.load(folder)
        runs = build.collected(sweep, follow.snapshot(sweep, show.talk))
    else:
        assert runs_file is not None
        runs = build.read_runs(runs_file)
    rows = scaling.table(runs)
    sizes = planning.parse_gpus(gpus) if gpus else []
    outlooks = model.predict(rows, sizes, fabric=models.read_fabric(fabric) if fabric else None)
    if extrap_file is not None:
        write_atomic(extrap_file, extrap.extrap(rows))
        show.talk(f"wrote {show.shorten(extrap_file.absolute())}")
    for outlook in outlooks:
        _doubt(outlook)
    if as_json:
        click.echo(json.dumps(model.as_json(outlooks)))
        return
    for outlook in outlooks:
        for name, why in outlook.refused.items():
            _talk(outlook, f"no model {name}", why)
        for fitted in outlook.models:
            title = " ".join(
                word for word in (outlook.experiment, outlook.params, outlook.scaling, fitted.name) if word
            )
            cells = tables.predictions(fitted)
            if markdown:
                click.echo(f"**{title}**\n\n{cells.markdown()}")
            else:
                console = show.terminal()
                console.print(title, style="bold")
                console.print(cells.terminal())
                console.print()


def _talk(outlook: SeriesModels, *texts: str) -> None:
    """A line of a series; logs may not say of which experiment they are."""
    name = " ".join(word for word in (outlook.experiment, outlook.params) if word)
    show.talk(": ".join(text for text in (name, *texts) if text))


def _doubt(outlook: SeriesModels) -> None:
    """One line, with the models that it is of where they differ."""
    from hpcjobs.report import tables

    doubts: dict[str, list[str]] = {}
    for fitted in outlook.models:
        if why := tables.doubt(fitted):
            doubts.setdefault(why, []).append(fitted.name)
    for why, models in doubts.items():
        _talk(outlook, "" if len(models) == len(outlook.models) else f"model {' and '.join(models)}", why)
