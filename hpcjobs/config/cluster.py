"""A site: the keys of a cluster profile, each with its description."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from hpcjobs.base.times import seconds
from hpcjobs.config.words import Name, NonNegativeInt, OneLine, PositiveInt, Section, VariableName, doc, matching

# Slurm's forms: MINUTES, MINUTES:SECONDS, HH:MM:SS, DAYS-HH, DAYS-HH:MM, DAYS-HH:MM:SS.
TimeLimit = Annotated[str, matching(r"^(\d+-)?\d+(:\d+){0,2}\Z", "a time of Slurm, such as 02:00:00 or 1-00:00:00")]
# Names of nodes in Slurm's short form. Slurm would read a path as a file of names.
HostList = Annotated[str, matching(r"^[A-Za-z0-9][A-Za-z0-9_.,\[\]-]*\Z", "names of hosts, such as node[1-4],login")]
# #SBATCH options without their dashes, such as {mail-type: FAIL}. true: a flag; false: the option is left out.
SbatchOptions = dict[
    Annotated[str, matching(r"^[a-z][a-z-]*\Z", "an option of sbatch, in small letters without --")],
    OneLine | int | bool,
]


class Collect(Section, frozen=True, kw_only=True):
    """The collector, a small job that collects and reports after all other jobs of the sweep have ended."""

    job: Annotated[bool, doc("true: the collector is submitted; false: it is not.")] = True
    partition: Annotated[
        OneLine | None,
        doc(
            "Partition of the collector; absent: the profile's partition, with its qos and constraint. The profile's "
            "account is used in both cases."
        ),
    ] = None
    time: Annotated[TimeLimit | None, doc("Time limit of the collector.")] = "00:15:00"
    retries: Annotated[
        bool,
        doc(
            "true: the collector also submits again the runs that `retry` allows. Compute nodes must be able to submit."
        ),
    ] = False
    sbatch: Annotated[SbatchOptions, doc("More #SBATCH options of the collector alone.")] = msgspec.field(
        default_factory=dict
    )


class Container(Section, frozen=True, kw_only=True):
    """The container in which the ranks run. It is optional: modules and a Python that all nodes see work as well."""

    kind: Annotated[
        Literal["none", "apptainer", "pyxis"],
        doc(
            "none: no container; apptainer: `apptainer exec` around each rank's command; pyxis: srun's "
            "--container-image (NVIDIA's plugin)."
        ),
    ] = "none"
    image: Annotated[
        OneLine | None,
        doc(
            "The image, as the nodes find it: a file, or another source that the kind accepts (docker://..., "
            "nvcr.io#nvidia/...)."
        ),
    ] = None
    mounts: Annotated[
        tuple[OneLine, ...],
        doc(
            "More paths to mount, SOURCE or SOURCE:TARGET. The sweep's folder, the data and the weights are always "
            "mounted."
        ),
    ] = ()
    options: Annotated[tuple[OneLine, ...], doc("More arguments of `apptainer exec`, or of srun for pyxis.")] = ()

    def __post_init__(self) -> None:
        if self.kind != "none" and self.image is None:
            raise ValueError(f"container.kind {self.kind} needs container.image")
        if self.kind == "none" and self.image is not None:
            raise ValueError("container.image needs container.kind apptainer or pyxis")


class Cluster(Section, frozen=True, kw_only=True):
    """A site: which resources its jobs request, and how they start the ranks."""

    name: Annotated[
        Name, doc("Plans and reports show it. In a profile that ships, it is the file's name without .yaml.")
    ]
    description: Annotated[str, doc("Free text.")] = ""
    scheduler: Annotated[
        Literal["slurm", "local"], doc("slurm: jobs are submitted with sbatch; local: they run on this machine.")
    ] = "slurm"
    launcher: Annotated[
        Literal["srun", "mpirun", "horovodrun", "fork"],
        doc(
            "srun: `srun --mpi=MPI_PLUGIN`; mpirun: Open MPI's; horovodrun: `horovodrun --gloo`, which needs ssh "
            "between the nodes and no MPI; fork: the job script itself, on one node, without MPI. Under horovodrun, "
            "jobs are not warned before their time limit."
        ),
    ] = "srun"
    mpi_plugin: Annotated[OneLine, doc("The plugin for `srun --mpi`; `srun --mpi=list` prints those that exist.")] = (
        "pmix"
    )
    launcher_options: Annotated[tuple[OneLine, ...], doc("More arguments of the launcher.")] = ()
    device: Annotated[
        Literal["cpu", "gpu"], doc("What the ranks compute on. hpcjobs never guesses it from the node.")
    ] = "gpu"
    nodes: Annotated[PositiveInt | None, doc("Largest number of nodes of one job; absent: no limit is known.")] = None
    gpus_per_node: Annotated[
        PositiveInt | None, doc("Ranks, with one GPU each, that fill a node; absent: any number fits on one node.")
    ] = None
    gpu_request: Annotated[
        Literal["gres", "gpus-per-node", "none"],
        doc(
            "How a job requests GPUs. gres: --gres=gpu[:TYPE]:N; gpus-per-node: --gpus-per-node=[TYPE:]N; none: not at "
            "all."
        ),
    ] = "gres"
    gpu_type: Annotated[OneLine | None, doc("The site's name for the type of GPU; absent: any type.")] = None
    cpus_per_gpu: Annotated[PositiveInt, doc("Physical CPUs that each rank gets, the same at every size.")] = 1
    mem_per_gpu_mib: Annotated[
        PositiveInt | None, doc("Memory per rank in MiB, the same at every size; absent: the site's default.")
    ] = None
    sharing: Annotated[
        Literal["exclusive", "shared"],
        doc("exclusive: jobs get whole nodes; shared: other jobs may run on the same nodes, and the rows are marked."),
    ] = "exclusive"
    uneven_nodes: Annotated[bool, doc("true: GPU counts that do not fill their nodes evenly are allowed.")] = False
    bind: Annotated[
        Literal["cores", "numa", "none"],
        doc(
            "cores: each rank is bound to its share of the CPUs; numa: to a NUMA domain; none: ranks are not bound. "
            "With numa, srun gives neighbouring ranks one domain and its memory; mpirun assigns the domains in turn."
        ),
    ] = "cores"
    partition: Annotated[OneLine | None, doc("Partition of the jobs; absent: the site's default.")] = None
    account: Annotated[OneLine | None, doc("Account that the jobs are charged to; absent: your default account.")] = (
        None
    )
    qos: Annotated[OneLine | None, doc("Quality of service; absent: your default.")] = None
    reservation: Annotated[
        OneLine | None,
        doc("Reservation of the jobs, one that `scontrol show reservation` prints; absent: no reservation."),
    ] = None
    constraint: Annotated[
        OneLine | None, doc("Features that the nodes must have, such as v100-32g; absent: any node will do.")
    ] = None
    nodelist: Annotated[
        HostList | None,
        doc(
            "Nodes to use, such as gpu[01-04]. A size that needs fewer nodes gets the first of them; one that needs "
            "more gets others too."
        ),
    ] = None
    exclude: Annotated[OneLine | None, doc("Nodes not to use.")] = None
    time: Annotated[
        TimeLimit | None,
        doc("Time limit of a job, in Slurm's forms: MINUTES, HH:MM:SS, D-HH:MM:SS; absent: the site's default."),
    ] = None
    signal_s: Annotated[
        int,
        msgspec.Meta(ge=0, le=65535),
        doc(
            "Seconds before the end of `time` at which Slurm signals the job to write a checkpoint; 0: no signal. "
            "Slurm may be a minute early: a job whose time limit is no longer than signal_s and that minute gets no "
            "signal. signal_s is ignored under launcher horovodrun, which cannot pass a signal on."
        ),
    ] = 120
    requeues: Annotated[
        NonNegativeInt,
        doc("How often a job that ends after this signal is requeued, to continue from its checkpoint; 0: never."),
    ] = 3
    retry: Annotated[
        dict[str, NonNegativeInt],
        doc(
            "How often a run is submitted again after each class of failure. Allowed classes: node_failure, "
            "boot_failure, preempted, interrupted, lost, timeout, stalled."
        ),
    ] = msgspec.field(default_factory=lambda: {"node_failure": 2, "boot_failure": 2, "preempted": 2, "interrupted": 2})
    collect: Collect = Collect()
    sbatch: Annotated[
        SbatchOptions, doc("More #SBATCH options, without their dashes, such as {mail-type: FAIL}; true: a flag.")
    ] = msgspec.field(default_factory=dict)
    modules: Annotated[tuple[OneLine, ...], doc("Modules that the job loads with `module load`, in this order.")] = ()
    prologue: Annotated[str, doc("Shell lines that the job runs before the launcher, exactly as they are.")] = ""
    env: Annotated[dict[VariableName, OneLine], doc("Environment variables of the ranks.")] = msgspec.field(
        default_factory=dict
    )
    node_sampler: Annotated[
        bool,
        doc(
            "true: beside a command a process on each node, in hpcjobs' own Python, records what the node is and once "
            "a second what its GPUs and the job's control group use; false: it does not. The built-in trainer records "
            "its nodes itself."
        ),
    ] = True
    container: Container = Container()
    python: Annotated[
        OneLine | None,
        doc(
            "The Python that has the compute half; with a container, the one inside it. Absent: the Python that runs "
            "hpcjobs."
        ),
    ] = None
    template: Annotated[
        OneLine | None,
        doc("A job template of yours, which may extend base.sbatch.j2. A relative path starts at this file's folder."),
    ] = None

    def __post_init__(self) -> None:
        _refuse("sbatch", self.sbatch, OWNED_SBATCH)
        _refuse("collect.sbatch", self.collect.sbatch, OWNED_BY_COLLECTOR)
        for kind in self.retry:
            if kind not in RETRYABLE:
                raise ValueError(f"retry.{kind}: {_why_not(kind)}; these may be retried: {', '.join(RETRYABLE)}")
        if self.gpu_request != "none" and self.gpus_per_node is None:
            raise ValueError(f"gpu_request {self.gpu_request} needs gpus_per_node")
        if self.launcher in ("horovodrun", "fork") and self.bind != "none":
            raise ValueError(f"launcher {self.launcher} cannot bind ranks, but bind is {self.bind}: set bind: none")
        if self.launcher == "horovodrun":
            self._check_horovodrun()
        if self.container.kind == "pyxis" and self.launcher != "srun":
            raise ValueError(f"container.kind pyxis needs launcher srun, but the launcher is {self.launcher}")

    def _check_horovodrun(self) -> None:
        if "NCCL_SOCKET_IFNAME" in self.env:
            # horovodrun exports this variable itself, after those of the profile (horovod/runner/gloo_run.py).
            raise ValueError(
                "env.NCCL_SOCKET_IFNAME would not reach the ranks under launcher horovodrun; name the interface in "
                "launcher_options: [--network-interfaces, NAME]"
            )

    @property
    def warned_s(self) -> int:
        """Seconds before the time limit at which Slurm signals a job; 0 where it does not.

        A job gets no signal where its time limit leaves no room for one that Slurm sends early. signal_s is ignored
        under launcher horovodrun, which cannot pass a signal on.
        """
        if self.launcher == "horovodrun":
            return 0
        limit = (seconds(self.time) or 0) if self.time else 0
        return self.signal_s if not limit or limit > self.signal_s + EARLY_S else 0


# Slurm may send the signal of `--signal` up to this many seconds early.
EARLY_S = 60

# Classes of failure that come from outside a run, or that may not happen again: only these may be retried.
RETRYABLE = ("node_failure", "boot_failure", "preempted", "interrupted", "lost", "timeout", "stalled")
_WOULD_FAIL_AGAIN = {
    "out_of_memory": "the run would need the same memory again",
    "traceback": "the same code would fail again",
    "no_measurement": "the run would measure nothing again",
    "nan_loss": "the run would compute the same numbers again",
}


def _why_not(kind: str) -> str:
    near = difflib.get_close_matches(kind, RETRYABLE, n=1, cutoff=0.8)
    return f"did you mean '{near[0]}'?" if near else _WOULD_FAIL_AGAIN.get(kind, "such a run would fail again")


def _refuse(section: str, options: SbatchOptions, owned: Mapping[str, str]) -> None:
    """Raises ValueError for an option that hpcjobs sets itself: `owned` maps it to the profile's key, or to ""."""
    for option in sorted(options):
        # sbatch accepts an option's first letters for the option.
        name = option if option in owned else next((name for name in sorted(owned) if name.startswith(option)), None)
        if name is None:
            continue
        short = "" if name == option else f" (it is short for {name})"
        cure = f"use the profile's own key {owned[name]}" if owned[name] else "leave it out"
        raise ValueError(f"{section}.{option} is set by hpcjobs itself{short}; {cure}")


# Options that hpcjobs writes into the script or onto sbatch's command line itself, and the profile's key for each.
OWNED_SBATCH: Mapping[str, str] = {
    "account": "account",
    "array": "",
    "comment": "",
    "constraint": "constraint",
    "cpus-per-gpu": "cpus_per_gpu",
    "cpus-per-task": "cpus_per_gpu",
    "dependency": "",
    "error": "",
    "exclude": "exclude",
    "exclusive": "sharing",
    "gpus": "gpu_request",
    "gpus-per-node": "gpu_request",
    "gpus-per-task": "gpu_request",
    "gres": "gpu_request",
    "job-name": "",
    "kill-on-invalid-dep": "",
    "mem": "mem_per_gpu_mib",
    "mem-per-cpu": "mem_per_gpu_mib",
    "mem-per-gpu": "mem_per_gpu_mib",
    "no-requeue": "requeues",
    "nodefile": "nodelist",
    "nodelist": "nodelist",
    "nodes": "nodes",
    "ntasks": "",
    "ntasks-per-node": "gpus_per_node",
    "open-mode": "",
    "output": "",
    "oversubscribe": "sharing",
    "parsable": "",
    "partition": "partition",
    "qos": "qos",
    "requeue": "requeues",
    "reservation": "reservation",
    "signal": "signal_s",
    "tasks-per-node": "gpus_per_node",
    "test-only": "",
    "time": "time",
    "wait": "",
    "wrap": "",
}

# The same for the collector. It has one task and no GPU, and its own options may ask for memory.
OWNED_BY_COLLECTOR: Mapping[str, str] = {
    **{option: "" for option, key in OWNED_SBATCH.items() if not key},
    **dict.fromkeys(("exclusive", "nodes", "no-requeue", "ntasks-per-node", "requeue", "signal"), ""),
    "partition": "collect.partition",
    "time": "collect.time",
}
