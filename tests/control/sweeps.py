"""Makes sweep folders for tests, as `hpcjobs sweep` and its jobs leave them, with chosen figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from hpcjobs.base import contract
from hpcjobs.base.metrics import Run
from hpcjobs.base.records import RunState
from hpcjobs.base.sweepdir import SweepDir
from hpcjobs.collect import sweep_runs
from hpcjobs.config import Experiment, profiles
from hpcjobs.engine.folder import scripts, write_folder
from hpcjobs.engine.follow import Readings
from hpcjobs.engine.journal import locked
from hpcjobs.engine.sweep import Sweep, load
from hpcjobs.plan.planning import make_plan, parameter_grid
from hpcjobs.schedulers import factory
from hpcjobs.study import Study
from hpcjobs.trainers.registry import check_run
from tests.control.fake_scheduler import FakeScheduler, Pace
from tests.control.logs import attempt, train_log

EXPERIMENT = {
    "name": "demo",
    "mode": "train",
    "seed": 1,
    "batch": {"local": 4, "global": None, "passes": 1},
    "data": {"dir": "/data"},
    "train": {"steps": 40},
    "measure": {"warmup_steps": 5},
}
CLUSTER = {"gpus_per_node": 4, "cpus_per_gpu": 1, "device": "gpu", "sharing": "exclusive"}


def written(root: Path, sizes: Sequence[int], cluster: str = "local") -> Sweep:
    """A new sweep of one run of each size, as `hpcjobs sweep` writes it before it submits."""
    variants = parameter_grid(profiles.read(Experiment, "demo"), ["data.dir=/data"])
    new = Sweep("id1", SweepDir(root), make_plan(list(sizes), variants, profiles.cluster(cluster), 1))
    write_folder(new, scripts(new), ["hpcjobs"])
    return new


def submitted(new: Sweep) -> SweepDir:
    """One job for each size, 1, 2, ..., stands in the journal."""
    for number, group in enumerate(new.plan.groups, 1):
        append(new.where, "submitting", group=group.name, submission=1, indices=[0], name="n")
        append(new.where, "submitted", group=group.name, submission=1, indices=[0], job=str(number))
    return new.where


def ended(root: Path, sizes: Sequence[int], failed: int, says: str) -> Path:
    """The folder of a sweep after its runs: all measured, but the one of size `failed`, whose log `says` why.

    A step takes 40 ms times the square root of the number of GPUs.
    """
    where = submitted(written(root, sizes))
    for number, gpus in enumerate(sizes, 1):
        good = gpus != failed
        log = train_log(gpus=gpus, batch=4, step_ms=(40.0 * gpus**0.5,)) if good else None
        left = attempt(where.run(f"g{gpus:04d}-r01") / "a001", job=f"{number}_0", rc=0 if good else 1, log=log)
        if not good:
            (left / "job.log").write_text(says)
    return root


def append(where: SweepDir, event: str, **fields: object) -> None:
    """Write one line of a sweep's journal, as a command does."""
    with locked(where) as journal:
        journal.append(event, **fields)


def sweep(folder: Path, sizes: Sequence[int], repeats: int = 1, **cluster: Any) -> SweepDir:
    """A sweep that was planned and submitted at 900 s: one job for each size, 1, 2, ..., and an index for each repeat."""
    where = SweepDir(folder)
    where.runs.mkdir(parents=True)
    data = {
        "version": 1, "sweep": "s", "gpus": list(sizes), "repeats": repeats, "cluster": {**CLUSTER, **cluster},
        "variants": [{"params": "", "experiment": EXPERIMENT}],
    }  # fmt: skip
    where.sweep_yaml.write_text(yaml.safe_dump(data))
    for job, gpus in enumerate(sizes, 1):
        group = f"g{gpus:04d}"
        append(where, "submitting", group=group, submission=1, indices=list(range(repeats)), name="n")
        append(where, "submitted", group=group, submission=1, indices=list(range(repeats)), job=str(job))
        for repeat in range(1, repeats + 1):
            name = f"{group}-r{repeat:02d}"
            where.run(name).mkdir()
            (where.run(name) / contract.RUN_YAML).write_text(contract.dump_run(_config(name)))
    lines = [json.loads(line) for line in where.journal.read_text().splitlines()]
    where.journal.write_text("".join(json.dumps({**line, "time": 900.0}) + "\n" for line in lines))
    return where


def _config(name: str) -> contract.RunConfig:
    gpus, repeat = map(int, name.removeprefix("g").split("-r"))
    return contract.RunConfig(
        sweep="s", run=name, params="", repeat=repeat, seed=repeat, gpus=gpus, nodes=-(-gpus // 4),
        tasks_per_node=min(gpus, 4), cpus_per_task=1, device="gpu", data_dir="/data", experiment=EXPERIMENT,
    )  # fmt: skip


def planned(where: SweepDir) -> Mapping[str, contract.RunConfig]:
    """All runs of the sweep, as its plan has them."""
    return {path.name: _config(path.name) for path in sorted(where.runs.iterdir())}


def collect(
    where: SweepDir, planned: Mapping[str, contract.RunConfig], states: Mapping[str, tuple[RunState, str]]
) -> list[Run]:
    """The runs of the sweep, each attempt read by the trainer of its run, as a report does."""
    return sweep_runs.collect(where, planned, states, Readings().attempt, check_run)


def done(where: SweepDir, name: str, *, log: str | None = None, **more: Any) -> Path:
    """An attempt of the run that measured: its job began at 990 s. `log` is its train.log."""
    gpus, _, repeat = name.removeprefix("g").partition("-r")
    job = yaml.safe_load(where.sweep_yaml.read_text())["gpus"].index(int(gpus)) + 1
    text = log or train_log(gpus=int(gpus))
    return attempt(where.run(name) / "a001", job=f"{job}_{int(repeat) - 1}", log=text, **more)


def node(folder: Path, host: str, **facts: Any) -> None:
    """What the attempt in `folder` says of one of its nodes."""
    (folder / contract.node_json(host)).write_text(json.dumps({"host": host, "cpus": 99, **facts}))


def states(where: SweepDir) -> Mapping[str, tuple[RunState, str]]:
    """All runs of the sweep, as if they were done."""
    return {path.name: (RunState.DONE, "") for path in sorted(where.runs.iterdir())}


def run(gpus: int, rate: float | None, repeat: int = 1, params: str = "", **more: Any) -> Run:
    """A run of 4 images per GPU and step on nodes of four; `rate` is its images/s, None of one that failed."""
    state = RunState.DONE if rate else RunState.FAILED
    batch = {"local_batch": 4, "global_batch": 4 * gpus} | more
    step_ms = 1000 * batch["global_batch"] / rate if rate and batch["global_batch"] else None
    return Run(**{
        "run": f"g{gpus:04d}-r{repeat:02d}", "attempt": "a001", "state": state, "failure": "", "source": "",
        "experiment": "demo", "params": params, "gpus": gpus, "nodes": -(-gpus // 4), "gpus_per_node": min(gpus, 4),
        "throughput": rate, "step_ms": step_ms, "unit": "images", **batch,
    })  # fmt: skip


def opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Study, FakeScheduler, list[str]]:
    """A study of this folder on a fake scheduler, and the lines that it tells."""
    fake, told = FakeScheduler(SweepDir(folder), pace=Pace.QUEUED), list[str]()
    monkeypatch.setattr(factory, "make", lambda *args, **more: fake)
    return Study(load(folder), told.append), fake, told
