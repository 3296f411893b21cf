"""What a launcher (srun, mpirun, horovodrun) tells the processes that it starts."""

from __future__ import annotations

import os

# The variables in which launchers give a process its rank, the most specific first: inside an sbatch
# script SLURM_PROCID is 0 for every rank that mpirun starts.
_RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "HOROVOD_RANK", "SLURM_PROCID")


def launched_rank() -> int:
    """This process' rank as its launcher set it, known before Horovod starts; 0 if no launcher set one."""
    return next((int(os.environ[name]) for name in _RANK_VARIABLES if name in os.environ), 0)
