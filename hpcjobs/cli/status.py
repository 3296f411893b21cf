"""`hpcjobs status` and `hpcjobs cancel`."""

from __future__ import annotations

from pathlib import Path

import click

from hpcjobs.cli import show
from hpcjobs.engine import follow
from hpcjobs.engine import sweep as sweeps


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def status(ctx: click.Context, folder: Path, as_json: bool) -> None:
    """Show every run of the sweep in FOLDER. Exit code 1 where one failed. Writes nothing."""
    runs = follow.snapshot(sweeps.load(folder), show.talk)
    show.print_status(runs, as_json)
    ctx.exit(show.code(runs))


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("runs", nargs=-1)
def cancel(folder: Path, runs: tuple[str, ...]) -> None:
    """End the sweep in FOLDER, or only the named RUNS of it."""
    ended = follow.cancel(sweeps.load(folder), runs)
    show.talk(f"cancelled {len(ended)} run(s)" if ended else "nothing to cancel: no run is pending or running")
    for name in ended:
        click.echo(name)
