"""What is planted in a PyTorch training that nobody edited is found under its name, on ranks of two nodes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.meter_truth import Finding, control, judge
from tests.slurm.conftest import Slurm, _no_job_left, cluster  # noqa: F401 (the first and the last are fixtures)
from tests.slurm.test_command import Site
from tests.slurm.test_meter import BENCHMARK, LINK_BYTES, LINK_MS, PLANTS, WIDTH, ended_runs, of_runs, throttled

from .local_ranks import SCRIPTS, VENV

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not (VENV / "bin" / "torchrun").exists(), reason="PyTorch is not installed: make setup-torch"),
]

# Of a step nothing is planted in. How long PyTorch itself computes is not known, so computing is not judged.
PARTS = ("input_wait_ms", "allreduce_ms", "skew_ms")
# Not eight: on two cores that other work used, too, their all-reduce took 20 to 40 ms with nothing planted.
GPUS = (2, 4)
# What PyTorch itself may take of a step. A small all-reduce by gloo takes 1 ms on two quiet cores, and once took 9 of
# 33 ms for four ranks that share them with other work.
OWN = 1 / 3


@pytest.fixture
def site(tmp_path: Path, cluster: Slurm) -> Site:  # noqa: F811
    return Site(tmp_path, cluster)


def told(site: Site, gpus: int, plants: tuple[str, ...], link_ms: float = 0.0) -> list[Finding]:
    """Train with each of these plants, one run after the other, on two nodes; what the runs tell of PARTS.

    What a part is in the run without a plant is PyTorch's own, and it may be more or less by that much in the others.
    """
    keys = {**BENCHMARK, "measure.warmup": 5, "params.plant": ",".join(("none", *plants))}
    settings = [word for name, value in keys.items() for word in ("--set", f"{name}={value}")]
    where = ("--nodelist", "c4140-[1-2]", "--throttle", "1")
    # More ranks leave each a smaller share of the CPUs, and must not wait for them.
    script = (str(SCRIPTS / "ddp_truth.py"), "--plant={params.plant}", f"--compute={max(15, 5 * gpus)}")
    command = ("--", str(VENV / "bin" / "python"), *script)
    site.sweep(str(gpus), str(gpus), *settings, *where, *command, pattern=None, gpus_per_node=WIDTH[gpus])
    site.ended(str(gpus))
    found = of_runs(site, str(gpus), gpus, link_ms)
    without = control(ended_runs(site, str(gpus), gpus)["none"])
    for part in PARTS:
        assert abs(without[part]) < OWN * without["step_ms"] + without["half_widths"][part], without
    return [
        dataclasses.replace(each, allowed=each.allowed + max(without[each.part], 0.0))
        for each in found
        if each.part in PARTS and not each.run.endswith("none")
    ]


def found_of(found: list[Finding]) -> dict[str, set[str]]:
    """The parts in which something is planted, by run."""
    return {each.run: {one.part for one in found if one.run == each.run and one.planted} for each in found}


@pytest.mark.parametrize("gpus", GPUS)
def test_each_cause_alone_and_two_together(gpus: int, site: Site) -> None:
    found = told(site, gpus, tuple(plant for plant in PLANTS if plant != "none"))
    for each in found:
        print(each)
    judge(found)
    assert {run.partition(", ")[2]: parts for run, parts in found_of(found).items()} == {
        "loader=20": {"input_wait_ms"},
        "late=10": {"skew_ms"},
        "hook=15": {"allreduce_ms"},
        "loader=20+hook=15": {"input_wait_ms", "allreduce_ms"},
        "loader=20+late=10": {"input_wait_ms", "skew_ms"},
    }


def test_a_throttled_link(site: Site) -> None:
    """On the second node."""
    gpus = 2
    send = f"send={LINK_BYTES // WIDTH[gpus]}"
    with throttled("c4140-2"):
        found = told(site, gpus, (send, f"{send}+loader=20"), LINK_MS)
    for each in found:
        print(each)
    judge(found)
    assert found_of(found)[f"{gpus} ranks, {send}+loader=20"] == {"input_wait_ms", "allreduce_ms"}
