"""Makes a commented profile from what Slurm reports about a site. The comments mark what Slurm does not report."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping

import yaml

from hpcjobs.base.errors import InputError, nearest
from hpcjobs.base.times import seconds
from hpcjobs.config import Cluster, Document, convert, dump
from hpcjobs.schedulers.slurm.gres import Gpus
from hpcjobs.site import limits, usable
from hpcjobs.site.facts import Facts, Nodes

# The share of a node's memory that jobs request: the system and its daemons need the rest.
_MEMORY_SHARE = 0.95
# The profile's time limit in s, if the partition allows it.
_TIME_S = 4 * 3600
# A comment is written beside its key if the line then has at most this many characters, else above it.
_WIDTH = 116

# (key with its value, or "" for a comment alone; the comment)
_Line = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Detected:
    """A detected profile: `text` is that of its file, `device` is cpu or gpu, `described` a line about its nodes."""

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
    """Nodes with the same GPUs. `away` of them are down, drained or silent.

    `cores` and `memory_mib` are what a job can ask for on each of them, `has_cores` (physical ones), sockets and
    `has_mib` what each of them has. `fewer` and `less` say why a job gets no more.
    """

    gpus_of: tuple[Gpus, ...]
    count: int
    away: int
    has_cores: int
    cores: int
    fewer: str
    sockets: int
    threads_per_core: int
    has_mib: int
    memory_mib: int
    less: str

    @property
    def gpu_type(self) -> str | None:
        return self.gpus_of[0].type if self.gpus_of else None

    @property
    def gpus(self) -> int:
        return self.gpus_of[0].count if self.gpus_of else 0

    def __str__(self) -> str:
        gpus = " and ".join(map(str, self.gpus_of)) or "no GPUs"
        return f"{self.count} nodes, each {gpus}, {self.cores} cores, {self.has_mib / 1024:.0f} GiB"


def profile_of(facts: Facts, partition: str | None = None, device: str | None = None) -> Detected:
    """The profile of a partition, by default of the site's default one. `device` (cpu or gpu) overrides Slurm's GPUs.

    Raises InputError if there is no such partition, or if none is given and Slurm has no default one.
    """
    name = _chosen(facts, partition)
    about = facts.partitions[name]
    kinds = _kinds(facts, about, [nodes for nodes in facts.nodes if nodes.partition == name])
    if not kinds:
        raise InputError(f"partition {name} has no nodes; choose another one: {', '.join(facts.partitions)}")
    kind = kinds[0]
    version = facts.config.get("SLURM_VERSION", "")
    computes = device or ("gpu" if kind.gpus else "cpu")
    lines = [
        ("", f"Made by `hpcjobs cluster detect` from what Slurm {version} reports about this partition."),
        ("", "UNKNOWN marks what Slurm does not report: check these lines first."),
        (f"name: {_scalar(_name(facts, partition))}", ""),
        (f"description: {_scalar(str(kind))}", ""),
        ("scheduler: slurm", ""),
        *_launcher(facts),
        (f"device: {computes}", _why(kind, device)),
        *_nodes(kind, about),
        *(("", f"Other nodes of this partition: {other}") for other in kinds[1:]),
        *_other_gpu_partitions(facts, name, kind),
        *_memory(facts, kind),
        ("sharing: exclusive", "whole nodes, so that no other job disturbs the figures"),
        *_bind(facts),
        (
            f"partition: {_scalar(name)}",
            "" if about.get("State", "UP") == "UP" else f"its state is {about['State']} now",
        ),
        *_accounting(facts, about),
        *limits.lines(facts, about),
        *_time(about),
        (
            "",
            "UNKNOWN: the modules that a job loads, and the Python on the nodes that has the compute half of hpcjobs:",
        ),
        ("", "modules: [cuda/12, openmpi/4.1]"),
        ("", "python: /path/to/venv/bin/python    # absent: the one that runs hpcjobs"),
        ("", "UNKNOWN: the fabric. If NCCL and MPI do not find it by themselves, name it:"),
        ("", 'env: {NCCL_IB_HCA: "=mlx5_0", NCCL_SOCKET_IFNAME: ib0, UCX_NET_DEVICES: "mlx5_0:1"}'),
    ]
    if facts.pyxis:
        lines.append(("", "srun can start containers here: container: {kind: pyxis, image: /path/to/image.sqsh}"))
    return Detected("".join(_written(lines)), name, computes, str(kind))


def _written(lines: Iterable[_Line]) -> Iterator[str]:
    for setting, comment in lines:
        beside = f"{setting:<27} # {comment}"  # YAML's comments need the space
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


def _kinds(facts: Facts, about: Mapping[str, str], here: Iterable[Nodes]) -> list[_Kind]:
    """The kinds of nodes: those with GPUs first, then the most numerous. Each has the smallest values of its nodes."""
    groups: dict[tuple[Gpus, ...], list[Nodes]] = {}
    for nodes in here:
        groups.setdefault(nodes.gpus_of, []).append(nodes)
    kinds = []
    for gpus_of, group in groups.items():
        cores, fewer = usable.cores(facts, about, group)
        memory, less = usable.memory(facts, about, group)
        kinds.append(
            _Kind(
                gpus_of=gpus_of,
                count=sum(each.count for each in group),
                away=sum(each.count for each in group if each.away),
                has_cores=min(each.sockets * each.cores_per_socket for each in group),
                cores=cores,
                fewer=fewer,
                sockets=min(each.sockets for each in group),
                threads_per_core=max(each.threads_per_core for each in group),
                has_mib=min(each.memory_mib for each in group),
                memory_mib=memory,
                less=less,
            )
        )
    return sorted(kinds, key=lambda kind: (kind.gpus == 0, -kind.count, -kind.gpus))


def _name(facts: Facts, partition: str | None) -> str:
    words = [facts.config.get("ClusterName", "slurm"), *([partition] if partition else [])]
    return re.sub(r"[^A-Za-z0-9_]+", "-", "-".join(words)).strip("-_")[:40] or "slurm"


def _launcher(facts: Facts) -> list[_Line]:
    plugin = next((word for word in facts.mpi if word.startswith("pmix")), None)
    if plugin is None:
        listed = f"only {', '.join(facts.mpi)}" if facts.mpi else "no plugin"
        return [("launcher: mpirun", f"`srun --mpi=list` names {listed}; UNKNOWN: whether mpirun is Open MPI's")]
    return [
        ("launcher: srun", ""),
        (f"mpi_plugin: {plugin}", "UNKNOWN: whether MPI on the nodes was built with it; if not, launcher: mpirun"),
    ]


def _why(kind: _Kind, device: str | None) -> str:
    if device is not None:
        return "as --device says"
    if kind.gpus:
        return "Slurm has GPUs; UNKNOWN: whether TensorFlow on the nodes finds them"
    return "Slurm has no GPUs in this partition"


def _nodes(kind: _Kind, about: Mapping[str, str]) -> list[_Line]:
    most = about.get("MaxNodes", "")
    nodes = min(kind.count, int(most)) if most.isdigit() and int(most) else kind.count
    lines = [(f"nodes: {nodes}", f"{kind.away} of {kind.count} are down, drained or silent now" if kind.away else "")]
    per_node = min(kind.gpus or max(1, kind.sockets), kind.cores)
    fewer = f"of {kind.gpus}: a rank needs a core, and a job gets {kind.cores}" if per_node < kind.gpus else ""
    lines.append((f"gpus_per_node: {per_node}", fewer if kind.gpus else "a guess: one rank per socket"))
    shared = bool(kind.gpus_of) and not kind.gpus_of[0].consumed
    lines.append(
        (f"gpu_request: {'gres' if kind.gpus else 'none'}", "no_consume: jobs share the GPUs" if shared else "")
    )
    if kind.gpu_type:
        slices = "slices of GPUs (MIG): NCCL joins none of them" if kind.gpus_of[0].slices else ""
        lines.append((f"gpu_type: {_scalar(kind.gpu_type)}", slices))
    if others := kind.gpus_of[1:]:
        lines.append(("", f"Each of these nodes also has {' and '.join(map(str, others))}: a job asks for one type"))
    why = f"a node has {kind.has_cores} cores" + (f", a job gets {kind.cores}: {kind.fewer}" if kind.fewer else "")
    lines.append((f"cpus_per_gpu: {max(1, kind.cores // per_node)}", why))
    if kind.threads_per_core > 1:
        why = f"Slurm counts {kind.threads_per_core} hyper-threads per core; a rank gets whole cores"
        lines.append(("sbatch: {hint: nomultithread}", why))
    return lines


def _scalar(word: str) -> str:
    """The word as YAML that is read back as a string: some names look like numbers."""
    return dump(word, width=1000).removesuffix("...\n").strip()


def _other_gpu_partitions(facts: Facts, name: str, kind: _Kind) -> list[_Line]:
    """A comment that names the partitions with GPUs, if this one has none."""
    others = dict.fromkeys(nodes.partition for nodes in facts.nodes if nodes.gpus and nodes.partition != name)
    if kind.gpus or not others:
        return []
    return [("", f"Partitions with GPUs, for `cluster detect --partition`: {', '.join(others)}")]


def _memory(facts: Facts, kind: _Kind) -> list[_Line]:
    if "MEMORY" not in facts.config.get("SelectTypeParameters", "").upper():
        return [("", "Slurm does not allocate memory here: mem_per_gpu_mib would have no effect")]
    free = int(kind.has_mib * _MEMORY_SHARE)
    share = min(free, kind.memory_mib) // min(kind.gpus or max(1, kind.sockets), kind.cores)
    why = f"a rank's share of {_MEMORY_SHARE:.0%} of a node's {kind.has_mib} MiB"
    if kind.memory_mib < free:
        why = f"a rank's share of {kind.memory_mib} MiB: {kind.less}; a node has {kind.has_mib} MiB"
    return [(f"mem_per_gpu_mib: {share}", why)]


def _bind(facts: Facts) -> list[_Line]:
    plugins = facts.config.get("TaskPlugin", "")
    if "affinity" in plugins or "cgroup" in plugins:
        return [("bind: cores", f"TaskPlugin {plugins} binds; UNKNOWN: whether numa fits the GPUs' sockets better")]
    return [("bind: none", f"TaskPlugin {plugins or 'unknown'} binds nothing")]


def _accounting(facts: Facts, about: Mapping[str, str]) -> list[_Line]:
    lines: list[_Line] = []
    accounts, qos = list(facts.accounts), list(facts.qos)
    for key, allowed, mine in (("account", "AllowAccounts", accounts), ("qos", "AllowQos", qos)):
        limited_to = about.get(allowed, "ALL")
        denied = about.get(allowed.replace("Allow", "Deny"), "").split(",")
        usable = [
            word for word in mine if word not in denied and (limited_to == "ALL" or word in limited_to.split(","))
        ]
        if len(mine) > 1 or usable != mine:
            choice = f"yours that are allowed here: {', '.join(usable) or 'none'}; absent: your default"
            lines.append(("", f"{key}: {usable[0] if usable else '...':<20}# {choice}"))
    if not accounts:
        enforced = facts.config.get("AccountingStorageEnforce", "none")
        needs = "UNKNOWN: which are yours" if "associations" in enforced else "not needed"
        lines.append(("", f"account and qos: {needs} (AccountingStorageEnforce is {enforced})"))
    if "slurmdbd" not in facts.config.get("AccountingStorageType", "slurmdbd"):
        lines.append(
            ("", "Slurm has no accounting database here: MinJobAge after a job's end it forgets how it ended;")
        )
        lines.append(("", "then only the files of the run tell"))
    return lines


def _time(about: Mapping[str, str]) -> list[_Line]:
    longest = about.get("MaxTime", "UNLIMITED")
    longest_s = seconds(longest)
    limit = longest if longest_s is not None and longest_s < _TIME_S else "04:00:00"
    default = about.get("DefaultTime", longest)
    return [(f'time: "{limit}"', f"to begin with; the partition's MaxTime is {longest}, its DefaultTime {default}")]
