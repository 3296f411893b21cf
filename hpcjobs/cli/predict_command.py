"""`hpcjobs predict`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpcjobs.base.errors import InputError
from hpcjobs.cli import names, show
from hpcjobs.engine import follow
from hpcjobs.plan.planning import parse_gpus
from hpcjobs.report.build import read_runs, read_sweep
from hpcjobs.study import open_study

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
@click.option(
    "--fabric", type=click.Path(path_type=Path), metavar="FILE", help="File that `hpcjobs check --probe` wrote."
)
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
    # Importing scipy takes a third of a second, which completion and --help do not need.
    from hpcjobs.analysis.forecast import forecast, to_json
    from hpcjobs.report import tables

    if (folder is None) == (runs_file is None):
        raise InputError("give the FOLDER of a sweep, or --runs FILE")
    if folder is not None:
        study = open_study(folder, tell=show.talk)
        runs = read_sweep(study.sweep, follow.seen(study.sweep, show.talk))
    else:
        assert runs_file is not None
        runs = read_runs(runs_file, show.talk)
    found = forecast(runs, parse_gpus(gpus) if gpus else [], fabric=fabric, extrap_file=extrap_file)
    if extrap_file is not None:
        show.talk(f"wrote {show.shorten(extrap_file.absolute())}")
    for series in found:
        _doubt(series)
    if as_json:
        click.echo(json.dumps(to_json(found)))
        return
    for series in found:
        for name, why in series.refused.items():
            _talk(series, f"no model {name}", why)
        for fitted in series.models:
            title = " ".join(word for word in (series.experiment, series.params, series.scaling, fitted.name) if word)
            cells = tables.predictions(fitted, series.unit)
            if markdown:
                click.echo(f"**{title}**\n\n{cells.markdown()}")
            else:
                console = show.terminal()
                console.print(title, style="bold")
                console.print(cells.terminal())
                console.print()


def _talk(series: SeriesModels, *texts: str) -> None:
    """Print a line about a series, after its name. Logs that do not give the experiment have no name."""
    name = " ".join(word for word in (series.experiment, series.params) if word)
    show.talk(": ".join(text for text in (name, *texts) if text))


def _doubt(series: SeriesModels) -> None:
    """Print each doubt once, with the names of its models if it is not one of all models."""
    from hpcjobs.report import tables

    doubts: dict[str, list[str]] = {}
    for fitted in series.models:
        if why := tables.doubt(fitted):
            doubts.setdefault(why, []).append(fitted.name)
    for why, models in doubts.items():
        _talk(series, "" if len(models) == len(series.models) else f"model {' and '.join(models)}", why)
