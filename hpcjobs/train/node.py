"""node-HOST.json: what a run knows about one of its nodes."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

import horovod
import horovod.tensorflow as hvd
import tensorflow as tf

from hpcjobs import contract
from hpcjobs.files import write_json
from hpcjobs.train.device import list_gpus


def write_node(attempt: Path, host: str, cpus_per_task: int) -> None:
    """Describe this host. By one rank of each host."""
    write_json(
        attempt / contract.node_json(host),
        {
            "host": host,
            "cpus": len(os.sched_getaffinity(0)),
            "cpus_per_task": cpus_per_task,
            "threads": cpus_per_task,
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "horovod": horovod.__version__,
            "mpi": mpi_version(),
            "mpi_built": bool(hvd.mpi_built()),
            "gloo_built": bool(hvd.gloo_built()),
            "nccl_built": bool(hvd.nccl_built()),
            "gpus": re.findall(r"^GPU \d+: (.*) \(UUID", list_gpus(), flags=re.MULTILINE),
        },
    )


def mpi_version() -> str | None:
    """First line of what the MPI library says of itself; None where Horovod was built without MPI."""
    if not hvd.mpi_built():
        return None
    import mpi4py

    # Horovod has started MPI and ends it.
    mpi4py.rc.initialize = mpi4py.rc.finalize = False
    from mpi4py import MPI

    return MPI.Get_library_version().splitlines()[0].rstrip("\0, ")
