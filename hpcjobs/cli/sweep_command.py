"""`hpcjobs sweep`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from hpcjobs.base.errors import InputError
from hpcjobs.base.files import shown
from hpcjobs.cli import command_flags, names, profile_flags, show
from hpcjobs.cli.show_report import wait_and_report
from hpcjobs.plan.planning import parse_gpus
from hpcjobs.site.choose import chosen_cluster
from hpcjobs.study import Preparation, prepare, prepare_again
from hpcjobs.trainers.registry import DEFAULT

# Options that `hpcjobs check` shares.
experiment_option = click.option(
    "--experiment",
    metavar="NAME|FILE",
    shell_complete=names.experiments,
    help="What to train, if not COMMAND.  [default: chexnet]",
)
cluster_option = click.option(
    "--cluster",
    metavar="NAME|FILE",
    shell_complete=names.clusters,
    help="Where to run: a profile of `hpcjobs cluster list`, or local.",
)


def settings_option(text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The option `--set`, with `text` as its help."""
    return click.option(
        "--set", "settings", multiple=True, metavar="KEY=V1,V2", shell_complete=names.settings, help=text
    )


@click.command(cls=command_flags.TakesCommand)
@click.option("--gpus", metavar="LIST", help="GPU counts, such as 1,2,4,8,16.")
@experiment_option
@cluster_option
@click.option("--repeats", type=click.IntRange(min=1), help="Runs of each point.  [default: the experiment's]")
@settings_option("Override a key; two or more values are swept.")
@click.option(
    "--from", "source", type=click.Path(path_type=Path), metavar="FILE|DIR", help="Repeat the sweep of this sweep.yaml."
)
@click.option(
    "--throttle",
    type=click.IntRange(min=1),
    metavar="N",
    help="At most N runs of a size at a time; of all sizes on local.",
)
@click.option(
    "--one-allocation", is_flag=True, help="Run everything in one job of the largest size, one run after another."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Sweep folder.  [default: sweeps/EXPERIMENT-DATE-TIME]",
)
@click.option(
    "--preflight",
    "check_node",
    is_flag=True,
    help="First submit a job that checks a node, as `hpcjobs check` does; the runs wait for it.",
)
@click.option("--dry-run", is_flag=True, help="Print plan and scripts; write and submit nothing.")
@click.option("--wait", is_flag=True, help="Follow the runs and end with the table.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@command_flags.options
@profile_flags.options
@click.pass_context
def sweep(
    ctx: click.Context,
    flags: profile_flags.Flags,
    command: command_flags.CommandFlags,
    gpus: str | None,
    experiment: str | None,
    cluster: str | None,
    repeats: int | None,
    settings: tuple[str, ...],
    source: Path | None,
    throttle: int | None,
    one_allocation: bool,
    out: Path | None,
    check_node: bool,
    dry_run: bool,
    wait: bool,
    as_json: bool,
) -> None:
    """Submit one training per GPU count and repeat, and print the folder of the sweep.

    All words after -- are the training command; without one, --experiment says what is trained.

    \b
    hpcjobs sweep --gpus 1,2,4,8 --start node -- torchrun --nproc-per-node={gpus_per_node} ... train.py
    hpcjobs sweep --gpus 1,2,4 --experiment demo --cluster local --wait
    hpcjobs sweep --gpus 1,2,4,8,16 --cluster c4140 --set data.dir=/scratch/chestxray14
    """
    if source is not None:
        _refuse_with_from(ctx, command)
        ready = prepare_again(source, check_node=check_node, out=out, tell=show.talk)
    else:
        if gpus is None:
            raise InputError("--gpus is missing: give GPU counts such as --gpus 1,2,4,8,16")
        ready = prepare(
            parse_gpus(gpus),
            command.document(experiment, DEFAULT, settings),
            cluster=flags.applied_to(chosen_cluster(cluster, flags.keys.get("partition"), show.talk)),
            settings=[*settings, *command.settings],
            repeats=repeats,
            throttle=throttle,
            one_allocation=one_allocation,
            check_node=check_node,
            out=out,
            tell=show.talk,
        )
    if dry_run:
        _print_plan(ready, as_json)
        return
    study, jobs = ready.submit(["hpcjobs", *sys.argv[1:]], show.talk, show.plan)
    if wait:
        ctx.exit(wait_and_report(study, as_json))
    if as_json:
        click.echo(json.dumps({"sweep": study.sweep.id, "out": str(study.folder), "jobs": jobs}))
    else:
        where = show.shorten(study.folder)
        show.talk(f"submitted {len(jobs)} job(s); see `hpcjobs status {where}`, then `hpcjobs report {where}`")
        click.echo(shown(study.folder))


def _refuse_with_from(ctx: click.Context, command: command_flags.CommandFlags) -> None:
    """Raises InputError if a flag or command given with --from would change the sweep that is repeated."""
    if command.words is not None:
        raise InputError("--from repeats a sweep unchanged: leave out the command after --")
    own = ("gpus", "experiment", "cluster", "repeats", "settings", "throttle", "one_allocation")
    for name in (*own, *profile_flags.NAMES, *command_flags.NAMES):
        if ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
            flag = {"settings": "set"}.get(name, name).replace("_", "-")
            raise InputError(f"--from repeats a sweep unchanged: leave out --{flag}")


def _print_plan(ready: Preparation, as_json: bool) -> None:
    expected = ready.estimate()
    if as_json:
        click.echo(json.dumps(ready.as_json(expected)))
        return
    show.plan(ready.sweep, expected, to_stdout=True)
    for path, text in ready.script_files().items():
        click.echo(f"\n==> {path} <==\n{text}", nl=False)
