"""The fabric probe: its figures, which nodes and links it calls slow, and a run of it on this machine."""

from __future__ import annotations

import itertools
import json
import random
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from hpcjobs.analysis.models import read_fabric
from hpcjobs.nodes.probe import figures
from hpcjobs.nodes.probe.figures import Timing
from hpcjobs.nodes.probe.turns import rounds

NODES = ("n1", "n2", "n3", "n4")


def links(usual: float = 12e9, nodes: tuple[str, ...] = NODES, **slow: float) -> dict[tuple[str, str], float]:
    """The rates in bytes/s of links that differ by 2 %. `n3_out=1e8` limits what n3 sends, `n1_n2` one link."""
    noise = random.Random(0)
    return {
        (a, b): min(
            usual * noise.uniform(0.98, 1.02),
            *(slow.get(key, usual * 9) for key in (f"{a}_out", f"{b}_in", f"{a}_{b}")),
        )
        for a, b in itertools.permutations(nodes, 2)
    }


@pytest.mark.parametrize("n", [6, 7, 20, 50, 501])
def test_the_95_percent_interval_of_a_median_covers_it_in_95_percent_of_samples(n: int) -> None:
    noise, hits = random.Random(n), 0
    for _ in range(1000):
        found = figures.median([noise.expovariate(1.0) for _ in range(n)])
        hits += found.low <= 0.6931 <= found.high  # the median of that distribution is log 2
    assert 0.93 < hits / 1000 < 0.985


def test_of_fewer_than_six_values_the_interval_is_their_range() -> None:
    assert figures.median([3.0, 1.0, 2.0]) == figures.Figure(2.0, 1.0, 3.0)


def test_bandwidth_is_of_the_largest_size_without_the_latency() -> None:
    """At 1 GB/s and 10 us, 1 MB takes 1.01 ms; those of the answer do not count."""
    there_and_back = [Timing(8, (20e-6,) * 9), Timing(10**6, (1.02e-3,) * 9)]
    timings = figures.without_answer(there_and_back)
    found = figures.point_to_point(timings)
    assert found["latency_s"] == pytest.approx(10e-6)
    assert found["bytes_per_s"] == pytest.approx(1e9)
    assert found["sizes"][-1]["algbw_bytes_per_s"] == pytest.approx(1e6 / 1.01e-3)


def test_small_messages_that_wait_for_a_cpu_do_not_make_a_link_fast() -> None:
    there_and_back = [Timing(8, (20e-6, *(1e-3,) * 8)), Timing(10**6, (2.02e-3,) * 9)]
    found = figures.point_to_point(figures.without_answer(there_and_back))
    assert found["latency_s"] == pytest.approx(0.5e-3)
    assert found["bytes_per_s"] == pytest.approx(0.5e9)


@pytest.mark.parametrize(("ranks", "factor"), [(2, 1.0), (4, 1.5), (16, 1.875)])
def test_bus_bandwidth_is_that_of_nccl_tests(ranks: int, factor: float) -> None:
    found = figures.allreduce([Timing(8, (1e-6,) * 6), Timing(2**20, (1e-3,) * 6)], ranks)
    assert found["sizes"][-1]["algbw_bytes_per_s"] == pytest.approx(2**20 / 1e-3)
    assert found["busbw_bytes_per_s"] == pytest.approx(factor * 2**20 / 1e-3)


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        (links(), []),
        (links(n3_out=1.2e8), [("n3", "out")]),
        (links(n2_in=6e9), [("n2", "in")]),
        (links(nodes=(*NODES, "n5"), n1_out=5e9, n1_in=5e9, n4_out=5e9, n4_in=5e9), [("n1", "in"), ("n1", "out"), ("n4", "in"), ("n4", "out")]),
        (links(n1_n2=3e9), [("n1", "n2")]),
        (links(n1_n2=11e9), []),
        (links(nodes=("n1", "n2")), []),
        (links(nodes=("n1", "n2"), n1_out=3e9), [("n1", "n2")]),  # with two nodes, the slow one is unknown
    ],
)  # fmt: skip
def test_slow_nodes_and_links(rates: dict[tuple[str, str], float], expected: list[tuple[str, str]]) -> None:
    found = figures.slow(rates, {})
    assert sorted(tuple(each.get("link", (each.get("node"), each.get("way")))) for each in found) == expected


@pytest.mark.parametrize(("spread", "nodes", "links"), [(0.2, 0.06, 0.2), (0.1, 0.0, 0.03)])
def test_in_a_noisy_fabric_a_slow_node_is_found_and_hardly_another_is_called_slow(
    spread: float, nodes: float, links: float
) -> None:
    """The links differ at random by `spread`; docs/preflight.md has the shares of 1,000 such fabrics."""
    noise, named, linked, found = random.Random(1), 0, 0, 0
    for _ in range(200):
        rates = {pair: 1e9 * noise.lognormvariate(0, spread) for pair in itertools.permutations(NODES, 2)}
        slow = figures.slow(rates, {})
        named += any("node" in each for each in slow)
        linked += any("link" in each for each in slow)
        rates |= {(a, b): 0.25 * rate for (a, b), rate in rates.items() if a == "n3"}
        found += ("n3", "out") in [(each.get("node"), each.get("way")) for each in figures.slow(rates, {})]
    assert named <= nodes * 200
    assert linked <= links * 200
    assert found >= 0.97 * 200


def test_a_node_that_is_slow_inside_is_named() -> None:
    found = figures.slow({}, {"n1": 10e9, "n2": 9.9e9, "n3": 2e9, "n4": 10.1e9})
    assert [(each["node"], each["way"]) for each in found] == [("n3", "inside")]
    assert found[0]["usual_bytes_per_s"] == pytest.approx(9.95e9)


@pytest.mark.parametrize("count", [2, 4, 8, 9, 16, 33])
def test_every_two_nodes_meet_once_and_none_is_in_two_pairs_at_a_time(count: int) -> None:
    nodes = [f"n{number:02d}" for number in range(count)]
    turns = rounds(nodes)
    met = [tuple(sorted(pair)) for turn in turns for pair in turn]
    assert sorted(met) == list(itertools.combinations(nodes, 2))
    for turn in turns:
        assert len({node for pair in turn for node in pair}) == 2 * len(turn)
    assert len(turns) == (count * (count - 1) // 2 if count <= 8 else count - 1 + count % 2)


# A link of argv[1] bytes/s and 10 us. Its clock advances only by messages. Prints the time that a ladder of 3 s took.
LADDER = """
import json, sys, types
from mpi4py import MPI
from hpcjobs.nodes.probe import messages

now = 0.0

def once(size):
    global now
    seconds = 1e-5 + size / float(sys.argv[1])
    now += seconds
    return seconds

messages.time = types.SimpleNamespace(monotonic=lambda: now)
timings = messages.ladder(MPI.COMM_SELF, once, 3.0, 2**28)
print(json.dumps({"seconds": now, "repetitions": {timing.size: len(timing.seconds) for timing in timings}}))
"""


@pytest.mark.parametrize(("rate", "largest"), [(1e10, 2**28), (1e8, 2**23), (1e6, 2**17), (1e3, 2**7)])
def test_a_ladder_keeps_its_time_limit_on_any_link(rate: float, largest: int) -> None:
    done = subprocess.run([sys.executable, "-c", LADDER, str(rate)], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["seconds"] < 1.5 * 3
    assert max(map(int, found["repetitions"])) == largest
    assert min(found["repetitions"].values()) >= 6


def mpirun(ranks: int, *words: str) -> subprocess.CompletedProcess[str]:
    options = ("--oversubscribe", "--bind-to", "none", "--mca", "mpi_yield_when_idle", "1")
    command = ["mpirun", *options, "-np", str(ranks), sys.executable, "-m", "hpcjobs.nodes.probe", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


def test_it_runs_on_one_node_and_predict_takes_what_it_writes(tmp_path: Path) -> None:
    out = tmp_path / "fabric.json"
    done = mpirun(3, "--out", str(out), "--seconds", "3", "--largest", "2097152")
    assert done.returncode == 0, done.stderr
    assert "inside a node: latency" in done.stdout
    found = json.loads(out.read_text())
    fabric = read_fabric(out)
    assert fabric.inside_bytes_per_s == found["inside"][0]["bytes_per_s"]
    assert fabric.across_latency_s is None
    # Half of 6 repetitions, there and back, in both directions, took as long or longer.
    assert 1e-7 < fabric.inside_latency_s < found["seconds"] / 12
    whole = found["together"]["allreduce"]
    assert whole["ranks"] == 3
    assert whole["sizes"][0]["bytes"] == 8
    for size in whole["sizes"]:
        assert size["seconds_low"] <= size["seconds"] <= size["seconds_high"]
        assert size["busbw_bytes_per_s"] == pytest.approx(size["algbw_bytes_per_s"] * 4 / 3)
    assert statistics.median(size["repetitions"] for size in whole["sizes"]) >= 6


def test_through_horovod_on_cpus(tmp_path: Path) -> None:
    """With an hour no size is left out on a slow machine: 50 repetitions of each end the probe, not the clock."""
    out = tmp_path / "fabric.json"
    done = mpirun(2, "--out", str(out), "--seconds", "3600", "--largest", "131072", "--horovod")
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())["together"]["horovod"]
    assert (found["device"], found["operations"], found["ranks"]) == ("cpu", "mpi", 2)
    assert found["sizes"][-1]["bytes"] == 131072


def test_one_rank_has_nothing_to_measure(tmp_path: Path) -> None:
    done = mpirun(1, "--out", str(tmp_path / "fabric.json"))
    assert done.returncode == 2
    assert "one rank has no partner" in done.stderr
    assert list(tmp_path.iterdir()) == []
