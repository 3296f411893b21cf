"""`hpcjobs status`, `hpcjobs resume` and `hpcjobs cancel`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from hpcjobs.base.records import RunState
from hpcjobs.cli import names, show, show_runs
from hpcjobs.cli.show_report import wait_and_report
from hpcjobs.site import preflight
from hpcjobs.study import open_study


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), shell_complete=names.sweeps)
@click.option("--watch", is_flag=True, help="Follow until every run has ended, or Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def status(ctx: click.Context, folder: Path, watch: bool, as_json: bool) -> None:
    """Show every run of the sweep in FOLDER; of more than 200 counts, and why runs failed.

    Exit code 1 if one failed. Writes nothing.
    """
    study = open_study(folder, tell=show.talk)
    runs = show_runs.wait(study) if watch else study.status()
    show_runs.print_status(runs, as_json)
    if any(run.state is RunState.CANCELLED for run in runs):
        for line in preflight.failures(study.folder):
            show.talk(line)
    ctx.exit(show_runs.exit_code(runs))


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), shell_complete=names.sweeps)
@click.option("--retryable", is_flag=True, help="Only missing runs, and failures that the profile's `retry` names.")
@click.option("--wait", is_flag=True, help="Follow the runs and end with the table.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def resume(ctx: click.Context, folder: Path, retryable: bool, wait: bool, as_json: bool) -> None:
    """Resume the sweep in FOLDER: submit runs that failed, were cancelled or are missing, none that has a result."""
    study = open_study(folder, tell=show.talk)
    done = study.resume(retryable=retryable)
    where = show.shorten(study.folder)
    if done.adopted:
        show.talk(f"adopted jobs that were submitted but not recorded: {' '.join(done.adopted)}")
    if done.runs:
        show.talk(f"submitted {len(done.runs)} run(s); `hpcjobs status {where}` follows them")
    else:
        show.talk("nothing to submit: every run has a result or is under way")
    if wait:
        ctx.exit(wait_and_report(study, as_json))
    if as_json:
        click.echo(json.dumps({"adopted": done.adopted, "runs": done.runs}))
    else:
        for name in done.runs:
            click.echo(name)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), shell_complete=names.sweeps)
@click.argument("runs", nargs=-1, shell_complete=names.runs)
def cancel(folder: Path, runs: tuple[str, ...]) -> None:
    """End the sweep in FOLDER, or only the named RUNS of it."""
    ended = open_study(folder, tell=show.talk).cancel(runs or None)
    show.talk(f"cancelled {len(ended)} run(s)" if ended else "nothing to cancel: no run is pending or running")
    for name in ended:
        click.echo(name)
