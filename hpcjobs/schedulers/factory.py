"""Makes the scheduler that a cluster profile names, and tells what it can do. Nobody else asks for its name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hpcjobs.config import Cluster
from hpcjobs.schedulers import Capabilities, Scheduler
from hpcjobs.schedulers.local.local_scheduler import LocalScheduler
from hpcjobs.schedulers.slurm import slurm_scheduler
from hpcjobs.schedulers.slurm.slurm_scheduler import SlurmScheduler

_KINDS: dict[str, type[SlurmScheduler] | type[LocalScheduler]] = {"slurm": SlurmScheduler, "local": LocalScheduler}


def capabilities(cluster: Cluster) -> Capabilities:
    """What the cluster's scheduler can do."""
    return _KINDS[cluster.scheduler].capabilities


def make(
    cluster: Cluster, *, folder: Path | None = None, output: Path | None = None, epilogue: Sequence[str] = ()
) -> Scheduler:
    """The cluster's scheduler. Slurm needs the cluster alone.

    The local scheduler keeps its queue in `folder` and the output of its tasks in `output` (by default in `folder`).
    It runs the command `epilogue` when no task is left. Raises ValueError if it is given no folder.
    """
    if _KINDS[cluster.scheduler] is SlurmScheduler:
        return SlurmScheduler()
    if folder is None:
        raise ValueError(f"cluster '{cluster.name}': scheduler {cluster.scheduler} needs a folder for its queue")
    return LocalScheduler(folder, output or folder, epilogue, cluster.requeues)


def slurm_answers() -> bool:
    """Whether there is a Slurm here, and its controller is up."""
    return slurm_scheduler.answers()
