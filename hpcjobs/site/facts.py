"""What Slurm's commands report about a site: facts only, no conclusions."""

from __future__ import annotations

import dataclasses
import getpass
import grp
import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from hpcjobs.base.errors import SchedulerUnreachable
from hpcjobs.base.hostlist import expand_indices
from hpcjobs.schedulers.slurm.commands import Refused, run
from hpcjobs.schedulers.slurm.gres import Gpus, gpus
from hpcjobs.schedulers.slurm.limits import mpi_plugins

_SINFO = ("sinfo", "--noheader", "--exact", "--format=%R|%D|%t|%m|%X|%Y|%Z|%G")
_CONFIG = ("scontrol", "show", "config")
_PARTITIONS = ("scontrol", "--oneliner", "show", "partition")
_MPI = ("srun", "--mpi=list")
_NODES = ("scontrol", "--oneliner", "show", "node")
_RESERVATIONS = ("scontrol", "--oneliner", "show", "reservation")
_HELP = ("srun", "--help")
_ASSOC = ("sacctmgr", "--noheader", "--parsable2", "--readonly", "show", "assoc", "format=Account,QOS")
# How sinfo's compact states (%t) begin for nodes that accept no job.
_AWAY = ("down", "drain", "drng", "fail", "inval", "unk")


@dataclasses.dataclass(frozen=True)
class Nodes:
    """Equal nodes of a partition: their number, and what each of them has.

    `away`: they are down, drained or silent. `gpus_of`: their GPUs by type, those first that a job should ask for.
    """

    partition: str
    count: int
    away: bool
    memory_mib: int
    sockets: int
    cores_per_socket: int
    threads_per_core: int
    gpus_of: tuple[Gpus, ...]

    @property
    def gpus(self) -> int:
        """The number of GPUs that a job should ask for, all of one type."""
        return self.gpus_of[0].count if self.gpus_of else 0


@dataclasses.dataclass(frozen=True)
class NodeLimits:
    """What jobs can ask for on one node. `why` names the setting that keeps cores for the system."""

    partitions: tuple[str, ...]
    gpus_of: tuple[Gpus, ...]
    cores: int
    memory_mib: int
    why: str


@dataclasses.dataclass(frozen=True)
class Facts:
    """Everything that Slurm reports about a site. The fields of a command that failed are empty.

    `groups` are the user's, from the system. `reservations` are those of now, by their keys and values.
    """

    config: Mapping[str, str]
    partitions: Mapping[str, Mapping[str, str]]
    nodes: tuple[Nodes, ...]
    mpi: tuple[str, ...]
    pyxis: bool
    accounts: tuple[str, ...]
    qos: tuple[str, ...]
    limits: tuple[NodeLimits, ...] = ()
    reservations: tuple[Mapping[str, str], ...] = ()
    groups: tuple[str, ...] = ()


def ask() -> Facts:
    """Query Slurm. Raises SchedulerUnreachable or Refused if scontrol or sinfo fails; the other commands may fail."""
    assoc = (*_ASSOC, f"user={getpass.getuser()}")
    commands = (_CONFIG, _PARTITIONS, _SINFO, _MPI, _HELP, assoc, _NODES, _RESERVATIONS)
    with ThreadPoolExecutor() as pool:  # a command spends most of its time on connecting
        running = [pool.submit(run, *command, both=command is _MPI) for command in commands]
    config, partitions, nodes = (each.result() for each in running[:3])
    rest = []
    for each in running[3:]:
        try:
            rest.append(each.result())
        except (Refused, SchedulerUnreachable):
            rest.append("")
    return dataclasses.replace(read(config, partitions, nodes, *rest), groups=_groups())


def read(
    config: str,
    partitions: str,
    nodes: str,
    mpi: str = "",
    help_: str = "",
    assoc: str = "",
    each_node: str = "",
    reservations: str = "",
) -> Facts:
    """The facts, from the output of the commands."""
    by_name = {words["PartitionName"]: words for words in _words(partitions) if "PartitionName" in words}
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
        limits=tuple(found for words in _words(each_node) if (found := _limits(words)) is not None),
        reservations=tuple(words for words in _words(reservations) if "ReservationName" in words),
    )


def _words(text: str) -> list[dict[str, str]]:
    """The keys and values of each line of `scontrol --oneliner`. A value with spaces ends at the first of them."""
    return [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in text.splitlines()]


def _limits(words: Mapping[str, str]) -> NodeLimits | None:
    try:
        threads = int(words["ThreadsPerCore"])
        total = int(words["CPUTot"])
        cores = int(words["CoresPerSocket"]) * int(words["Sockets"])
        memory = int(words["RealMemory"])
    except (KeyError, ValueError):
        return None
    # Some sites have Slurm count cores as CPUs though the cores have hyper-threads.
    per_core = threads if total > cores else 1
    usable, why = total // per_core, ""
    if (effective := words.get("CPUEfctv", "")).isdigit():  # Slurm 22.05 says what is left
        usable = int(effective) // per_core
        why = next(
            (key for key in ("CPUSpecList", "CoreSpecCount") if words.get(key, "0") not in ("0", "")), "CPUEfctv"
        )
    elif (kept := words.get("CPUSpecList", "")) and kept != "(null)":
        usable, why = (total - len(expand_indices(kept))) // per_core, "CPUSpecList"
    elif (kept := words.get("CoreSpecCount", "")).isdigit():
        usable, why = usable - int(kept), "CoreSpecCount"
    kept = words.get("MemSpecLimit", "")
    left = memory - int(kept) if kept.isdigit() else memory
    names = tuple(words.get("Partitions", "").split(","))
    return NodeLimits(names, gpus(words.get("Gres", "")), usable, left, why)


def _groups() -> tuple[str, ...]:
    found = []
    for number in os.getgroups():
        try:
            found.append(grp.getgrgid(number).gr_name)
        except KeyError:
            continue
    return tuple(found)


def _nodes(line: str) -> Nodes | None:
    words = line.strip().split("|", 7)
    if len(words) != 8:
        return None
    partition, count, state, *sizes, gres = words
    # sinfo appends a + to the smallest value if some of the nodes have more.
    memory, sockets, cores, threads = (int(size.rstrip("+") or 0) for size in sizes)
    away = state.startswith(_AWAY) or state.endswith("*")  # it does not respond
    return Nodes(partition, int(count), away, memory, sockets, cores, threads, gpus(gres))
