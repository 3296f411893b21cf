"""The estimated cost of a plan, from an earlier sweep or from the experiment, and the limits of the site."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import os
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hpcjobs.base import sweepdir
from hpcjobs.base.errors import HpcjobsError, InputError, SchedulerUnreachable, SubmitRefused
from hpcjobs.base.records import Limits
from hpcjobs.base.times import seconds
from hpcjobs.collect.runs_csv import renamed
from hpcjobs.config import Cluster
from hpcjobs.jobs.group import COLLECTOR
from hpcjobs.plan import cost
from hpcjobs.plan.cost import Cost, Rate
from hpcjobs.plan.planning import Plan
from hpcjobs.schedulers import Scheduler
from hpcjobs.schedulers.factory import capabilities, make
from hpcjobs.trainers.registry import DEFAULT, trainer_of


@dataclasses.dataclass(frozen=True)
class Estimate:
    """By group: its cost, and what the scheduler says of its script.

    `source` names where the speed comes from; without one, `unknown` says what is missing. `at_most`: the runs may end
    before they have done their work. `warnings` are lines for the user.
    """

    costs: Mapping[str, Cost]
    starts: Mapping[str, str]
    source: str
    unknown: str
    at_most: bool
    warnings: tuple[str, ...]


def estimate(plan: Plan, scheduler: Scheduler, scripts: Mapping[str, str], limits: Limits, beside: Path) -> Estimate:
    """The cost of a plan, and what the scheduler says of its `scripts` (text by group).

    `beside` is the folder that holds this sweep and perhaps an earlier one, whose measured speed is used. If the
    scheduler does not answer, that is a warning: the plan can be shown without its answer.
    """
    rate = _measured(plan, beside) or _stated(plan)
    costs = {group.name: cost.cost(group, plan, rate) for group in plan.submitted}
    starts, warnings = {}, []
    # The scripts of single sizes are not submitted if one allocation runs them all.
    submitted = [name for name in scripts if name in plan.run_names or name == COLLECTOR]
    with ThreadPoolExecutor() as pool:
        tests = {name: pool.submit(scheduler.test, scripts[name]) for name in submitted}
    try:
        for name, answer in tests.items():
            try:
                starts[name] = answer.result()
            except SubmitRefused as error:
                starts[name] = "refused"
                warnings.append(f"{name}: {error}")
    except SchedulerUnreachable as error:
        warnings.append(str(error))
    time = plan.cluster.time
    warnings += [each.text for each in cost.objections(plan, limits, seconds(time) if time else None)]
    warnings += _too_many_here(plan)
    experiments = [variant.experiment for variant in plan.variants]
    trainer = trainer_of(experiments[0])
    return Estimate(
        costs=costs,
        starts=starts,
        source=rate.source if rate else "",
        unknown=trainer.unknown_cost(experiments[0], plan.cluster, rate_known=rate is not None),
        at_most=any(map(trainer.may_end_early, experiments)),
        warnings=tuple(warnings),
    )


def _too_many_here(plan: Plan) -> Iterator[str]:
    """A line if the runs' processes are more than the cores of this machine, where they run."""
    cores = len(os.sched_getaffinity(0))
    sizes = sorted({group.size.gpus for group in plan.groups if group.size.gpus > cores})
    if sizes and not capabilities(plan.cluster).compute_nodes and plan.cluster.device == "cpu":
        yield (
            f"{sizes[-1]} processes, but this machine has {cores} cores for them: sizes above {cores} share cores, so "
            "their rates say nothing about scaling"
        )


def _stated(plan: Plan) -> Rate | None:
    """The rate that the experiment states, which is that of a GPU."""
    experiment = plan.variants[0].experiment
    each = trainer_of(experiment).stated_rate(experiment)
    if each is None or plan.cluster.device != "gpu":
        return None
    return Rate({1: each}, 0.0, f"the {each:g} units/s of one GPU that the experiment states")


def _measured(plan: Plan, beside: Path) -> Rate | None:
    """The rate that the newest sweep in `beside` measured, of the same experiment, unit and cluster."""
    experiment, cluster = plan.variants[0].experiment, plan.cluster.name
    # All runs of a plan have one rate, so what they count must be the same.
    units = {trainer_of(each.experiment).unit(each.experiment) for each in plan.variants}
    for folder in _newest_first(beside):
        with contextlib.suppress(InputError, OSError, KeyError, TypeError, ValueError, IndexError):
            data = sweepdir.read_sweep_yaml(folder / "sweep.yaml")
            theirs = data["variants"][0]["experiment"]
            same = theirs["name"] == experiment.name and theirs.get("trainer", DEFAULT) == experiment.trainer
            if not same or data["cluster"]["name"] != cluster:
                continue
            with (folder / "report" / "scaling-report.csv").open(newline="", encoding="utf-8") as file:
                rows = [row for each in csv.DictReader(file) if (row := renamed(each))["throughput"]]
            if len({row["unit"] for row in rows} | (units - {""})) != 1:
                continue
            rates = {int(row["gpus"]): float(row["throughput"]) for row in rows}
            startup = max(float(row["startup_s"] or 0) for row in rows)
            return Rate(rates, startup, f"the rate that {folder.name} measured")
    return None


def _newest_first(parent: Path) -> Iterator[Path]:
    found = []
    for path in parent.glob("*/report/scaling-report.csv"):
        with contextlib.suppress(OSError):
            found.append((path.stat().st_mtime, path.parent.parent))
    return (folder for _, folder in sorted(found, reverse=True))


def site_limits(cluster: Cluster) -> tuple[Limits, str]:
    """(limits of the site, but for `max_submit`; why they are unknown, or empty)."""
    if not capabilities(cluster).limits:
        return Limits(), ""
    try:
        return make(cluster).limits(cluster.partition, cluster.reservation), ""
    except HpcjobsError as error:
        return Limits(), str(error)


class UserLimit:
    """`Limits.max_submit`, queried in the background, because sacctmgr is slow."""

    def __init__(self, cluster: Cluster):
        self._found: int | None = None
        # A daemon thread: an interrupted command does not wait for it.
        self._thread = threading.Thread(target=self._ask, args=(cluster,), daemon=True)
        self._thread.start()

    def _ask(self, cluster: Cluster) -> None:
        if capabilities(cluster).accounting:
            self._found = make(cluster).user_limit(cluster.qos)

    def added_to(self, limits: Limits) -> Limits:
        """The limits with this one added; waits for the answer."""
        self._thread.join()
        return dataclasses.replace(limits, max_submit=self._found)
