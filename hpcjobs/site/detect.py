"""From what Slurm says of a site to a profile, with comments on what it does not say."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping

import yaml

from hpcjobs.base.errors import InputError, nearest
from hpcjobs.base.times import seconds
from hpcjobs.config import Cluster, Document, convert, dump
from hpcjobs.site.facts import Facts, Nodes

# Memory that is asked for, of what a node has: the system and its daemons need some.
_MEMORY_SHARE = 0.95
# A time limit to begin with, in s, where the partition allows it.
_TIME_S = 4 * 3600
# A comment stands beside its key where the line has no more characters.
_WIDTH = 116

# A key with its value (none: a comment alone), and the comment.
_Line = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Detected:
    """A profile as the text of its file; `device` says what it computes on."""

    text: str
    partition: str
    device: str
    described: str

    @property
    def cluster(self) -> Cluster:
        """The profile itself."""
        return convert(Document("detected profile", yaml.safe_load(self.text), {}), Cluster)


@dataclasses.dataclass(frozen=True)
class _Kind:
    """Nodes with the same GPUs; of the rest what the least of them has."""

    gpu_type: str | None
    gpus: int
    count: int
    away: int
    cores: int
    sockets: int
    threads_per_core: int
    memory_mib: int

    def __str__(self) -> str:
        gpus = f"{self.gpus} {self.gpu_type or 'GPUs'}" if self.gpus else "no GPUs"
        return f"{self.count} nodes, each {gpus}, {self.cores} cores, {self.memory_mib / 1024:.0f} GiB"


def profile_of(facts: Facts, partition: str | None = None, device: str | None = None) -> Detected:
    """A profile for one partition, else the default one. `device`: cpu or gpu, whatever Slurm calls a GPU.

    Raises InputError where there is no such partition, or none that stands out.
    """
    name = _chosen(facts, partition)
    kinds = _kinds(nodes for nodes in facts.nodes if nodes.partition == name)
    if not kinds:
        raise InputError(f"partition {name} has no nodes; choose another one: {', '.join(facts.partitions)}")
    kind, about = kinds[0], facts.partitions[name]
    computes = device or ("gpu" if kind.gpus else "cpu")
    lines = [
        (
            "",
            f"By `hpcjobs cluster detect`: what Slurm {facts.config.get('SLURM_VERSION', '')} says of this partition.",
        ),
        ("", "UNKNOWN marks what it does not say: look there first."),
        (f"name: {_scalar(_name(facts, partition))}", ""),
        (f"description: {_scalar(str(kind))}", ""),
        ("scheduler: slurm", ""),
        *_launcher(facts),
        (f"device: {computes}", _why(kind, device)),
        *_nodes(kind, about),
        *(("", f"Other nodes of this partition: {other}") for other in kinds[1:]),
        *_elsewhere(facts, name, kind),
        *_memory(facts, about, kind),
        ("sharing: exclusive", "whole nodes, so that no other job disturbs the figures"),
        *_bind(facts),
        (f"partition: {_scalar(name)}", "" if about.get("State", "UP") == "UP" else f"it is {about['State']} now"),
        *_accounting(facts, about),
        *_time(about),
        ("", "UNKNOWN: what a job needs before Python starts, and the Python that has the compute half on the nodes:"),
        ("", "modules: [cuda/12, openmpi/4.1]"),
        ("", "python: /path/to/venv/bin/python    # absent: the one that runs hpcjobs"),
        ("", "UNKNOWN: the fabric. Where NCCL and MPI do not find it by themselves, name it:"),
        ("", 'env: {NCCL_IB_HCA: "=mlx5_0", NCCL_SOCKET_IFNAME: ib0, UCX_NET_DEVICES: "mlx5_0:1"}'),
    ]
    if facts.pyxis:
        lines.append(("", "srun starts containers here (pyxis): container: {kind: pyxis, image: /path/to/image.sqsh}"))
    return Detected("".join(_written(lines)), name, computes, str(kind))


def _written(lines: Iterable[_Line]) -> Iterator[str]:
    for setting, comment in lines:
        beside = f"{setting:<28}# {comment}"
        if not setting or (comment and len(beside) > _WIDTH):
            yield f"# {comment}\n"
        if setting:
            yield f"{beside if comment and len(beside) <= _WIDTH else setting}\n"


def _chosen(facts: Facts, partition: str | None) -> str:
    if not facts.partitions:
        raise InputError("scontrol names no partition")
    if partition is not None:
        if partition not in facts.partitions:
            raise InputError(f"no partition '{partition}': {nearest(partition, facts.partitions)}")
        return partition
    default = [name for name, about in facts.partitions.items() if about.get("Default") == "YES"]
    if not default and len(facts.partitions) > 1:
        raise InputError(f"no partition is the default one; give --partition, one of {', '.join(facts.partitions)}")
    return (default or list(facts.partitions))[0]


def _kinds(here: Iterable[Nodes]) -> list[_Kind]:
    """The kinds of nodes: those with GPUs first, then the most numerous."""
    groups: dict[tuple[str | None, int], list[Nodes]] = {}
    for nodes in here:
        groups.setdefault((nodes.gpu_type, nodes.gpus), []).append(nodes)
    kinds = [
        _Kind(
            gpu_type,
            gpus,
            sum(each.count for each in group),
            sum(each.count for each in group if each.away),
            min(each.sockets * each.cores_per_socket for each in group),
            min(each.sockets for each in group),
            max(each.threads_per_core for each in group),
            min(each.memory_mib for each in group),
        )
        for (gpu_type, gpus), group in groups.items()
    ]
    return sorted(kinds, key=lambda kind: (kind.gpus == 0, -kind.count, -kind.gpus))


def _name(facts: Facts, partition: str | None) -> str:
    words = [facts.config.get("ClusterName", "slurm"), *([partition] if partition else [])]
    return re.sub(r"[^A-Za-z0-9_]+", "-", "-".join(words)).strip("-_")[:40] or "slurm"


def _launcher(facts: Facts) -> list[_Line]:
    plugin = next((word for word in facts.mpi if word.startswith("pmix")), None)
    if plugin is None:
        had = f"only {', '.join(facts.mpi)}" if facts.mpi else "nothing"
        return [("launcher: mpirun", f"`srun --mpi=list` names {had}; UNKNOWN: whether mpirun is Open MPI's")]
    return [
        ("launcher: srun", ""),
        (f"mpi_plugin: {plugin}", "UNKNOWN: whether the MPI on the nodes was built for it; else launcher: mpirun"),
    ]


def _why(kind: _Kind, device: str | None) -> str:
    if device is not None:
        return "as it was told"
    if kind.gpus:
        return "Slurm says gpu; UNKNOWN: whether TensorFlow on the nodes finds them"
    return "Slurm has no GPUs in this partition"


def _nodes(kind: _Kind, about: Mapping[str, str]) -> list[_Line]:
    most = about.get("MaxNodes", "")
    nodes = min(kind.count, int(most)) if most.isdigit() and int(most) else kind.count
    lines = [(f"nodes: {nodes}", f"{kind.away} of {kind.count} are down or drained now" if kind.away else "")]
    per_node = kind.gpus or max(1, kind.sockets)
    lines.append((f"gpus_per_node: {per_node}", "" if kind.gpus else "one rank a socket: a guess"))
    lines.append((f"gpu_request: {'gres' if kind.gpus else 'none'}", ""))
    if kind.gpu_type:
        lines.append((f"gpu_type: {_scalar(kind.gpu_type)}", ""))
    lines.append((f"cpus_per_gpu: {max(1, kind.cores // per_node)}", f"of {kind.cores} cores"))
    if kind.threads_per_core > 1:
        hyper = f"Slurm counts {kind.threads_per_core} hyper-threads a core; each rank gets cores"
        lines.append(("sbatch: {hint: nomultithread}", hyper))
    return lines


def _scalar(word: str) -> str:
    """A word as YAML reads it back: some names look like numbers."""
    return dump(word, width=1000).removesuffix("...\n").strip()


def _elsewhere(facts: Facts, name: str, kind: _Kind) -> list[_Line]:
    """Which other partitions have GPUs, where this one has none."""
    others = dict.fromkeys(nodes.partition for nodes in facts.nodes if nodes.gpus and nodes.partition != name)
    if kind.gpus or not others:
        return []
    return [("", f"Partitions with GPUs, for `cluster detect --partition`: {', '.join(others)}")]


def _memory(facts: Facts, about: Mapping[str, str], kind: _Kind) -> list[_Line]:
    if "MEMORY" not in facts.config.get("SelectTypeParameters", "").upper():
        return [("", "Memory is not given out by Slurm here: mem_per_gpu_mib would change nothing")]
    caps = [about.get("MaxMemPerNode", ""), facts.config.get("MaxMemPerNode", "")]
    node = min([int(kind.memory_mib * _MEMORY_SHARE), *(int(cap) for cap in caps if cap.isdigit() and int(cap))])
    share = node // (kind.gpus or max(1, kind.sockets))
    return [(f"mem_per_gpu_mib: {share}", f"a rank's share of {_MEMORY_SHARE:.0%} of a node's {kind.memory_mib} MiB")]


def _bind(facts: Facts) -> list[_Line]:
    plugins = facts.config.get("TaskPlugin", "")
    if "affinity" in plugins or "cgroup" in plugins:
        return [("bind: cores", f"by TaskPlugin {plugins}; UNKNOWN: whether numa fits the GPUs' sockets better")]
    return [("bind: none", f"TaskPlugin {plugins or 'unknown'} binds nothing")]


def _accounting(facts: Facts, about: Mapping[str, str]) -> list[_Line]:
    lines: list[_Line] = []
    accounts, qos = list(facts.accounts), list(facts.qos)
    for key, allowed, mine in (("account", "AllowAccounts", accounts), ("qos", "AllowQos", qos)):
        bound = about.get(allowed, "ALL")
        may = [word for word in mine if bound == "ALL" or word in bound.split(",")]
        if len(mine) > 1 or may != mine:
            yours = f"yours here: {', '.join(may) or 'none'}; absent: your default one"
            lines.append(("", f"{key}: {may[0] if may else '...':<20}# {yours}"))
    if not accounts:
        enforced = facts.config.get("AccountingStorageEnforce", "none")
        needs = "UNKNOWN: yours" if "associations" in enforced else "not needed"
        lines.append(("", f"account and qos: {needs} (AccountingStorageEnforce is {enforced})"))
    if "slurmdbd" not in facts.config.get("AccountingStorageType", "slurmdbd"):
        lines.append(
            ("", "Slurm keeps no books here: how a job ended is known for MinJobAge after it, and from its own files")
        )
    return lines


def _time(about: Mapping[str, str]) -> list[_Line]:
    said = about.get("MaxTime", "UNLIMITED")
    most = seconds(said)
    limit = said if most is not None and most < _TIME_S else "04:00:00"
    return [
        (
            f'time: "{limit}"',
            f"a start; the partition allows {said}, and gives {about.get('DefaultTime', said)} without",
        )
    ]
