"""`hpcjobs collect` and `hpcjobs report`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from hpcjobs import collect as collector
from hpcjobs.cli import show
from hpcjobs.engine import follow
from hpcjobs.engine import sweep as sweeps


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the runs as JSON.")
@click.pass_context
def collect(ctx: click.Context, folder: Path, as_json: bool) -> None:
    """Read the logs of the sweep in FOLDER into report/runs.csv and report/auc.csv."""
    sweep = sweeps.load(folder)
    runs = show.collected(sweep, follow.snapshot(sweep, show.talk))
    click.echo(json.dumps([run.row() for run in runs]) if as_json else collector.runs_csv(runs), nl=as_json)
    ctx.exit(_nothing_measured(any(run.images_per_sec is not None for run in runs)))


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
@click.pass_context
def report(ctx: click.Context, folder: Path, as_json: bool) -> None:
    """Collect the sweep in FOLDER, then write report/scaling-report.csv and the figures."""
    sweep = sweeps.load(folder)
    rows, files = show.reported(sweep, follow.snapshot(sweep, show.talk))
    show.print_rows(rows, files, as_json)
    ctx.exit(_nothing_measured(any(row.images_per_sec is not None for row in rows)))


def _nothing_measured(measured: bool) -> int:
    if not measured:
        show.talk("no run has a measurement yet")
    return int(not measured)
