"""What `hpcjobs check` asks a compute node, as a job of its own or ahead of a sweep's."""

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
from hpcjobs.chexnet.classes import IMAGENET_FILE
from hpcjobs.jobs import render
from hpcjobs.jobs.group import Group
from hpcjobs.plan.planning import Plan, size_of
from hpcjobs.schedulers import Scheduler
from hpcjobs.site import check as checks
from hpcjobs.site.check import Job

NAME = "hpcjobs-check"
# Of a sweep's folder.
FOLDER = "preflight"
_MINUTES = 10


class Unfit(HpcjobsError):
    """The runs would fail."""


def request(plan: Plan) -> dict[str, object]:
    """What the node is asked for."""
    experiments = [variant.experiment for variant in plan.variants]
    cached = str(Path("~/.keras/models") / IMAGENET_FILE)
    wanted = {each.model.weights for each in experiments} - {"none"}
    return {
        "token": uuid.uuid4().hex,
        "device": plan.cluster.device,
        "launcher": plan.cluster.launcher,
        "gpus": plan.groups[-1].size.gpus,
        "data": sorted({each.data.dir for each in experiments if each.data.dir}),
        "weights": sorted(cached if each == "imagenet" else each for each in wanted),
    }


def written(plan: Plan, folder: Path) -> Path:
    """The script that asks a node, written beside the question into an absolute `folder`."""
    write_json(folder / contract.CHECK_REQUEST, request(plan))
    script = script_in(folder)
    write_atomic(script, text(plan, folder))
    return script


def script_in(folder: Path) -> Path:
    """The script's name in such a folder."""
    return folder / f"{NAME}.sbatch"


def text(plan: Plan, folder: Path) -> str:
    """The script's text. Raises InputError where it cannot be rendered."""
    one = Group("check", size_of(1, plan.cluster), tuple(plan.runs))
    return render.errand(one, plan.cluster, NAME, folder, ["-m", "hpcjobs.chexnet.node_check", str(folder)], _MINUTES)


def answers(job: Job, folder: Path) -> Iterator[Finding]:
    """What the job found."""
    token = (read_json(folder / contract.CHECK_REQUEST) or {}).get("token", "")
    return checks.answers(job, folder, NAME, token, socket.gethostname())


def submit(plan: Plan, root: Path, scheduler: Scheduler) -> str:
    """Submit the check ahead of the sweep in `root`; its job's id. Raises SubmitRefused, SchedulerUnreachable."""
    folder = root / FOLDER
    folder.mkdir()
    return scheduler.submit(written(plan, folder), [0], NAME, Order())


def here(plan: Plan, root: Path) -> None:
    """The same on this machine, at once. Raises Unfit."""
    folder = root / FOLDER
    folder.mkdir()
    job = checks.run_here(folder, written(plan, folder), NAME, 60.0 * _MINUTES, lambda text: None)
    if wrong := [each for each in answers(job, folder) if each.state == FAILURE]:
        raise Unfit("; ".join(f"{each.check}: {each.message}: {each.remedy}" for each in wrong))


def said(root: Path) -> list[str]:
    """Why the check ahead of a sweep failed, in lines; none where it did not, or there was none."""
    folder = root / FOLDER
    if not (folder / checks.CLOCK).exists():
        return []
    about = read_json(folder / contract.CHECK_NODE)
    if about is None:
        return [f"preflight: it has not said what its node has: {checks.last_line(folder, NAME)}"]
    found = [Finding(*each) for each in about["findings"]]
    return [f"preflight: {each.check}: {each.message}: {each.remedy}" for each in found if each.state == FAILURE]
