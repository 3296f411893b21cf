"""`hpcjobs sweep`."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from hpcjobs.base import sweepdir
from hpcjobs.base.errors import HpcjobsError, InputError, SchedulerUnreachable, SubmitRefused
from hpcjobs.base.files import shown
from hpcjobs.cli import names, profile_flags, show
from hpcjobs.config import Cluster, Experiment, profiles
from hpcjobs.engine import folder, submit
from hpcjobs.engine import sweep as sweeps
from hpcjobs.plan import planning
from hpcjobs.plan.estimate import Estimate, UserLimit, estimate, site_limits
from hpcjobs.plan.planning import Plan, Terms
from hpcjobs.report import build
from hpcjobs.schedulers.slurm import slurm_scheduler
from hpcjobs.schedulers.slurm.commands import Refused
from hpcjobs.site import preflight
from hpcjobs.trainers import chexnet

# What `hpcjobs check` takes, too.
experiment_option = click.option(
    "--experiment",
    default="chexnet",
    show_default=True,
    metavar="NAME|FILE",
    shell_complete=names.experiments,
    help="What to train.",
)
cluster_option = click.option(
    "--cluster",
    metavar="NAME|FILE",
    shell_complete=names.clusters,
    help="Where to run: a profile of `hpcjobs cluster list`, or local.",
)


def settings_option(text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`--set`, of which --help says `text`."""
    return click.option(
        "--set", "settings", multiple=True, metavar="KEY=V1,V2", shell_complete=names.settings, help=text
    )


@click.command()
@click.option("--gpus", metavar="LIST", help="GPU counts, such as 1,2,4,8,16.")
@experiment_option
@cluster_option
@click.option("--repeats", type=click.IntRange(min=1), help="Runs of each point.  [default: the experiment's]")
@settings_option("Override a key; two or more values are swept.")
@click.option(
    "--from", "source", type=click.Path(path_type=Path), metavar="FILE|DIR", help="Repeat the sweep of this sweep.yaml."
)
@click.option(
    "--throttle", type=click.IntRange(min=1), metavar="N", help="At most N runs of a size at a time; on local, of all."
)
@click.option("--one-allocation", is_flag=True, help="Run everything in one job of the largest size, repeats in turn.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Sweep folder.  [default: sweeps/EXPERIMENT-DATE-TIME]",
)
@click.option(
    "--preflight", "checked", is_flag=True, help="The runs wait for a job that asks a node what `hpcjobs check` does."
)
@click.option("--dry-run", is_flag=True, help="Print plan and scripts; write and submit nothing.")
@click.option("--wait", is_flag=True, help="Follow the runs and end with the table.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@profile_flags.options
@click.pass_context
def sweep(
    ctx: click.Context,
    daily_flags: profile_flags.Flags,
    gpus: str | None,
    experiment: str,
    cluster: str | None,
    repeats: int | None,
    settings: tuple[str, ...],
    source: Path | None,
    throttle: int | None,
    one_allocation: bool,
    out: Path | None,
    checked: bool,
    dry_run: bool,
    wait: bool,
    as_json: bool,
) -> None:
    """Submit one training per GPU count and repeat, and say where to look.

    \b
    hpcjobs sweep --gpus 1,2,4 --experiment demo --cluster local --wait
    hpcjobs sweep --gpus 1,2,4,8,16 --cluster c4140 --set data.dir=/scratch/chestxray14
    """
    if source is not None:
        flags = (
            "gpus",
            "experiment",
            "cluster",
            "repeats",
            "settings",
            "throttle",
            "one_allocation",
            *profile_flags.NAMES,
        )
        given = [name for name in flags if _was_given(ctx, name)]
        if given:
            flag = {"settings": "set"}.get(given[0], given[0]).replace("_", "-")
            raise InputError(f"--from repeats a sweep as it was: leave out --{flag}")
        _, plan = sweeps.plan_of(source)
        profile = plan.cluster
        user_limit = UserLimit(profile)
        limits, unknown = site_limits(profile)
    else:
        if throttle and one_allocation:
            raise InputError("--throttle and --one-allocation: one job runs one run after another; give one of them")
        profile = daily_flags.applied_to(chosen_cluster(cluster, daily_flags.keys.get("partition")))
        user_limit = UserLimit(profile)
        limits, unknown = site_limits(profile)
        plan = plan_of(gpus, experiment, profile, repeats, settings, Terms(throttle, limits.max_array, one_allocation))
    name = plan.variants[0].experiment.name
    root = (out or Path("sweeps") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}").absolute()
    new = sweeps.Sweep(sweepdir.new_sweep_id(), sweepdir.SweepDir(root), plan)
    chexnet.check_data(plan)
    sweepdir.is_free(root)
    scripts = folder.scripts(new)
    ahead = {preflight.FOLDER: preflight.text(plan, root / preflight.FOLDER)} if checked else {}
    if dry_run:
        _print_plan(new, ahead, scripts, estimate(new, scripts, user_limit.added_to(limits)), as_json)
        return
    if unknown:
        raise SchedulerUnreachable(unknown)
    folder.write_folder(new, scripts, ["hpcjobs", *sys.argv[1:]])
    show.plan(new, estimate(new, scripts, user_limit.added_to(limits)))
    jobs = _submit(new, checked)
    if not wait:
        if as_json:
            click.echo(json.dumps({"sweep": new.id, "out": str(root), "jobs": jobs}))
        else:
            where = show.shorten(root)
            show.talk(f"submitted {len(jobs)} job(s); see `hpcjobs status {where}`, then `hpcjobs report {where}`")
            click.echo(shown(root))
        return
    ctx.exit(build.wait_and_report(new, as_json))


def _submit(new: sweeps.Sweep, checked: bool) -> dict[str, str]:
    """Make up data and submit everything, `checked` behind a check; where all is refused, nothing is left."""
    jobs: dict[str, str] = {}
    first: tuple[str, ...] = ()
    where = show.shorten(new.where.root)
    try:
        chexnet.make_data(new)
        if checked and new.plan.cluster.scheduler == "slurm":
            first = (preflight.submit(new.plan, new.where.root, new.scheduler),)
            show.talk(f"job {first[0]} checks a node first; where it fails the others are cancelled")
        elif checked:
            preflight.here(new.plan, new.where.root)
        submit.submit_all(new, jobs, show.talk, after_ok=first)
    except (SubmitRefused, preflight.Unfit):
        if not jobs:
            if first:
                new.scheduler.cancel(first)
            shutil.rmtree(new.where.root)
            raise
        show.talk(f"submitted before that: {', '.join(jobs)}; `hpcjobs resume {where}` submits the rest")
        raise
    except (HpcjobsError, OSError, KeyboardInterrupt):
        show.talk(f"interrupted before all was submitted; `hpcjobs resume {where}` goes on, and submits nothing twice")
        raise
    return jobs


def _was_given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT


def plan_of(
    gpus: str | None,
    experiment: str,
    cluster: Cluster,
    repeats: int | None,
    settings: tuple[str, ...],
    terms: Terms,
) -> Plan:
    if gpus is None:
        raise InputError("--gpus is missing: give GPU counts such as --gpus 1,2,4,8,16")
    counts = planning.parse_gpus(gpus)
    variants = planning.expand(profiles.read(Experiment, experiment), settings)
    return planning.make_plan(counts, variants, cluster, repeats or variants[0].experiment.repeats, terms)


def chosen_cluster(name: str | None, partition: str | None = None) -> Cluster:
    """The profile that was named, else the default one, else what Slurm says of a partition, else this machine's."""
    if name is None:
        name = profiles.default_cluster()
    if name is None and slurm_scheduler.answers():
        return _detected(partition)
    if name is None:
        show.talk("no --cluster given and no default profile: running on this machine (--cluster local)")
        name = "local"
    return profiles.cluster(name)


def _detected(partition: str | None) -> Cluster:
    from hpcjobs.site import detect, facts

    try:
        found = detect.detect(facts.ask(), partition)
    except (InputError, Refused) as error:
        raise InputError(
            f"no --cluster given, and none can be found out: {error}; give --cluster NAME (`hpcjobs cluster list`), "
            "or --cluster local to compute on this machine"
        ) from None
    show.talk(
        f"no --cluster given and no default profile: found out partition {found.partition}, {found.described}, to "
        f"compute on {found.device} (`hpcjobs cluster detect` prints the profile; --cluster local: on this machine)"
    )
    return found.cluster


def _print_plan(
    new: sweeps.Sweep, ahead: dict[str, str], scripts: dict[str, str], expected: Estimate, as_json: bool
) -> None:
    """`ahead`: the script of the check that the others wait for, where one was asked for."""
    if as_json:
        runs = [
            {
                "run": run.name,
                "gpus": run.size.gpus,
                "nodes": run.size.nodes,
                "tasks_per_node": run.size.tasks_per_node,
                "params": run.variant.params,
            }
            for run in new.plan.runs
        ]
        costs = {name: dataclasses.asdict(cost) for name, cost in expected.costs.items()}
        plan = {"costs": costs, "rate": expected.source, "starts": expected.starts, "warnings": expected.warnings}
        click.echo(json.dumps({"out": str(new.where.root), "runs": runs, "plan": plan, "scripts": ahead | scripts}))
        return
    show.plan(new, expected, to_stdout=True)
    for name, text in ahead.items():
        click.echo(f"\n==> {preflight.script_in(new.where.root / name)} <==\n{text}", nl=False)
    for name, text in scripts.items():
        click.echo(f"\n==> {new.where.script(name)} <==\n{text}", nl=False)
