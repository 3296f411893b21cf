"""How many cores and how much memory of a node a job can ask for: what the site keeps for itself is left out. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

from hpcjobs.site.facts import Facts, NodeLimits, Nodes

_UNITS = {"": 1, "M": 1, "G": 1024, "T": 1024**2, "P": 1024**3}


def cores(facts: Facts, about: Mapping[str, str], group: Iterable[Nodes]) -> tuple[int, str]:
    """(cores of a node that a job can ask for, why they are fewer than it has; "" if they are not).

    The fewest of what its nodes say (CPUEfctv, CPUSpecList, CoreSpecCount), of what the partition's TRES leave, and of
    MaxCPUsPerNode and MaxCPUsPerSocket. `group` are nodes of one kind in the partition `about`.
    """
    those = list(group)
    has = min(each.sockets * each.cores_per_socket for each in those)
    threads = max(each.threads_per_core for each in those)
    found = [(has, "")]
    for node in _limits(facts, those):
        if node.cores < has:
            found.append((node.cores, f"{node.why} of its nodes"))
    per_cpu = threads if _counts_threads(facts, about) else 1
    if (total := _tres(about, "cpu")) and (count := _alone(facts, about, those)):
        found.append((total // count // per_cpu, f"the partition's TRES cpu={total}"))
    for key, times in (("MaxCPUsPerNode", 1), ("MaxCPUsPerSocket", min(each.sockets for each in those))):
        if (most := about.get(key, "")).isdigit() and int(most):
            found.append((int(most) * times // per_cpu, f"the partition's {key}={most}"))
    least, why = min(found, key=lambda each: each[0])
    return max(1, least), why


def memory(facts: Facts, about: Mapping[str, str], group: Iterable[Nodes]) -> tuple[int, str]:
    """(MiB of a node that a job can ask for, why it is less than the node has; "" if it is not).

    As `cores`, with MemSpecLimit of the nodes, TRES of the partition, MaxMemPerNode and MaxMemPerCPU of both partition
    and site. Slurm's CPUs may be hyper-threads: one for each core is what a job is sure to get.
    """
    those = list(group)
    has = min(each.memory_mib for each in those)
    found = [(has, "")]
    for node in _limits(facts, those):
        if node.memory_mib < has:
            found.append((node.memory_mib, "MemSpecLimit of its nodes"))
    if (total := _tres(about, "mem")) and (count := _alone(facts, about, those)) and total // count < has:
        found.append((total // count, "the partition's TRES mem"))
    for whose, words in (("the partition's", about), ("the site's", facts.config)):
        if (most := words.get("MaxMemPerNode", "")).isdigit() and int(most):
            found.append((int(most), f"{whose} MaxMemPerNode={most}"))
        if (most := words.get("MaxMemPerCPU", "")).isdigit() and int(most):
            found.append((int(most) * cores(facts, about, those)[0], f"{whose} MaxMemPerCPU={most}"))
    least, why = min(found, key=lambda each: each[0])
    return least, why


def _limits(facts: Facts, those: list[Nodes]) -> list[NodeLimits]:
    kinds = {(each.partition, each.gpus_of) for each in those}
    return [node for node in facts.limits if any((name, node.gpus_of) in kinds for name in node.partitions)]


def _counts_threads(facts: Facts, about: Mapping[str, str]) -> bool:
    """Whether Slurm's CPUs are hyper-threads here. A site may have it count cores: then TotalCPUs says so."""
    here = [each for each in facts.nodes if each.partition == about.get("PartitionName")]
    physical = sum(each.count * each.sockets * each.cores_per_socket for each in here)
    total = about.get("TotalCPUs", "")
    return not (total.isdigit() and int(total) <= physical)


def _alone(facts: Facts, about: Mapping[str, str], those: list[Nodes]) -> int:
    """The number of the partition's nodes if all are of this kind and alike; else 0: its TRES are the sum of all."""
    here = [each for each in facts.nodes if each.partition == about.get("PartitionName")]
    sizes = {(each.gpus_of, each.sockets, each.cores_per_socket, each.memory_mib) for each in here}
    return sum(each.count for each in those) if len(sizes) == 1 and len(here) == len(those) else 0


def _tres(about: Mapping[str, str], name: str) -> int:
    """A number of the partition's TRES: CPUs, or memory in MiB; 0 if it is not told."""
    match = re.search(rf"(?:^|,){name}=(\d+(?:\.\d+)?)([MGTP]?)(?=,|$)", about.get("TRES", ""))
    return math.floor(float(match[1]) * _UNITS[match[2]]) if match else 0
