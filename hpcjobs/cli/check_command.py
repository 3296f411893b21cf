"""`hpcjobs check`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from hpcjobs.base.contract import FAILURE, OK, WARNING, Finding
from hpcjobs.base.errors import SchedulerUnreachable
from hpcjobs.cli import command_flags, profile_flags, show
from hpcjobs.cli.sweep_command import cluster_option, experiment_option, settings_option
from hpcjobs.plan.planning import Terms, parse_gpus
from hpcjobs.site.choose import chosen_cluster
from hpcjobs.site.fitness import check_fitness
from hpcjobs.study import make_plan
from hpcjobs.trainers.registry import DEFAULT

_STYLES = {OK: "green", WARNING: "yellow", FAILURE: "red"}


@click.command(cls=command_flags.TakesCommand)
@click.option("--gpus", metavar="LIST", help="GPU counts of the study.  [default: 1, and all GPUs of a node]")
@experiment_option
@cluster_option
@settings_option("Override a key, as in `hpcjobs sweep`.")
@command_flags.options
@profile_flags.options
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="sweeps",
    show_default=True,
    metavar="DIR",
    help="The folder that will hold the sweeps.",
)
@click.option("--probe", is_flag=True, help="Also measure the fabric, with a job of the largest size.")
@click.option(
    "--probe-seconds", type=click.IntRange(min=5), default=60, show_default=True, help="Seconds to measure the fabric."
)
@click.option(
    "--patience-min",
    type=click.FloatRange(min=0),
    default=10,
    show_default=True,
    help="Minutes to wait for a job to start.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def check(
    ctx: click.Context,
    gpus: str | None,
    experiment: str | None,
    cluster: str | None,
    settings: tuple[str, ...],
    command: command_flags.CommandFlags,
    flags: profile_flags.Flags,
    out: Path,
    probe: bool,
    probe_seconds: int,
    patience_min: float,
    as_json: bool,
) -> None:
    """Check whether a cluster is fit for a study before it is submitted; a short job looks at a compute node.

    Exit code 0: fit, 1: a check failed, 3: Slurm does not answer.

    \b
    hpcjobs check --gpus 1,2,4,8 --start node -- torchrun --nproc-per-node={gpus_per_node} ... train.py
    hpcjobs check --gpus 1,2,4,8,16 --cluster c4140 --set data.dir=/scratch/chestxray14
    """
    profile = flags.applied_to(chosen_cluster(cluster, flags.keys.get("partition"), show.talk))
    counts = parse_gpus(gpus) if gpus else sorted({1, profile.gpus_per_node or 1})
    document = command.document(experiment, DEFAULT, settings)
    fitness = check_fitness(
        make_plan(counts, document, profile, None, [*settings, *command.settings], Terms(), show.talk),
        out,
        patience_min * 60,
        show.talk,
        show=(lambda finding: None) if as_json else _print,
        probe_s=probe_seconds if probe else None,
    )
    if as_json:
        lines = [_json(each) for each in fitness.findings]
        click.echo(json.dumps({"fabric": str(fitness.fabric) if fitness.fabric else None, "findings": lines}))
    ctx.exit(int(not fitness.fit) if fitness.reached else SchedulerUnreachable.exit_code)


def _json(finding: Finding) -> dict[str, str]:
    # Other programs read these keys of version 0.1.
    names = {"message": "said", "remedy": "cure"}
    return {names.get(name, name): value for name, value in dataclasses.asdict(finding).items()}


def _print(finding: Finding) -> None:
    from rich.text import Text

    console = show.terminal()
    line = Text.assemble((f"{finding.state:<8}", _STYLES[finding.state]), f"{finding.check:<11}", finding.message)
    console.print(line, soft_wrap=True)
    if finding.remedy and finding.state != OK:
        console.print(Text(f"{'':<19}-> {finding.remedy}"), soft_wrap=True)
