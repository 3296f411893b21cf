"""A site: the keys of a cluster profile. The comments are the reference of every key."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from hpcjobs.base.times import seconds
from hpcjobs.config.words import Name, NonNegativeInt, OneLine, PositiveInt, Section, VariableName

# Slurm's forms: MINUTES, MINUTES:SECONDS, HH:MM:SS, DAYS-HH, DAYS-HH:MM, DAYS-HH:MM:SS.
TimeLimit = Annotated[str, msgspec.Meta(pattern=r"^(\d+-)?\d+(:\d+){0,2}\Z")]
# Names of nodes in Slurm's short form. A path would be read as a file of names.
HostList = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.,\[\]-]*\Z")]
# #SBATCH options without the dashes, such as {mail-type: FAIL}; true: a flag; false: not that option.
SbatchOptions = dict[Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z-]*\Z")], OneLine | int | bool]


class Collect(Section, frozen=True, kw_only=True):
    """The last small job of a sweep: it collects and reports once all others have ended."""

    # false: none is submitted.
    job: bool = True
    # absent: the profile's own, with its qos and constraint. The profile's account is used either way.
    partition: OneLine | None = None
    # Its time limit.
    time: TimeLimit | None = "00:15:00"
    # true, where compute nodes may submit: it also runs again what `retry` allows.
    retries: bool = False
    # More #SBATCH options, of this job alone.
    sbatch: SbatchOptions = msgspec.field(default_factory=dict)


class Container(Section, frozen=True, kw_only=True):
    """What the ranks run in. None is needed: modules and a Python that all nodes see do as well."""

    # none; apptainer: `apptainer exec` around each rank's command; pyxis: srun's --container-image (NVIDIA's plugin).
    kind: Literal["none", "apptainer", "pyxis"] = "none"
    # The image, as the nodes find it: a file, or what the kind takes else (docker://..., nvcr.io#nvidia/...).
    image: OneLine | None = None
    # More to be seen inside, SOURCE or SOURCE:TARGET, beside the sweep's folder, the data's and the weights'.
    mounts: tuple[OneLine, ...] = ()
    # More arguments of `apptainer exec`, or of srun for pyxis.
    options: tuple[OneLine, ...] = ()

    def __post_init__(self) -> None:
        if self.kind != "none" and self.image is None:
            raise ValueError(f"container.kind {self.kind} needs container.image")
        if self.kind == "none" and self.image is not None:
            raise ValueError("container.image needs container.kind apptainer or pyxis")


class Cluster(Section, frozen=True, kw_only=True):
    """A site: how its jobs are asked for and started."""

    # What plans and reports call it; of profiles that ship the file's own name, without .yaml.
    name: Name
    # For people.
    description: str = ""
    # slurm: sbatch; local: this machine.
    scheduler: Literal["slurm", "local"] = "slurm"
    # srun: `srun --mpi=MPI_PLUGIN`; mpirun: Open MPI's; horovodrun: `horovodrun --gloo`, without MPI, by ssh between
    # the nodes. Under the last a job is not told before its time limit.
    launcher: Literal["srun", "mpirun", "horovodrun"] = "srun"
    # Of `srun --mpi=list`.
    mpi_plugin: OneLine = "pmix"
    # More arguments for the launcher.
    launcher_options: tuple[OneLine, ...] = ()
    # cpu or gpu: what the ranks compute on. Never guessed.
    device: Literal["cpu", "gpu"] = "gpu"
    # Nodes that one job may have; absent: no bound known here.
    nodes: PositiveInt | None = None
    # Ranks (one GPU each) that fill a node; absent: any number fits on one node.
    gpus_per_node: PositiveInt | None = None
    # How GPUs are asked for: --gres=gpu[:TYPE]:N, --gpus-per-node=[TYPE:]N, or not at all.
    gpu_request: Literal["gres", "gpus-per-node", "none"] = "gres"
    # The site's word for the kind of GPU; absent: any.
    gpu_type: OneLine | None = None
    # Physical CPUs that each rank gets, the same at every size.
    cpus_per_gpu: PositiveInt = 1
    # Memory per rank in MiB, the same at every size; absent: the site's default.
    mem_per_gpu_mib: PositiveInt | None = None
    # exclusive: whole nodes; shared: other jobs may run beside, and the rows are marked.
    sharing: Literal["exclusive", "shared"] = "exclusive"
    # true: a count that does not fill its nodes evenly is allowed.
    uneven_nodes: bool = False
    # cores: each rank is bound to its share of the CPUs; none: it is not; numa: to a NUMA domain. Under srun
    # neighbouring ranks share one, and its memory; under mpirun ranks take the domains in turn.
    bind: Literal["cores", "numa", "none"] = "cores"
    # Absent: the site's default one.
    partition: OneLine | None = None
    # Who pays; absent: your default one.
    account: OneLine | None = None
    # Quality of service; absent: your default one.
    qos: OneLine | None = None
    # Of `scontrol show reservation`.
    reservation: OneLine | None = None
    # Features that the nodes must have, such as v100-32g.
    constraint: OneLine | None = None
    # Nodes to use, such as gpu[01-04]: a size that needs fewer has the first of them, one that needs more has
    # others too.
    nodelist: HostList | None = None
    # Nodes not to use.
    exclude: OneLine | None = None
    # Slurm's forms: MINUTES, HH:MM:SS, D-HH:MM:SS.
    time: TimeLimit | None = None
    # Seconds before the end of that time at which the job is told, to write a checkpoint; 0: it is not. Slurm may
    # be a minute early: a job with no more time than that is not told.
    signal_s: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 120
    # How often a job that was told so is started again, from its checkpoint; 0: never.
    requeues: NonNegativeInt = 3
    # Classes of failure after which a run is submitted again, and how often each run: node_failure, boot_failure,
    # preempted, interrupted, lost, timeout, stalled.
    retry: dict[str, NonNegativeInt] = msgspec.field(
        default_factory=lambda: {"node_failure": 2, "boot_failure": 2, "preempted": 2, "interrupted": 2}
    )
    # The last small job.
    collect: Collect = Collect()
    # More #SBATCH options, without the dashes, such as {mail-type: FAIL}; true: a flag.
    sbatch: SbatchOptions = msgspec.field(default_factory=dict)
    # `module load` lines, in order.
    modules: tuple[OneLine, ...] = ()
    # Shell lines run before the launcher, as they are.
    prologue: str = ""
    # Environment of the ranks.
    env: dict[VariableName, OneLine] = msgspec.field(default_factory=dict)
    # What the ranks run in.
    container: Container = Container()
    # The Python that has the compute half, of a container the one inside; absent: the one that runs hpcjobs.
    python: OneLine | None = None
    # A template of your own, which may extend base.sbatch.j2; relative to this file.
    template: OneLine | None = None

    def __post_init__(self) -> None:
        _refuse("sbatch", self.sbatch, OWNED_SBATCH)
        _refuse("collect.sbatch", self.collect.sbatch, OWNED_BY_COLLECTOR)
        for kind in self.retry:
            if kind not in RETRYABLE:
                raise ValueError(f"retry.{kind}: {_why_not(kind)}; may be retried: {', '.join(RETRYABLE)}")
        if self.gpu_request != "none" and self.gpus_per_node is None:
            raise ValueError(f"gpu_request {self.gpu_request} needs gpus_per_node")
        if self.launcher == "horovodrun":
            self._of_horovodrun()
        if self.container.kind == "pyxis" and self.launcher != "srun":
            raise ValueError(f"container.kind pyxis needs launcher srun, and this is {self.launcher}")
        if self.container.kind != "none" and self.python is None:
            raise ValueError(f"container.kind {self.container.kind} needs python: the one inside the image")

    def _of_horovodrun(self) -> None:
        if self.bind != "none":
            raise ValueError(f"launcher horovodrun binds no rank, and bind is {self.bind}: say bind: none")
        if "NCCL_SOCKET_IFNAME" in self.env:
            # It exports this variable itself, behind the others (horovod/runner/gloo_run.py).
            raise ValueError(
                "env.NCCL_SOCKET_IFNAME would not reach the ranks under launcher horovodrun; name the interface in "
                "launcher_options: [--network-interfaces, NAME]"
            )

    @property
    def told_s(self) -> int:
        """Seconds before the end at which a job is told; 0 where it is not: it has no time for that, or no ear."""
        if self.launcher == "horovodrun":
            return 0  # which has no way to pass a signal on
        limit = (seconds(self.time) or 0) if self.time else 0
        return self.signal_s if not limit or limit > self.signal_s + EARLY_S else 0


# Slurm may send the signal of `--signal` so many seconds earlier than asked.
EARLY_S = 60

# Classes of failure that come from outside a run, or may pass: only these may be retried.
RETRYABLE = ("node_failure", "boot_failure", "preempted", "interrupted", "lost", "timeout", "stalled")
_AGAIN = {
    "out_of_memory": "the same memory would not do the next time either",
    "traceback": "the same code would fail again",
    "no_measurement": "it would measure nothing again",
    "nan_loss": "the same numbers would come again",
}


def _why_not(kind: str) -> str:
    near = difflib.get_close_matches(kind, RETRYABLE, n=1, cutoff=0.8)
    return f"did you mean '{near[0]}'?" if near else _AGAIN.get(kind, "such a run would fail again")


def _refuse(section: str, options: SbatchOptions, owned: Mapping[str, str]) -> None:
    for option in sorted(options):
        # sbatch takes the beginning of an option for the option.
        name = option if option in owned else next((name for name in sorted(owned) if name.startswith(option)), None)
        if name is None:
            continue
        short = "" if name == option else f" (it is short for {name})"
        cure = f"use the profile's own key {owned[name]}" if owned[name] else "leave it out"
        raise ValueError(f"{section}.{option} is set by hpcjobs itself{short}; {cure}")


# What hpcjobs writes into the script or onto sbatch's command line itself, and the profile's key for it.
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

# The same of the last job, which has no GPUs, a single task, and what memory its options ask for.
OWNED_BY_COLLECTOR: Mapping[str, str] = {
    **{option: "" for option, key in OWNED_SBATCH.items() if not key},
    **dict.fromkeys(("exclusive", "nodes", "no-requeue", "ntasks-per-node", "requeue", "signal"), ""),
    "partition": "collect.partition",
    "time": "collect.time",
}
