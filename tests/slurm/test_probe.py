"""The fabric probe on four nodes, one of which has a slow link."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcjobs.nodes.probe.figures import SLOW

from .conftest import Slurm
from .test_cluster import write_script

GIGABIT = 1e9 / 8


@contextlib.contextmanager
def gigabit(node: str) -> Iterator[None]:
    """Limit what the node sends to 1 Gbit/s. Without the limit a veth pair is several times as fast."""
    tc = ["nsenter", f"--net=/run/netns/{node}", "tc", "qdisc"]
    limit = ["tbf", "rate", "1gbit", "burst", "1mb", "latency", "50ms"]
    subprocess.run([*tc, "add", "dev", "eth0", "root", *limit], check=True)
    try:
        yield
    finally:
        subprocess.run([*tc, "del", "dev", "eth0", "root"], check=True)


@pytest.mark.slurm
def test_a_node_at_one_gigabit_is_named_with_its_rate(cluster: Slurm, tmp_path: Path, pmix: None) -> None:
    body = f"""
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_mpi_yield_when_idle=1
srun --mpi=pmix {sys.executable} -m hpcjobs.nodes.probe --out {tmp_path}/fabric.json --seconds 10 --largest 8388608
"""
    script = write_script(tmp_path, body, nodes=4, ntasks_per_node=2, mem=1000, time=5, partition="urgent")
    with gigabit("c4140-3"):
        (row,) = cluster.wait(cluster.sbatch(script), timeout=120)
    output = "".join(log.read_text() for log in tmp_path.glob("slurm-*.out"))
    assert row["State"] == "COMPLETED", output
    found = json.loads((tmp_path / "fabric.json").read_text())
    named = {(each["node"], each["way"]): each["bytes_per_s"] for each in found["slow"] if "node" in each}
    assert ("c4140-3", "out") in named, output
    # On a busy machine messages are slower than their link, never faster.
    rate = named["c4140-3", "out"]
    assert 0.3 * GIGABIT < rate < 1.15 * GIGABIT
    sent: dict[str, list[float]] = {}
    received: dict[str, list[float]] = {}
    for each in found["pairs"]:
        sent.setdefault(each["from"], []).append(each["bytes_per_s"])
        received.setdefault(each["to"], []).append(each["bytes_per_s"])
    assert len(sent["c4140-3"]) == 3
    assert max(sent["c4140-3"]) == rate
    # Another node is named only where the machine is so busy that the messages of this node, too, take far longer.
    usual = statistics.median(max(rates) for rates in (*sent.values(), *received.values()))
    ways = {"out": sent, "in": received}
    assert all(max(ways[way][node]) < SLOW * usual for node, way in named if way in ways), output
    assert f"node c4140-3 is slow (out): {rate / 1e9:.3g} GB/s" in output
    # A prediction uses the other nodes.
    assert found["across_bytes_per_s"] > rate
    assert len(found["pairs"]) == 12
    assert {tuple(each["between"]) for each in found["allreduce"]} >= {("c4140-1", "c4140-4"), ("c4140-2", "c4140-2")}
