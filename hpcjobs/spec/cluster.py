"""A site: the keys of a cluster profile. The comments are the reference of every key."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from hpcjobs.spec.words import Name, OneLine, PositiveInt, Section, VariableName


class Cluster(Section, frozen=True, kw_only=True):
    """A site: how its jobs are asked for and started."""

    name: Name
    description: str = ""
    # slurm: sbatch; local: this machine.
    scheduler: Literal["slurm", "local"] = "slurm"
    # srun: `srun --mpi=MPI_PLUGIN`; mpirun: Open MPI's.
    launcher: Literal["srun", "mpirun"] = "srun"
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
    gpu_type: OneLine | None = None
    # Physical CPUs that each rank gets, the same at every size.
    cpus_per_gpu: PositiveInt = 1
    # Memory per rank in MiB, the same at every size; absent: the site's default.
    mem_per_gpu_mib: PositiveInt | None = None
    # exclusive: whole nodes; shared: other jobs may run beside, and the rows are marked.
    sharing: Literal["exclusive", "shared"] = "exclusive"
    # true: a count that does not fill its nodes evenly is allowed.
    uneven_nodes: bool = False
    # cores: each rank is bound to its share of the CPUs; none: it is not.
    bind: Literal["cores", "none"] = "cores"
    partition: OneLine | None = None
    account: OneLine | None = None
    qos: OneLine | None = None
    reservation: OneLine | None = None
    constraint: OneLine | None = None
    exclude: OneLine | None = None
    # Slurm's forms: MINUTES, HH:MM:SS, D-HH:MM:SS.
    time: Annotated[str, msgspec.Meta(pattern=r"^(\d+-)?\d+(:\d+){0,2}$")] | None = None
    # More #SBATCH options, without the dashes, such as {mail-type: FAIL}; true: a flag.
    sbatch: dict[Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z-]*$")], OneLine | int | bool] = msgspec.field(
        default_factory=dict
    )
    # `module load` lines, in order.
    modules: tuple[OneLine, ...] = ()
    # Shell lines run before the launcher, as they are.
    prologue: str = ""
    # Environment of the ranks.
    env: dict[VariableName, OneLine] = msgspec.field(default_factory=dict)
    # The Python that has the compute half; absent: the one that runs hpcjobs.
    python: OneLine | None = None
    # A template of your own, which may extend base.sbatch.j2; relative to this file.
    template: OneLine | None = None

    def __post_init__(self) -> None:
        owned = sorted(set(self.sbatch) & OWNED_SBATCH)
        if owned:
            raise ValueError(f"sbatch.{owned[0]} is set by hpcjobs itself; use the profile's own key or leave it out")
        if self.gpu_request != "none" and self.gpus_per_node is None:
            raise ValueError(f"gpu_request {self.gpu_request} needs gpus_per_node")


# What hpcjobs writes into the script or onto sbatch's command line itself.
OWNED_SBATCH = frozenset(
    (
        "account",
        "array",
        "comment",
        "constraint",
        "cpus-per-gpu",
        "cpus-per-task",
        "error",
        "exclude",
        "exclusive",
        "gpus",
        "gpus-per-node",
        "gpus-per-task",
        "gres",
        "job-name",
        "mem",
        "mem-per-cpu",
        "mem-per-gpu",
        "nodes",
        "ntasks",
        "ntasks-per-node",
        "open-mode",
        "output",
        "oversubscribe",
        "parsable",
        "partition",
        "qos",
        "requeue",
        "reservation",
        "time",
        "wait",
        "wrap",
    )
)
