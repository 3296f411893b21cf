"""What a plan costs, and which limits of a site it exceeds."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import msgspec
import pytest

from hpcjobs.base.records import Limits
from hpcjobs.config import Experiment, profiles
from hpcjobs.plan.cost import ObjectionKind, Rate, cost, objections
from hpcjobs.plan.planning import Plan, Terms, make_plan, parameter_grid
from hpcjobs.trainers.command_line import document_of

# The rate of the article's one GPU, and a minute before the first step.
RATE = Rate({1: 185.0, 4: 600.0}, 60.0, "a test")


def planned(*gpus: int, repeats: int = 3, sets: tuple[str, ...] = ("train.steps=1000",), **terms: object) -> Plan:
    variants = parameter_grid(profiles.read(Experiment, "chexnet"), sets)
    return make_plan(list(gpus), variants, profiles.cluster("c4140"), repeats, Terms(**terms))


def test_minutes_and_gpu_hours_count_the_whole_nodes_that_a_job_holds() -> None:
    plan = planned(1)
    found = cost(plan.groups[0], plan, RATE)
    seconds = 60 + 1000 * 64 / 185
    assert found.minutes == pytest.approx(seconds / 60)
    assert found.gpu_hours == pytest.approx(3 * 4 * seconds / 3600)
    assert found.idle_gpu_hours == pytest.approx(3 * 3 * seconds / 3600)


def test_a_size_without_a_rate_takes_the_rate_per_gpu_of_the_nearest_size() -> None:
    plan = planned(8)
    assert cost(plan.groups[0], plan, RATE).minutes == pytest.approx((60 + 1000 * 512 / 1200) / 60)


def test_whole_epochs_need_the_size_of_the_data(tmp_path: Path) -> None:
    plan = planned(4, sets=(f"data.dir={tmp_path}",))
    assert cost(plan.groups[0], plan, RATE).minutes is None
    (tmp_path / "dataset.json").write_text(json.dumps({"splits": {"train": {"images": 78_000}}}))
    assert cost(plan.groups[0], plan, RATE).minutes == pytest.approx((60 + 10 * 78_000 / 600) / 60)
    assert cost(plan.groups[0], plan, None).gpu_hours is None


def test_a_command_says_its_work_itself() -> None:
    command = document_of(["train"])
    known = make_plan([2], parameter_grid(command, ["work=40000"]), profiles.cluster("c4140"), 1)
    assert cost(known.groups[0], known, RATE).minutes == pytest.approx((60 + 40_000 / 370) / 60)
    unknown = make_plan([2], parameter_grid(document_of(["train"]), []), profiles.cluster("c4140"), 1)
    assert cost(unknown.groups[0], unknown, RATE).minutes is None


def test_one_allocation_holds_its_largest_size_during_every_run() -> None:
    apart, together = planned(1, 16), planned(1, 16, one_allocation=True)
    assert together.allocation is not None
    found = cost(together.allocation, together, RATE)
    alone = sum((cost(group, apart, RATE).minutes or 0) * 3 for group in apart.groups)
    assert found.minutes == pytest.approx(alone)
    assert found.gpu_hours == pytest.approx(alone * 16 / 60)
    assert found.idle_gpu_hours == pytest.approx(3 * 15 * (60 + 1000 * 64 / 185) / 3600)


def test_every_limit_that_is_exceeded_is_named() -> None:
    plan = planned(1, 16, repeats=60)
    site = Limits(max_submit=100, own=7, max_jobs=110, partition="short", max_nodes=2, max_time_s=3600, up=False)
    found = list(objections(plan, site, 4 * 3600))
    assert [each.kind.passes for each in found] == [False] * 4 + [True]
    assert [each.text for each in found] == [
        "120 array tasks, but one user may have 100 (MaxSubmitJobs), 7 of them taken",
        "120 array tasks, but the site holds 110 jobs (MaxJobCount)",
        "4 nodes for one job, but partition short allows at most 2",
        "a time limit of 4 h, but partition short allows 1 h: the jobs may never start",
        "partition short is not up: the jobs wait until it is",
    ]
    assert list(objections(plan, Limits(version=(20, 11), mpi=("none", "pmix")), 4 * 3600)) == []
    one = planned(1, 16, repeats=60, one_allocation=True)
    assert ObjectionKind.MAX_SUBMIT not in {each.kind for each in objections(one, site, None)}


def test_a_slurm_without_the_launchers_plugin_and_one_that_was_never_tried_are_named() -> None:
    """Debian's Slurm 26.05 has no PMIx."""
    plan = planned(1, 16)
    debian = Limits(version=(26, 5), mpi=("none", "cray_shasta", "pmi2"))
    (found,) = objections(plan, debian, None)
    assert (found.kind, found.kind.passes) == (ObjectionKind.MPI_PLUGIN, False)
    assert found.text == (
        "`mpi_plugin: pmix`, but `srun --mpi=list` names none, cray_shasta, pmi2: no rank would start; "
        "`launcher: mpirun` needs no plugin"
    )
    assert "launcher: mpirun" in found.kind.remedy
    mpirun = dataclasses.replace(plan, cluster=msgspec.structs.replace(plan.cluster, launcher="mpirun"))
    assert list(objections(mpirun, debian, None)) == []
    # The plugins are not known.
    assert list(objections(plan, Limits(version=(26, 5)), None)) == []
    (old,) = objections(plan, Limits(version=(19, 5)), None)
    assert (old.text, old.kind.passes) == (
        "Slurm 19.05 is older than 20.11, the oldest on which hpcjobs was tried",
        True,
    )
