"""A sweep as it stands in its folder: its id, its plan, its scheduler."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hpcjobs.base import sweepdir
from hpcjobs.base.contract import RunConfig
from hpcjobs.base.errors import InputError
from hpcjobs.base.files import shown
from hpcjobs.base.sweepdir import SweepDir
from hpcjobs.config import Cluster, Document, convert, to_builtins
from hpcjobs.jobs.group import PlannedRun, Variant
from hpcjobs.plan.planning import Plan, Terms, make_plan
from hpcjobs.schedulers import Scheduler, factory
from hpcjobs.trainers.registry import experiment_in, trainer_of, upgraded


@dataclasses.dataclass(frozen=True)
class Sweep:
    """One sweep: its id, folder and plan."""

    id: str
    where: SweepDir
    plan: Plan

    @property
    def scheduler(self) -> Scheduler:
        """The scheduler that the sweep's profile names."""
        report = [sys.executable, "-m", "hpcjobs", "report", str(self.where.root)]
        folder, output = self.where.root / "local", self.where.slurm
        return factory.make(self.plan.cluster, folder=folder, output=output, epilogue=report)

    @property
    def collects(self) -> bool:
        """Whether a last job collects. It is not needed if the scheduler runs a command when no task is left."""
        return self.plan.cluster.collect.job and not factory.capabilities(self.plan.cluster).epilogue


def to_yaml(sweep_id: str, plan: Plan) -> dict[str, Any]:
    """`sweep.yaml`: everything from which the plan is rebuilt. No other file is needed."""
    return {
        "version": sweepdir.SWEEP_YAML_VERSION,
        "sweep": sweep_id,
        "gpus": sorted({group.size.gpus for group in plan.groups}),
        "repeats": plan.repeats,
        "terms": dataclasses.asdict(plan.terms),
        "cluster": to_builtins(plan.cluster),
        "variants": [
            {"params": variant.params, "experiment": to_builtins(variant.experiment)} for variant in plan.variants
        ],
    }


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
        tasks_per_node=run.size.processes_per_node,
        cpus_per_task=run.size.per_process(sweep.plan.cluster.cpus_per_gpu),
        device=sweep.plan.cluster.device,
        data_dir=trainer_of(experiment).data_dir(experiment, sweep.where.data),
        experiment=builtins,
        gpus_per_node=run.size.gpus_per_node,
    )


def run_configs(sweep: Sweep) -> dict[str, RunConfig]:
    """What run.yaml of each planned run holds, by the run's name, in the order of the plan."""
    builtins = {variant.params: to_builtins(variant.experiment) for variant in sweep.plan.variants}
    return {run.name: _run_config(sweep, run, builtins[run.variant.params]) for run in sweep.plan.runs}


def plan_of(path: Path) -> tuple[str, Plan]:
    """(sweep id, plan) of a sweep.yaml, or of the one in a folder. Raises InputError if it does not hold one."""
    if path.is_dir():
        path = sweepdir.open_sweep(path).sweep_yaml
    data = sweepdir.read_sweep_yaml(path)
    try:
        variants = []
        for entry in data["variants"]:
            document = Document(str(path), upgraded(entry["experiment"], data["version"]), {})
            variants.append(Variant(entry["params"], experiment_in(document)))
        cluster = convert(Document(str(path), data["cluster"], {}), Cluster)
        return data["sweep"], make_plan(data["gpus"], variants, cluster, data["repeats"], Terms(**data["terms"]))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise InputError(f"{path}: not a sweep.yaml of this hpcjobs: {repr(error)[:400]}") from None


def load(folder: Path) -> Sweep:
    """The sweep in `folder`. Raises InputError if there is none."""
    where = sweepdir.open_sweep(folder)
    sweep_id, plan = plan_of(where.sweep_yaml)
    return Sweep(sweep_id, where, plan)


@contextlib.contextmanager
def writing(where: SweepDir, advice: str = "") -> Iterator[None]:
    """Turn a permission error in the sweep's folder, which may be a colleague's, into an InputError.

    `advice` ends its message: what to do instead.
    """
    try:
        yield
    except OSError as error:
        path = Path(str(error.filename))
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS) or not path.is_relative_to(where.root):
            raise
        # The user does not know the name of a temporary file: name its folder.
        place = path if path.exists() else path.parent
        raise InputError(f"{shown(place)}: cannot be written: {error.strerror}{advice}") from None
