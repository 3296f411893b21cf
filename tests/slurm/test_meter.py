"""`mode: benchmark` of a command on a real Slurm: a planted cause is found under its name, from log to table."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.meter_truth import ALLOWANCE_MS, PROGRAM, Finding, allowed, control, findings, judge, planted, value_of

from .conftest import Slurm
from .test_command import Site

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

PLANTS = ("none", "loader=20", "late=10", "hook=15", "loader=20+hook=15", "loader=20+late=10")
# Ranks over two nodes: the profile's GPUs of a node.
WIDTH = {2: 1, 4: 2, 8: 4}
# Few timed steps, and six passes through the control blocks however well the parts are known by then.
PASSES = 6
BENCHMARK = {
    "mode": "benchmark",
    "batch.local": 8,
    "measure.max_steps": 20,
    "measure.precision": 0.5,
    "measure.control_passes": PASSES,
    "measure.parts_precision": 0.0001,
}

# The throttled link: slow enough that messages which cost nothing on a free link take about 15 ms.
LINK_BYTES_PER_S = 100e6 / 8
LINK_BURST = 16 * 1024
LINK_BYTES = 190_000  # of all ranks of the node
# Ethernet, IP and TCP with timestamps: 66 bytes before each 1,448 of the message.
WIRE = 1 + 66 / 1448
LINK_MS = 1000 * (LINK_BYTES * WIRE - LINK_BURST) / LINK_BYTES_PER_S


@pytest.fixture
def site(tmp_path: Path, cluster: Slurm) -> Site:
    return Site(tmp_path, cluster)


@contextlib.contextmanager
def throttled(node: str) -> Iterator[None]:
    """Limit what a node sends to 100 Mbit/s."""
    tc = ["nsenter", f"--net=/run/netns/{node}", "tc", "qdisc"]
    limit = ["tbf", "rate", f"{8 * LINK_BYTES_PER_S:.0f}bit", "burst", str(LINK_BURST), "latency", "400ms"]
    subprocess.run([*tc, "add", "dev", "eth0", "root", *limit], check=True)
    try:
        yield
    finally:
        subprocess.run([*tc, "del", "dev", "eth0", "root"], check=True)


def benchmark(
    site: Site, out: str, gpus: str, plants: tuple[str, ...], *words: str, where: tuple[str, ...] = ()
) -> None:
    """Submit a sweep of the stand-in, a row for each plant."""
    keys = {**BENCHMARK, "params.plant": ",".join(plants)}
    settings = [word for name, value in keys.items() for word in ("--set", f"{name}={value}")]
    command = ("--", "python3", str(PROGRAM), "--plant={params.plant}", *words)
    width = WIDTH[int(gpus.rpartition(",")[2])]
    site.sweep(out, gpus, *settings, *where, *command, pattern=None, gpus_per_node=width)


def ended_runs(site: Site, out: str, gpus: int) -> dict[str, Path]:
    """The attempt's folder of each run of that size that has ended well, by its plant."""
    found = {}
    for name, run in site.runs(out).items():
        if name.startswith(f"g{gpus:04d}-"):
            assert run["state"] == "done", (run, site.log(out, name))
            attempt = site.attempt(out, name)
            found[value_of(attempt, "hpcjobs_run")["params"].removeprefix("params.plant=")] = attempt
    return found


def of_runs(site: Site, out: str, gpus: int, link_ms: float = 0.0) -> list[Finding]:
    """What the runs of that size have told, beside what was planted."""
    found = []
    for plant, attempt in ended_runs(site, out, gpus).items():
        told = control(attempt)
        assert told["passes"] == PASSES
        assert len({rank["host"] for rank in told["ranks"]}) == 2
        if "late" in plant:
            assert told["slowest_rank"] == gpus - 1
        sends = link_ms if "send" in plant else 0.0
        found += findings(f"{gpus} ranks, {plant}", attempt, planted(plant, gpus, link_ms=sends))
    return found


def test_each_cause_is_found_under_its_name_and_becomes_a_loss_in_the_table(site: Site) -> None:
    """Two, four and eight ranks over two nodes. A table is relative to one rank, in which nothing is planted."""
    sizes = {"two": "1,2", "four": "4", "eight": "1,8"}
    for out, gpus in sizes.items():
        benchmark(site, out, gpus, PLANTS)
    site.ended(*sizes)
    judge([each for out, ranks in zip(sizes, WIDTH, strict=True) for each in of_runs(site, out, ranks)])
    for out, ranks in (("two", 2), ("eight", 8)):
        rows = [row for row in site.table(out) if int(row["gpus"]) == ranks]
        assert len(rows) == len(PLANTS)
        bases, runs = ended_runs(site, out, 1), ended_runs(site, out, ranks)
        more = {plant: allowed(runs[plant]) + allowed(bases[plant]) for plant in PLANTS}
        judge([each for row in rows for each in losses(row, more[row["param.plant"]])])


def losses(row: dict[str, str], more: float) -> list[Finding]:
    """A loss is relative to a typical rank: all that one late rank costs the others is skew, and none is compute."""
    plant = row["param.plant"]
    times = dict(each.split("=") for each in plant.split("+") if each != "none")
    causes = {"lost_input_ms": "loader", "lost_allreduce_ms": "hook", "lost_skew_ms": "late", "lost_compute_ms": ""}
    found = []
    for column, cause in causes.items():
        if not row[column]:
            assert "ranks_wait_for_cpus" in row["flags"]
            continue
        half_width = (float(row[f"{column}_high"]) - float(row[f"{column}_low"])) / 2
        truth = float(times.get(cause, 0))
        found.append(Finding(f"{row['gpus']} ranks, {plant}", column, truth, float(row[column]), half_width, more))
    return found


def test_a_throttled_link_is_an_all_reduce_that_lasts_longer(site: Site) -> None:
    """On the second node, whose ranks share it. One run at a time, or two would share it, too."""
    with throttled("c4140-2"):
        found = []
        for gpus, width in WIDTH.items():
            plants = (f"send={LINK_BYTES // width}", f"send={LINK_BYTES // width}+loader=20")
            where = ("--nodelist", "c4140-[1-2]", "--throttle", "1")
            benchmark(site, str(gpus), str(gpus), plants, where=where)
            site.ended(str(gpus))
            found += of_runs(site, str(gpus), gpus, LINK_MS)
    judge(found)


@pytest.mark.usefixtures("neighbour")
def test_the_interval_holds_what_a_neighbour_of_the_job_does(site: Site, soak: bool) -> None:
    """The ranks compute in a loop, which a neighbour makes longer: that is skew and computing, and real.

    What was planted in loader and all-reduce lies in the intervals, with nothing allowed for the neighbour.
    """
    found: list[Finding] = []
    parts, truth = ("input_wait_ms", "allreduce_ms"), planted("loader=20+hook=15", 4)
    for number in range(10 if soak else 1):
        out = f"o{number}"
        benchmark(site, out, "4", ("loader=20+hook=15",), "--loop", "--compute", "4")
        site.ended(out)
        told = findings(out, site.attempt(out, "g0004-r01"), truth, parts)
        found += [dataclasses.replace(each, allowed=ALLOWANCE_MS) for each in told]
    judge(found)
