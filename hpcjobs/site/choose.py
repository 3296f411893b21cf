"""Which cluster a command uses: the named one, the default one, or a detected one."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence

import msgspec

from hpcjobs.base.errors import InputError, nearest
from hpcjobs.config import Cluster, Experiment, profiles
from hpcjobs.schedulers import factory
from hpcjobs.schedulers.slurm.commands import Refused
from hpcjobs.trainers.registry import trainer_of

# Keys of a profile that a sweep may override, which change from day to day, and what --help says of each.
OVERRIDABLE = {
    "partition": "Partition of the jobs.",
    "account": "Account that pays.",
    "qos": "Quality of service.",
    "time": "Time limit of a job: MINUTES, HH:MM:SS or D-HH:MM:SS.",
    "nodelist": "Nodes to use, such as gpu[01-04]; smaller sizes have the first of them.",
    "exclude": "Nodes not to use.",
    "reservation": "Reservation to run in.",
}


def chosen_cluster(name: str | None, partition: str | None, tell: Callable[[str], None]) -> Cluster:
    """The profile of this name; without a name the default one, else one detected from Slurm, else `local`.

    `partition` is the one to detect. `tell` receives a line if the choice was not the user's. Raises InputError.
    """
    if name is None:
        name = profiles.default_cluster()
    if name is None and factory.slurm_answers():
        return _detected(partition, tell)
    if name is None:
        tell("no --cluster given and no default profile: running on this machine (--cluster local)")
        name = "local"
    return profiles.cluster(name)


def overridden(cluster: Cluster, keys: Mapping[str, str], sbatch: Sequence[str] = ()) -> Cluster:
    """The profile with these `keys` and `sbatch` options in place of its own; see profiles.override.

    Raises InputError, which names the flag, for a value that the profile could not have, and for a scheduler that has
    no such options.
    """
    for key in keys:
        if key not in OVERRIDABLE:
            raise InputError(f"key '{key}' of a profile cannot be overridden: {nearest(key, OVERRIDABLE)}")
    flags = [*(f"--{key}" for key in keys), *(f"--sbatch {word}" for word in sbatch)]
    if flags and not factory.capabilities(cluster).site_options:
        raise InputError(f"{flags[0]} needs Slurm, but cluster '{cluster.name}' uses scheduler {cluster.scheduler}")
    return profiles.override(cluster, keys, sbatch)


def _detected(partition: str | None, tell: Callable[[str], None]) -> Cluster:
    from hpcjobs.site import facts
    from hpcjobs.site.detect import profile_of

    try:
        found = profile_of(facts.ask(), partition)
    except (InputError, Refused) as error:
        raise InputError(
            f"no --cluster given, and none can be detected: {error}; give --cluster NAME (`hpcjobs cluster list`), "
            "or --cluster local to compute on this machine"
        ) from None
    tell(
        f"no --cluster given and no default profile: detected partition {found.partition}, {found.described}, to "
        f"compute on {found.device} (`hpcjobs cluster detect` prints the profile; --cluster local: on this machine)"
    )
    return found.cluster


def fitted(cluster: Cluster, experiment: Experiment, tell: Callable[[str], None]) -> Cluster:
    """The profile; or launcher fork in it, if this machine has no mpirun and the trainer needs no MPI.

    `tell` then receives a line about it.
    """
    trainer = trainer_of(experiment)
    here = not factory.capabilities(cluster).compute_nodes and not cluster.modules and not cluster.prologue
    if not here or cluster.launcher != "mpirun" or trainer.needs_mpi or shutil.which("mpirun"):
        return cluster
    if trainer.start(experiment) == "rank":
        tell("this machine has no mpirun: the job script starts the ranks itself (launcher fork), without MPI")
    return msgspec.structs.replace(cluster, launcher="fork", launcher_options=())
