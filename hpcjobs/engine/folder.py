"""Writes a sweep's folder: scripts, run.yaml of every run, provenance, sweep.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hpcjobs.base import contract, sweepdir
from hpcjobs.base.contract import RunConfig, dump_runs
from hpcjobs.base.files import write_atomic, write_json, write_new
from hpcjobs.base.provenance import provenance
from hpcjobs.config import dump, to_builtins
from hpcjobs.engine.sweep import Sweep, to_yaml
from hpcjobs.jobs import render
from hpcjobs.jobs.render import COLLECTOR
from hpcjobs.plan.planning import PlannedRun


def scripts(sweep: Sweep) -> dict[str, str]:
    """The text of every script, by group. Raises InputError where one cannot be rendered."""
    plan, root = sweep.plan, sweep.where.root
    texts = {group.name: render.script(group, plan.cluster, sweep.id, root) for group in plan.groups}
    if plan.allocation is not None:
        texts[plan.allocation.name] = render.allocation(plan.allocation, plan.cluster, sweep.id, root)
    if sweep.collects:
        texts[COLLECTOR] = render.collector(plan.cluster, sweep.id, root)
    return texts


def _run_config(sweep: Sweep, run: PlannedRun, builtins: Mapping[str, Any]) -> RunConfig:
    experiment = run.variant.experiment
    return RunConfig(
        sweep=sweep.id,
        run=run.name,
        params=run.variant.params,
        repeat=run.repeat,
        seed=experiment.seed + run.repeat - 1,
        gpus=run.size.gpus,
        nodes=run.size.nodes,
        tasks_per_node=run.size.tasks_per_node,
        cpus_per_task=sweep.plan.cluster.cpus_per_gpu,
        device=sweep.plan.cluster.device,
        data_dir=experiment.data.dir or str(sweep.where.data),
        experiment=builtins,
    )


def run_configs(sweep: Sweep) -> dict[str, RunConfig]:
    """What run.yaml of each planned run holds, by the run's name, in the order of the plan."""
    builtins = {variant.params: to_builtins(variant.experiment) for variant in sweep.plan.variants}
    return {run.name: _run_config(sweep, run, builtins[run.variant.params]) for run in sweep.plan.runs}


def write_folder(sweep: Sweep, rendered: Mapping[str, str], command: list[str]) -> None:
    """Write everything but the journal. sweep.yaml comes last: a folder that has one is whole.

    Raises InputError where a sweep is there already or the folder cannot be made, OSError where the disk says no.
    """
    where = sweep.where
    sweepdir.begin(where.root)
    for folder in (where.scripts, where.slurm, where.runs):
        folder.mkdir()
    files = {where.script(name): text for name, text in rendered.items()}
    for group in sweep.plan.groups:
        files[where.script(group.name).with_suffix(".runs")] = "".join(f"{run.name}\n" for run in group.runs)
    if sweep.plan.allocation is not None:
        places = {run.name: (group.name, i) for group in sweep.plan.groups for i, run in enumerate(group.runs)}
        lines = "".join("{} {} {}\n".format(run.name, *places[run.name]) for run in sweep.plan.allocation.runs)
        files[where.script(sweep.plan.allocation.name).with_suffix(".runs")] = lines
    configs = run_configs(sweep)
    for name, text in zip(configs, dump_runs(configs.values()), strict=True):
        where.run(name).mkdir()
        files[where.run(name) / contract.RUN_YAML] = text
    write_new(files)
    write_json(where.provenance, provenance(command, to_builtins(sweep.plan.cluster)))
    write_atomic(where.sweep_yaml, dump(to_yaml(sweep.id, sweep.plan)))
    (where.root / sweepdir.UNFINISHED).unlink()
