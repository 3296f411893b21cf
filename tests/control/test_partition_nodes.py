"""Nodes that are away, and nodes with other GPUs: what sinfo says, what the plan and `status` make of it."""

from __future__ import annotations

import msgspec
import pytest

from hpcjobs.base.records import Limits, NodeKind
from hpcjobs.config import Experiment, profiles
from hpcjobs.plan import planning
from hpcjobs.plan.cost import ObjectionKind, objections
from hpcjobs.plan.planning import Plan, make_plan
from hpcjobs.schedulers.slurm import limits, partition_nodes

# Slurm 22.05 on the virtual cluster, whose last two nodes had two A100 for this, and whose second was drained.
TWO_KINDS = (
    "1|drained|c4140-2|gpu:v100:4|bad DIMM\n1|idle|c4140-1|gpu:v100:4|none\n2|idle|c4140-[3-4]|gpu:a100:2|none\n"
)


def plan(*gpus: int, **cluster: object) -> Plan:
    site = msgspec.structs.replace(profiles.cluster("virtual"), **cluster)
    return make_plan(list(gpus), planning.parameter_grid(profiles.read(Experiment, "demo"), []), site, 1)


def said(plan: Plan, text: str = TWO_KINDS, **more: float) -> list[tuple[ObjectionKind, str]]:
    site = Limits(partition="p", max_nodes=4, kinds=partition_nodes.kinds(text), **more)
    return [(each.kind, each.text) for each in objections(plan, site, 1800)]


def test_nodes_are_counted_by_their_gpus() -> None:
    assert partition_nodes.kinds(TWO_KINDS) == (
        NodeKind(("v100",), 2, 1, "c4140-2 is drained (bad DIMM)"),
        NodeKind(("a100",), 2, 2),
    )
    assert partition_nodes.kinds("chatter of the site\n") == ()


def test_a_reason_names_the_nodes_and_why_they_are_away() -> None:
    text = "2|down*|n[1-2]|gpu:4|Not responding\n1|mixed|n3|gpu:4|none\n1|draining|n4|gpu:4|fan | pump\n"
    assert (
        partition_nodes.away(text) == "n[1-2] are down, does not respond (Not responding); n4 is draining (fan | pump)"
    )
    many = "".join(f"1|down|n{number}|gpu:4|reason {number}\n" for number in range(9))
    assert partition_nodes.away(many).endswith("n4 is down (reason 4); and others")


@pytest.mark.parametrize(
    ("reason", "is_so"),
    [
        ("Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions", True),
        ("Nodes_required_for_job_are_DOWN,_DRAINED_or_reserved_for_jobs_in_higher_priority_partitions", True),
        ("ReqNodeNotAvail, UnavailableNodes:c4140-2", True),
        ("Resources", False),
        ("AssocGrpGRES", False),
    ],
)
def test_some_reasons_are_about_nodes_that_are_away(reason: str, is_so: bool) -> None:
    assert partition_nodes.waits(reason) == is_so


def test_a_size_that_waits_for_a_drained_node_is_a_warning() -> None:
    ((kind, text),) = said(plan(4, 8))
    assert (kind, kind.passes) == (ObjectionKind.NODES_AWAY, True)
    assert text == "2 nodes for one job, but of partition p 1 can run one now: c4140-2 is drained (bad DIMM)"
    assert said(plan(4)) == []
    assert said(plan(4, 8, nodelist="c4140-[1,3]")) == []


def test_a_size_with_more_nodes_than_have_its_gpus_is_refused() -> None:
    ((kind, text),) = said(plan(4, 16))
    assert (text, kind.passes) == ("4 nodes for one job, but partition p has 2 with v100", False)


def test_without_a_type_a_run_may_get_any_gpus() -> None:
    ((kind, text),) = said(plan(2, 4, gpu_type=None, gpus_per_node=2))
    assert (kind, kind.passes) == (ObjectionKind.GPU_KINDS, True)
    assert "partition p has nodes with v100, others with a100, and the profile names no `gpu_type`" in text
    assert "gpu_type" in kind.remedy
    assert said(plan(2, 4, gpu_type=None, gpus_per_node=2, constraint="v100")) == []
    assert said(plan(2, 4, gpu_type=None, gpu_request="none")) == []


# scontrol --oneliner show reservation of Slurm 22.05.
WEEK = (
    "ReservationName=week StartTime=2026-11-30T13:50:05 EndTime=2026-11-30T13:51:05 Duration=00:01:00 "
    "Nodes=c4140-[1-2] NodeCnt=2 CoreCnt=80 Flags=SPEC_NODES TRES=cpu=80 Users=root State=ACTIVE\n"
)


def test_a_reservation_that_ends_before_a_job_would_is_a_warning() -> None:
    end = limits.local_time("2026-11-30T13:51:05")
    assert end is not None
    left = limits.reserved_s(WEEK, end - 900)
    assert (left, limits.reserved_s("Reservation week not found\n", end)) == (900, None)
    ((kind, text),) = said(plan(4, reservation="week"), reserved_s=900)
    assert (kind, kind.passes) == (ObjectionKind.RESERVATION_ENDS, True)
    assert text.startswith("reservation week ends in 0.25 h, before the time limit of a job that starts now")
    assert said(plan(4, reservation="week"), reserved_s=1900) == []
    ((_, text),) = said(plan(4, reservation="week"), reserved_s=-5)
    assert text == "reservation week has ended: no job of it starts"
