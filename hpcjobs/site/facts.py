"""What Slurm's commands report about a site: facts only, no conclusions."""

from __future__ import annotations

import dataclasses
import getpass
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from hpcjobs.base.errors import SchedulerUnreachable
from hpcjobs.schedulers.slurm.commands import Refused, run
from hpcjobs.schedulers.slurm.limits import mpi_plugins

_SINFO = ("sinfo", "--noheader", "--exact", "--format=%R|%D|%t|%m|%X|%Y|%Z|%G")
_CONFIG = ("scontrol", "show", "config")
_PARTITIONS = ("scontrol", "--oneliner", "show", "partition")
_MPI = ("srun", "--mpi=list")
_HELP = ("srun", "--help")
_ASSOC = ("sacctmgr", "--noheader", "--parsable2", "--readonly", "show", "assoc", "format=Account,QOS")
# Matches gpu:v100:4(S:0-1) and gpu:4. The types of MIG slices begin with a digit.
_GPUS = re.compile(r"(?:^|,)gpu:(?:([^:,()]+):)?(\d+)(?=[(,]|$)")
# How sinfo's compact states (%t) begin for nodes that accept no job.
_AWAY = ("down", "drain", "drng", "fail", "inval", "unk")


@dataclasses.dataclass(frozen=True)
class Nodes:
    """Equal nodes of a partition: their number, and what each of them has.

    `away`: they are down or drained. `gpus`: the number of GPUs of the type `gpu_type`.
    """

    partition: str
    count: int
    away: bool
    memory_mib: int
    sockets: int
    cores_per_socket: int
    threads_per_core: int
    gpu_type: str | None
    gpus: int


@dataclasses.dataclass(frozen=True)
class Facts:
    """Everything that Slurm reports about a site. The fields of a command that failed are empty."""

    config: Mapping[str, str]
    partitions: Mapping[str, Mapping[str, str]]
    nodes: tuple[Nodes, ...]
    mpi: tuple[str, ...]
    pyxis: bool
    accounts: tuple[str, ...]
    qos: tuple[str, ...]


def ask() -> Facts:
    """Query Slurm. Raises SchedulerUnreachable or Refused if scontrol or sinfo fails; the other commands may fail."""
    commands = (_CONFIG, _PARTITIONS, _SINFO, _MPI, _HELP, (*_ASSOC, f"user={getpass.getuser()}"))
    with ThreadPoolExecutor() as pool:  # a command spends most of its time on connecting
        running = [pool.submit(run, *command, both=command is _MPI) for command in commands]
    config, partitions, nodes = (each.result() for each in running[:3])
    rest = []
    for each in running[3:]:
        try:
            rest.append(each.result())
        except (Refused, SchedulerUnreachable):
            rest.append("")
    return read(config, partitions, nodes, *rest)


def read(config: str, partitions: str, nodes: str, mpi: str = "", help_: str = "", assoc: str = "") -> Facts:
    """The facts, from the output of the commands."""
    by_name = {}
    for line in partitions.splitlines():
        words = dict(word.split("=", 1) for word in line.split() if "=" in word)
        if "PartitionName" in words:
            by_name[words["PartitionName"]] = words
    rows = [line.partition("|")[::2] for line in assoc.splitlines()]
    return Facts(
        # Newer versions (24.11, 26.05) print (null) where no plugin is configured.
        config=dict(re.findall(r"^(\w+)\s*= (.*?)\s*$", config.replace("(null)", "none"), re.MULTILINE)),
        partitions=by_name,
        nodes=tuple(alike for line in nodes.splitlines() if (alike := _nodes(line)) is not None),
        mpi=tuple(name for name in mpi_plugins(mpi) if name != "none"),
        pyxis="--container-image" in help_,
        accounts=tuple(dict.fromkeys(account for account, _ in rows if account)),
        qos=tuple(dict.fromkeys(word for _, words in rows for word in words.split(",") if word)),
    )


def _nodes(line: str) -> Nodes | None:
    words = line.strip().split("|", 7)
    if len(words) != 8:
        return None
    partition, count, state, *sizes, gres = words
    # sinfo appends a + to the smallest value if some of the nodes have more.
    memory, sockets, cores, threads = (int(size.rstrip("+") or 0) for size in sizes)
    found = [(kind or None, int(number)) for kind, number in _GPUS.findall(gres)]
    # If a node has several types of GPUs, only the most numerous one counts.
    kind, gpus = max(found, key=lambda each: each[1], default=(None, 0))
    away = state.startswith(_AWAY)
    return Nodes(partition, int(count), away, memory, sockets, cores, threads, kind, gpus)
