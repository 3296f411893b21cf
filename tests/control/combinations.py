"""Every combination of the keys that change a script, and the scripts rendered from them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hpcjobs.config import Cluster, Experiment, profiles
from hpcjobs.config.cluster import Container
from hpcjobs.jobs.group import Group
from hpcjobs.jobs.render import script
from hpcjobs.plan.planning import make_plan, parameter_grid
from hpcjobs.trainers.command_line import document_of

CHOICES: dict[str, tuple[Any, ...]] = {
    "launcher": ("srun", "mpirun", "horovodrun"),
    "container": (
        Container(),
        Container(kind="apptainer", image="/images/a b.sif", mounts=("/opt/x:/x",), options=("--cleanenv",)),
        Container(kind="pyxis", image="registry#image:1", mounts=("/opt/x",), options=("--no-container-mount-home",)),
    ),
    "asked": (
        {"gpu_request": "gres", "gpu_type": "v100"},
        {"gpu_request": "gpus-per-node"},
        {"gpu_request": "none"},
    ),
    "gpus_per_node": (4, None),
    "bind": ("cores", "numa", "none"),
    "device": ("gpu", "cpu"),
    "scheduler": ("slurm", "local"),
    "warned": ({"signal_s": 0}, {"requeues": 0}, {}),
    "sharing": ("exclusive", "shared"),
    "mem_per_gpu_mib": (None, 8000),
}
# What changes the script of a command, besides.
OF_A_COMMAND: dict[str, tuple[Any, ...]] = {
    "launcher": ("srun", "mpirun", "horovodrun", "fork"),
    "container": CHOICES["container"],
    "bind": CHOICES["bind"],
    "site": ({}, {"signal_s": 0}, {"requeues": 0}, {"scheduler": "local"}),
    "start": ("rank", "node", "once"),
    "stop": ((), ("stop.signal=USR1",), ("stop.signal=TERM", "stop.exit_code=3")),
}
# Keys that every combination has.
ALWAYS: dict[str, Any] = {
    "name": "any",
    "cpus_per_gpu": 2,
    "python": "/opt/py thon",
    "time": "30",
    "modules": ("cuda/12", "openmpi"),
    "prologue": "ulimit -l unlimited",
    "env": {"NCCL_IB_HCA": "=mlx5_0:1", "UCX_NET_DEVICES": "mlx5_0:1"},
    "launcher_options": ("--verbose",),
    "sbatch": {"nice": 10, "contiguous": True},
}


def impossible(keys: dict[str, Any]) -> list[tuple[str, str]]:
    """The pairs of keys that exclude each other."""
    pyxis = keys["container"].kind == "pyxis" and keys["launcher"] != "srun"
    binds = keys["launcher"] in ("horovodrun", "fork") and keys["bind"] != "none"
    unbounded = keys["gpu_request"] != "none" and keys["gpus_per_node"] is None
    return [
        pair
        for pair, applies in (
            (("container.kind", "launcher"), pyxis),
            (("launcher", "bind"), binds),
            (("gpu_request", "gpus_per_node"), unbounded),
        )
        if applies
    ]


def combinations() -> Iterator[dict[str, Any]]:
    """The keys of each combination, possible or not."""
    for values in itertools.product(*CHOICES.values()):
        keys = dict(zip(CHOICES, values, strict=True))
        yield {**ALWAYS, **keys.pop("warned"), **keys.pop("asked"), **keys}


def command_combinations() -> Iterator[tuple[dict[str, Any], tuple[str, ...]]]:
    """(the profile's keys, the experiment's settings) of each combination of a command, possible or not."""
    for values in itertools.product(*OF_A_COMMAND.values()):
        keys = dict(zip(OF_A_COMMAND, values, strict=True))
        settings = (f"start={keys.pop('start')}", *keys.pop("stop"))
        yield {**ALWAYS, "gpu_request": "gres", "gpus_per_node": 4, **keys.pop("site"), **keys}, settings


def command_group(cluster: Cluster, settings: Sequence[str], gpus: int = 4) -> Group:
    """The group of two runs of two variants of a command on `gpus` GPUs."""
    command = document_of(["python", "train.py", "--lr={params.lr}", "--at={head}:{port}", "it's"])
    variants = parameter_grid(command, [*settings, "params.lr=1e-4,3e-4", "workdir=/scratch/my code"])
    return make_plan([gpus], variants, cluster, 2).groups[0]


def group_of(cluster: Cluster, gpus: int = 4) -> Group:
    """The group of the runs on `gpus` GPUs."""
    variants = parameter_grid(profiles.read(Experiment, "chexnet"), ["data.dir=/scratch/x rays"])
    return make_plan([gpus], variants, cluster, 2).groups[0]


def text_of(cluster: Cluster, group: Group) -> str:
    """The script of the group on that cluster."""
    return script(group, cluster, "261123120000abcd", Path("/scratch/a study"))
