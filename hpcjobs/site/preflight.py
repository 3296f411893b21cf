"""The check of a compute node, as a job of `hpcjobs check` or ahead of a sweep's jobs (`sweep --preflight`)."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

from hpcjobs.base import contract
from hpcjobs.base.contract import FAILURE, Finding
from hpcjobs.base.errors import HpcjobsError
from hpcjobs.base.files import read_json, write_atomic, write_json
from hpcjobs.base.records import Order
from hpcjobs.jobs import render
from hpcjobs.jobs.group import Group
from hpcjobs.plan.planning import Plan, size_of
from hpcjobs.schedulers import Scheduler
from hpcjobs.site import check, check_job
from hpcjobs.site.check_job import CheckJob
from hpcjobs.trainers import NodeCheck
from hpcjobs.trainers.registry import trainer_of

NAME = "hpcjobs-check"
# The folder of a preflight in a sweep's folder.
FOLDER = "preflight"
_MINUTES = 10


class PreflightFailed(HpcjobsError):
    """The check of a node found a fault that would make the runs fail."""


def write_script(plan: Plan, folder: Path) -> Path:
    """Write the job's script and its request into the absolute `folder`; returns the script's path."""
    check_of = _node_check(plan, folder)
    write_json(folder / contract.CHECK_REQUEST, {"token": uuid.uuid4().hex, **check_of.request})
    for name in check_of.files:
        write_atomic(folder / name, render.support_file(name))
    script = script_path(folder)
    write_atomic(script, script_text(plan, folder))
    return script


def script_path(folder: Path) -> Path:
    """The path of the script in such a folder."""
    return folder / f"{NAME}.sbatch"


def script_text(plan: Plan, folder: Path) -> str:
    """The text of the script. Raises InputError if it cannot be rendered."""
    one = Group("check", size_of(1, plan.cluster), tuple(plan.runs))
    return render.probe_job(one, plan.cluster, NAME, folder, _node_check(plan, folder).command, _MINUTES)


def _node_check(plan: Plan, folder: Path) -> NodeCheck:
    experiments = [variant.experiment for variant in plan.variants]
    trainer = trainer_of(experiments[0])
    return trainer.node_check(experiments, plan.cluster, plan.groups[-1].size.gpus, folder)


def answers(job: CheckJob, folder: Path) -> Iterator[Finding]:
    """What the job found."""
    token = (read_json(folder / contract.CHECK_REQUEST) or {}).get("token", "")
    return check.answers(job, folder, NAME, token, socket.gethostname())


def submit(plan: Plan, root: Path, scheduler: Scheduler) -> str:
    """Submit the check ahead of the sweep in `root`; returns the job id. Raises SubmitRefused, SchedulerUnreachable."""
    folder = root / FOLDER
    folder.mkdir()
    return scheduler.submit(write_script(plan, folder), [0], NAME, Order())


def run_here(plan: Plan, root: Path) -> None:
    """Run the check ahead of the sweep in `root` on this machine, and wait for it. Raises PreflightFailed."""
    folder = root / FOLDER
    folder.mkdir()
    job = check_job.run_here(folder, write_script(plan, folder), NAME, 60.0 * _MINUTES)
    if faults := [each for each in answers(job, folder) if each.state == FAILURE]:
        raise PreflightFailed("; ".join(f"{each.check}: {each.message}: {each.remedy}" for each in faults))


def failures(root: Path) -> list[str]:
    """The faults that the preflight of the sweep in `root` found, a line each; [] without faults or preflight."""
    folder = root / FOLDER
    if not (folder / check_job.CLOCK).exists():
        return []
    about = read_json(folder / contract.CHECK_NODE)
    if about is None:
        return [f"preflight: the job has not described its node: {check_job.last_line(folder, NAME)}"]
    found = [Finding(*each) for each in about["findings"]]
    return [f"preflight: {each.check}: {each.message}: {each.remedy}" for each in found if each.state == FAILURE]
