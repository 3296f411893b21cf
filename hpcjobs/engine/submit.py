"""Writes a sweep's folder and hands its scripts to the scheduler."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import yaml

from hpcjobs import contract, render, rundir
from hpcjobs.contract import RunConfig, dump_run
from hpcjobs.engine.sweep import Sweep, to_yaml
from hpcjobs.errors import InputError, SubmitRefused
from hpcjobs.files import write_atomic, write_json
from hpcjobs.plan import Group, PlannedRun
from hpcjobs.provenance import provenance
from hpcjobs.spec import to_builtins


def scripts(sweep: Sweep) -> dict[str, str]:
    """The text of every script, by group. Raises InputError where one cannot be rendered."""
    return {
        group.name: render.script(group, sweep.plan.cluster, sweep.id, sweep.where.root) for group in sweep.plan.groups
    }


def run_config(sweep: Sweep, run: PlannedRun) -> RunConfig:
    """The `run.yaml` of one run."""
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
        experiment=to_builtins(experiment),
    )


def write_folder(sweep: Sweep, rendered: Mapping[str, str], command: list[str]) -> None:
    """Write everything but the journal. sweep.yaml comes last: a folder that has one is whole.

    Raises InputError where a sweep is there already or the folder cannot be made, OSError where the disk says no.
    """
    where = sweep.where
    rundir.is_free(where.root)
    try:
        for folder in (where.scripts, where.slurm, where.runs):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {where.root}: cannot be made: {error.strerror}") from None
    for group in sweep.plan.groups:
        write_atomic(where.script(group.name), rendered[group.name])
        write_atomic(where.script(group.name).with_suffix(".runs"), "".join(f"{run.name}\n" for run in group.runs))
        for run in group.runs:
            folder = where.run(run.name)
            (folder / contract.CHECKPOINTS).mkdir(parents=True)
            write_atomic(folder / contract.RUN_YAML, dump_run(run_config(sweep, run)))
    write_json(where.provenance, provenance(command, to_builtins(sweep.plan.cluster)))
    write_atomic(where.sweep_yaml, yaml.safe_dump(to_yaml(sweep.id, sweep.plan), sort_keys=False, allow_unicode=True))


def submit_all(sweep: Sweep, told: Callable[[Group, str], None]) -> None:
    """Submit every group as one array; `told(group, job)` after each.

    The journal has the intention before each call and the job id after it. Raises SubmitRefused or
    SchedulerUnreachable; what was submitted before stays so.
    """
    scheduler = sweep.scheduler
    with rundir.locked(sweep.where):
        for group in sweep.plan.groups:
            indices = list(range(len(group.runs)))
            name = render.job_name(sweep.id, group.name)
            rundir.append(sweep.where, "submitting", group=group.name, indices=indices, name=name)
            try:
                job = scheduler.submit(sweep.where.script(group.name), indices, name)
            except SubmitRefused as error:
                rundir.append(sweep.where, "refused", group=group.name, indices=indices, said=str(error))
                raise
            rundir.append(sweep.where, "submitted", group=group.name, indices=indices, job=job)
            told(group, job)
