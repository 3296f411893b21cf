"""Run folders, and real ranks under mpirun."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from hpcjobs.base import contract
from hpcjobs.base.contract import RunConfig
from hpcjobs.config import to_builtins
from hpcjobs.trainers.chexnet_keys import ChexnetExperiment

# Longer than any of these runs takes on a machine that is busy with other work: it ends a test that hangs.
HANGS_S = 550  # Less than a watchdog's 10 minutes: a run that only the watchdog ends counts as one that hangs.


def run_config(**changes: Any) -> RunConfig:
    """A run.yaml of one rank on one CPU of one node, but for `changes`."""
    plain: dict[str, Any] = {
        **{"sweep": "test", "run": "r", "params": "", "repeat": 1, "seed": 3, "gpus": 1, "nodes": 1},
        **{"tasks_per_node": 1, "cpus_per_task": 1, "device": "cpu", "data_dir": "/data", "experiment": {}},
    }
    return RunConfig(**plain | changes)


def make_run(folder: Path, data: Path, /, *, gpus: int, mode: str = "train", **changes: Mapping[str, Any]) -> Path:
    """A run folder with an attempt a001; its run.yaml. `changes` override sections of a demo-like experiment."""
    sections: dict[str, dict[str, Any]] = {
        "model": {"name": "densenet_tiny"},
        "data": {"dir": str(data), "shuffle": 64, "repeat": True},
        "batch": {"local": 4},
        "train": {"epochs": 1, "steps": 40},
        "measure": {"warmup_steps": 7, "window_steps": 5},
    }
    for section, values in changes.items():
        sections[section] = sections.get(section, {}) | dict(values)
    experiment = to_builtins(msgspec.convert({"name": "test", "mode": mode, **sections}, ChexnetExperiment))
    (folder / "a001").mkdir(parents=True)
    config = run_config(run=folder.name, gpus=gpus, tasks_per_node=gpus, data_dir=str(data), experiment=experiment)
    (folder / "run.yaml").write_text(contract.dump_run(config))
    return folder / "run.yaml"


@dataclasses.dataclass
class Outcome:
    """What a launched job left."""

    rc: int
    stdout: str
    stderr: str
    attempt: Path

    @property
    def errors(self) -> list[str]:
        return [line for line in self.stderr.splitlines() if line.startswith(contract.ERROR_PREFIX)]

    @property
    def aborts(self) -> dict[str, Any]:
        return {path.name: json.loads(path.read_text()) for path in self.attempt.glob("abort-*")}


def command(ranks: int, program: Sequence[str | Path]) -> list[str]:
    """Start `program`, arguments of Python, on `ranks` ranks of this machine."""
    return [
        *("mpirun", "--oversubscribe", "--bind-to", "none", "-np", str(ranks)),
        *(sys.executable, *map(str, program)),
    ]


def environment() -> dict[str, str]:
    return os.environ | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


def train(run_yaml: Path, ranks: int, program: Sequence[str | Path] = ("-m", "hpcjobs.chexnet.train")) -> Outcome:
    """Run the trainer, or a program with its arguments, to its end."""
    attempt = run_yaml.parent / "a001"
    done = subprocess.run(
        command(ranks, [*program, run_yaml, "--attempt", attempt]),
        capture_output=True,
        text=True,
        timeout=HANGS_S,
        env=environment(),
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr, attempt)


def read_log(attempt: Path) -> list[dict[str, Any]]:
    """The events of train.log."""
    lines = (attempt / contract.TRAIN_LOG).read_text().splitlines()
    assert all(line.startswith(":::MLLOG ") for line in lines)
    return [json.loads(line.removeprefix(":::MLLOG ")) for line in lines]
