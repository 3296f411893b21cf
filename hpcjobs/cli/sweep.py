"""`hpcjobs sweep`."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from pathlib import Path

import click

from hpcjobs import plan as planning
from hpcjobs import profiles, rundir
from hpcjobs.cli import show
from hpcjobs.cli.data import quiet_tensorflow
from hpcjobs.engine import submit
from hpcjobs.engine import sweep as sweeps
from hpcjobs.errors import HpcjobsError, InputError
from hpcjobs.plan import Plan
from hpcjobs.schedulers import slurm
from hpcjobs.spec import Cluster, Experiment

DEMO = "demo"
DEMO_IMAGES = 512
DEMO_SIZE = 64


@click.command()
@click.option("--gpus", metavar="LIST", help="GPU counts, such as 1,2,4,8,16.")
@click.option("--experiment", default="chexnet", show_default=True, metavar="NAME|FILE", help="What to train.")
@click.option("--cluster", metavar="NAME|FILE", help="Where to run: a profile of `hpcjobs cluster list`, or local.")
@click.option("--repeats", type=click.IntRange(min=1), help="Runs of each point.  [default: the experiment's]")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=V1,V2", help="Override a key; two or more values are swept."
)
@click.option(
    "--from", "source", type=click.Path(path_type=Path), metavar="FILE", help="Repeat the sweep of this sweep.yaml."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Sweep folder.  [default: sweeps/EXPERIMENT-DATE-TIME]",
)
@click.option("--dry-run", is_flag=True, help="Print plan and scripts; write and submit nothing.")
@click.option("--wait", is_flag=True, help="Follow the runs and end with the table.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def sweep(
    ctx: click.Context,
    gpus: str | None,
    experiment: str,
    cluster: str | None,
    repeats: int | None,
    settings: tuple[str, ...],
    source: Path | None,
    out: Path | None,
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
        given = [name for name in ("gpus", "experiment", "cluster", "repeats", "settings") if _was_given(ctx, name)]
        if given:
            flag = {"settings": "set"}.get(given[0], given[0])
            raise InputError(f"--from repeats a sweep as it was: leave out --{flag}")
        _, plan = sweeps.plan_of(source)
    else:
        plan = _plan(gpus, experiment, cluster, repeats, settings)
    name = plan.variants[0].experiment.name
    root = (out or Path("sweeps") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}").absolute()
    new = sweeps.Sweep(rundir.new_sweep_id(), rundir.SweepDir(root), plan)
    demo_data = _data_or_demo(plan)
    rundir.is_free(root)
    scripts = submit.scripts(new)
    if dry_run:
        _print_plan(new, scripts, as_json)
        return
    show.plan(new)
    submit.write_folder(new, scripts, ["hpcjobs", *sys.argv[1:]])
    if demo_data:
        quiet_tensorflow()
        from hpcjobs.data.build import make
        from hpcjobs.data.synth import synth_recipe

        make(synth_recipe(images=DEMO_IMAGES, size=DEMO_SIZE), new.where.data)
    jobs: dict[str, str] = {}
    try:
        submit.submit_all(new, lambda group, job: jobs.update({group.name: job}))
    except HpcjobsError:
        if jobs:
            folder = show.shorten(root)
            show.talk(
                f"submitted before that: {', '.join(jobs)}; `hpcjobs status {folder}` follows, `cancel` ends them"
            )
        raise
    if not wait:
        if as_json:
            click.echo(json.dumps({"sweep": new.id, "out": str(root), "jobs": jobs}))
        else:
            folder = show.shorten(root)
            show.talk(
                f"submitted {len(jobs)} job(s); `hpcjobs status {folder}` follows, `hpcjobs report {folder}` reports"
            )
            click.echo(folder)
        return
    ctx.exit(show.wait_and_report(new, as_json))


def _was_given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT


def _plan(
    gpus: str | None, experiment: str, cluster: str | None, repeats: int | None, settings: tuple[str, ...]
) -> Plan:
    if gpus is None:
        raise InputError("--gpus is missing: give GPU counts such as --gpus 1,2,4,8,16")
    counts = planning.parse_gpus(gpus)
    variants = planning.expand(profiles.read(Experiment, experiment), settings)
    return planning.make_plan(counts, variants, _cluster(cluster), repeats or variants[0].experiment.repeats)


def _cluster(name: str | None) -> Cluster:
    if name is None:
        name = profiles.default_cluster()
    if name is None and slurm.answers():
        raise InputError(
            "Slurm answers here, but no profile is named: give --cluster NAME (`hpcjobs cluster list`), "
            "or --cluster local to compute on this machine"
        )
    if name is None:
        show.talk("no --cluster given and no default profile: running on this machine (--cluster local)")
        name = "local"
    return profiles.cluster(name)


def _data_or_demo(plan: Plan) -> bool:
    """Whether the demo's made-up data are to be made. Raises InputError where data are missing."""
    if any(variant.experiment.data.dir is None for variant in plan.variants):
        name = plan.variants[0].experiment.name
        if name != DEMO:
            raise InputError(
                f"experiment '{name}' needs data: make shards with `hpcjobs data prepare --out DIR ...` "
                "(or `hpcjobs data synth --out DIR`), then give --set data.dir=DIR"
            )
        if importlib.util.find_spec("tensorflow") is None:
            raise InputError("the demo trains here and needs the compute half: pip install 'hpcjobs[train]'")
        return True
    for folder in {variant.experiment.data.dir for variant in plan.variants}:
        # It may be visible on the compute nodes only: a warning, not an error.
        if folder is not None and not (Path(folder) / "dataset.json").is_file():
            show.talk(f"warning: no dataset.json in {folder} as seen from here; the runs need it where they run")
    return False


def _print_plan(new: sweeps.Sweep, scripts: dict[str, str], as_json: bool) -> None:
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
        click.echo(json.dumps({"out": str(new.where.root), "runs": runs, "scripts": scripts}))
        return
    show.plan(new, to_stdout=True)
    for name, text in scripts.items():
        click.echo(f"\n==> {new.where.script(name)} <==\n{text}", nl=False)
