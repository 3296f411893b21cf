"""`python -m hpcjobs.nodes.probe --out FILE`: runs on every rank; rank 0 writes FILE and prints what is slow."""

from __future__ import annotations

import argparse
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mpi4py import MPI

from hpcjobs.base.files import write_json
from hpcjobs.nodes.probe import figures
from hpcjobs.nodes.probe.figures import Figure, Timing
from hpcjobs.nodes.probe.messages import SIZES, allreduce, ladder, neighbours, one_way, rest
from hpcjobs.nodes.probe.turns import ONE_BY_ONE, rounds

# Shares of the time for pairs of ranks inside nodes and for all ranks together; the rest is for pairs of nodes.
_INSIDE, _TOGETHER = 0.1, 0.2
_FOR_HOROVOD = 0.2
# Each measurement gets at least this many seconds: a bandwidth cannot be measured in less.
_LEAST_S = 0.3
# Timings from the first rank to the second, from the second to the first, and of their all-reduce.
Measured = tuple[list[Timing], list[Timing], list[Timing]]
_METHOD = (
    "seconds: median of the repetitions, each as long as its slowest rank; _low, _high: its distribution-free 95 % "
    "interval by order statistics. latency_s: of 8 bytes, one way. bytes_per_s: of the largest size, less the shortest "
    "time of 8 bytes. algbw = bytes / seconds, busbw = algbw x 2 (n - 1) / n of an all-reduce over n ranks, as in "
    "nccl-tests. inside_*: the median of nodes; across_*: of both directions of all pairs of nodes, one rank of each."
)


def main() -> int:
    """Exit code 0, or 2 if there is only one rank."""
    parser = argparse.ArgumentParser(prog="python -m hpcjobs.nodes.probe", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--seconds", type=float, default=60.0, help="about how long it may take (default: 60)")
    parser.add_argument(
        "--largest", type=int, default=SIZES[-1], help="the largest message in bytes (default: 256 MiB)"
    )
    parser.add_argument("--horovod", action="store_true", help="also all-reduce through Horovod, on its devices")
    options = parser.parse_args()
    world = MPI.COMM_WORLD
    if world.Get_size() < 2:
        print("hpcjobs: error: one rank has no partner: start two or more with srun or mpirun", file=sys.stderr)
        return 2
    share = _FOR_HOROVOD * options.seconds if options.horovod else 0.0
    found = probe(world, options.seconds - share, options.largest)
    if world.Get_rank() == 0:
        write_json(options.out, found)
    if options.horovod:
        # Last: what is measured so far is in the file even if Horovod ends the program.
        from hpcjobs.nodes.probe import devices

        found["together"]["horovod"] = devices.allreduce(world, share, options.largest)
        if world.Get_rank() == 0:
            write_json(options.out, found)
    if world.Get_rank() == 0:
        for line in summary(found):
            print(line)
    return 0


def probe(world: MPI.Comm, seconds: float, largest: int) -> dict[str, Any]:
    """The value of the JSON file, complete on rank 0 only. Collective."""
    start = time.monotonic()
    hosts: list[str] = world.allgather(socket.gethostname())
    ranks: dict[str, list[int]] = {}
    for rank, host in enumerate(hosts):
        ranks.setdefault(host, []).append(rank)
    nodes = list(ranks)
    full = [node for node in nodes if len(ranks[node]) > 1]
    turns = rounds(nodes)
    inside: list[dict[str, Any]] = []
    across: list[dict[str, Any]] = []
    reduced: list[dict[str, Any]] = []
    end = start + seconds
    together_s = seconds * _TOGETHER
    across_s = seconds * (1 - _INSIDE - _TOGETHER) if turns else 0.0
    quiet = [[node] for node in full] if len(nodes) <= ONE_BY_ONE else [full]
    for number, these in enumerate(quiet):
        share = _share(end - together_s - across_s, len(quiet) - number)
        found = between(world, [(ranks[node][0], ranks[node][1]) for node in these], share, largest)
        for node, (there, _, both) in zip(these, found, strict=False):
            inside.append({"node": node, **figures.point_to_point(there)})
            reduced.append({"between": [node, node], **figures.allreduce(both, 2)})
    for number, two in enumerate(turns):
        share = _share(end - together_s, len(turns) - number)
        found = between(world, [(ranks[one][0], ranks[other][0]) for one, other in two], share, largest)
        for (one, other), (there, back, both) in zip(two, found, strict=False):
            across.append({"from": one, "to": other, **figures.point_to_point(there)})
            across.append({"from": other, "to": one, **figures.point_to_point(back)})
            reduced.append({"between": [one, other], **figures.allreduce(both, 2)})
    together = {
        "sendrecv": figures.point_to_point(ladder(world, neighbours(world), _share(end, 2), largest)),
        "allreduce": figures.allreduce(ladder(world, allreduce(world), _share(end, 1), largest), world.Get_size()),
    }
    rates = {(each["from"], each["to"]): each["bytes_per_s"] for each in across}
    return {
        **fabric(inside, across),
        "probe": 1,
        "method": _METHOD,
        "mpi": MPI.Get_library_version().splitlines()[0].rstrip("\0, "),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": time.monotonic() - start,
        "ranks": {node: len(ranks[node]) for node in nodes},
        "slow": figures.slow(rates, {each["node"]: each["bytes_per_s"] for each in inside}),
        "together": together,
        "inside": inside,
        "pairs": across,
        "allreduce": reduced,
    }


def _share(end: float, parts: int) -> float:
    return max((end - time.monotonic()) / parts, _LEAST_S)


def between(world: MPI.Comm, now: Sequence[tuple[int, int]], seconds: float, largest: int) -> list[Measured]:
    """Timings from the first rank of each pair to its second, of the way back, and of their all-reduce.

    The pairs share no rank and measure at the same time, while all other ranks sleep. Rank 0 gets the timings of
    each pair, the other ranks an empty list. Collective.
    """
    me = world.Get_rank()
    mine = next((number for number, pair in enumerate(now) if me in pair), None)
    group = world.Split(MPI.UNDEFINED if mine is None else mine, me)
    found: dict[int, Measured] = {}
    if mine is not None:
        first = 0 if now[mine][0] < now[mine][1] else 1
        found[mine] = (
            figures.without_answer(ladder(group, one_way(group, first), 0.4 * seconds, largest)),
            figures.without_answer(ladder(group, one_way(group, 1 - first), 0.4 * seconds, largest)),
            ladder(group, allreduce(group), 0.2 * seconds, largest),
        )
        group.Free()
        if me == min(now[mine]) and me:
            world.send(found[mine], 0)
    if me == 0:
        for number, pair in enumerate(now):
            if number not in found:
                found[number] = _receive(world, min(pair))
    rest(world)
    return [found[number] for number in range(len(now))] if me == 0 else []


def _receive(world: MPI.Comm, source: int) -> Any:
    """Receive from a rank; sleep until its message is there, so that the ranks that measure have the CPU."""
    while not world.iprobe(source):
        time.sleep(0.002)
    return world.recv(source=source)


def fabric(inside: list[dict[str, Any]], across: list[dict[str, Any]]) -> dict[str, float]:
    """The keys that `hpcjobs predict --fabric` reads; a figure that was not measured is left out."""
    found: dict[str, float] = {}
    for where, links in (("inside", inside), ("across", across)):
        for name in ("latency_s", "bytes_per_s"):
            if links:
                each = [Figure(link[name], link[f"{name}_low"], link[f"{name}_high"]) for link in links]
                found |= figures.typical(each).named(f"{where}_{name}")
    return found


def summary(found: dict[str, Any]) -> list[str]:
    """A few lines that sum up the file's value."""
    lines = []
    for where in ("inside", "across"):
        if f"{where}_latency_s" in found:
            latency, rate = found[f"{where}_latency_s"], found[f"{where}_bytes_per_s"]
            place = "inside a node" if where == "inside" else "between nodes"
            lines.append(f"{place}: latency {latency * 1e6:.1f} us, {rate / 1e9:.3g} GB/s")
    for name, each in found["together"].items():
        rate = each.get("busbw_bytes_per_s", each.get("bytes_per_s"))
        lines.append(f"all ranks, {name}: {rate / 1e9:.3g} GB/s (bus bandwidth)")
    for each in found["slow"]:
        what = (
            f"node {each['node']} is slow ({each['way']})"
            if "node" in each
            else "link {} to {} is slow".format(*each["link"])
        )
        lines.append(f"{what}: {each['bytes_per_s'] / 1e9:.3g} GB/s, usual is {each['usual_bytes_per_s'] / 1e9:.3g}")
    return lines


if __name__ == "__main__":
    try:
        code = main()
    except Exception:
        # Without an abort the other ranks would wait for this one.
        traceback.print_exc()
        MPI.COMM_WORLD.Abort(1)
        raise
    sys.exit(code)
