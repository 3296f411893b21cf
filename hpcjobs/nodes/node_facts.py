"""node-HOST.json: hardware, software and placement of ranks on one node of a run."""

from __future__ import annotations

import dataclasses
import os
import platform
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import horovod
import horovod.tensorflow as hvd
import tensorflow as tf

from hpcjobs.base import contract
from hpcjobs.base.contract import RunConfig
from hpcjobs.base.files import write_json
from hpcjobs.base.hostlist import fold_indices
from hpcjobs.nodes import cgroup, host_facts

_HUGEPAGE = "/sys/kernel/mm/transparent_hugepage/enabled"


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a rank runs: its process, the CPUs it may use, the UUID of its GPU (None: no GPU, or not known)."""

    rank: int
    host: str
    pid: int
    cpus: tuple[int, ...]
    gpu: str | None


def place(gpu: str | None) -> Place:
    """The place of this rank, whose GPU has UUID `gpu`. Horovod must be initialised."""
    return Place(hvd.rank(), socket.gethostname(), os.getpid(), tuple(sorted(os.sched_getaffinity(0))), gpu)


def write(attempt: Path, config: RunConfig, here: Sequence[Place]) -> None:
    """Write node-HOST.json of this host, on which the ranks `here` run. One rank of each host calls it."""
    write_json(attempt / contract.node_json(here[0].host), describe(config, here))


def describe(config: RunConfig, here: Sequence[Place]) -> dict[str, Any]:
    """The value of node-HOST.json. None stands for a fact that this host does not give."""
    nodes = host_facts.numa_nodes()
    return {
        "host": here[0].host,
        **host_facts.machine(),
        # CPUs that the ranks may use together, each counted once.
        "cpus": len({cpu for rank in here for cpu in rank.cpus}),
        "cpus_per_task": config.cpus_per_task,
        "numa": {str(node): fold_indices(cpus) for node, cpus in nodes.items()},
        "ranks": [_bound(rank, nodes) for rank in here],
        "threads": {
            "intra_op": tf.config.threading.get_intra_op_parallelism_threads(),
            "inter_op": tf.config.threading.get_inter_op_parallelism_threads(),
            "omp": os.environ.get("OMP_NUM_THREADS"),
        },
        **_software(),
        **host_facts.gpus(host_facts.nvidia_gpus()),
        "data": _data(Path(config.data_dir), config.experiment["data"]["cache"]),
    }


def _bound(rank: Place, nodes: Mapping[int, set[int]]) -> dict[str, Any]:
    return {
        "rank": rank.rank,
        "pid": rank.pid,
        "cpus": fold_indices(rank.cpus),
        "numa": [node for node, cpus in nodes.items() if cpus.intersection(rank.cpus)],
        "gpu": rank.gpu,
    }


def _software() -> dict[str, Any]:
    build = tf.sysconfig.get_build_info()
    built = {
        name: bool(getattr(hvd, f"{name}_built")()) for name in ("mpi", "gloo", "nccl", "ddl", "ccl", "cuda", "rocm")
    }
    return {
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        # The versions that TensorFlow was built for.
        "cuda": build.get("cuda_version"),
        "cudnn": build.get("cudnn_version"),
        "horovod": horovod.__version__,
        "mpi": mpi_version(),
        # The NCCL that Horovod was built with; hpcjobs_transport in train.log has the one that ran.
        "nccl": nccl_version(hvd.nccl_built()),
        **{f"{name}_built": is_built for name, is_built in built.items()},
    }


def _data(folder: Path, cache: str) -> dict[str, Any]:
    """Facts that decide whether the shards are read from memory: by data.cache, or from the page cache.

    Pages of files count against the memory limit of the control group, by which Slurm limits a job.
    """
    free = cgroup.free_memory()
    pressure = host_facts.read_text("/proc/sys/vm/vfs_cache_pressure")
    return {
        "cache": cache,
        "filesystem": host_facts.filesystem(folder.resolve(), host_facts.read_text("/proc/self/mounts") or ""),
        "memory_available_mib": host_facts.memory_mib("MemAvailable"),
        "memory_free_in_group_mib": None if free is None else free >> 20,
        "vfs_cache_pressure": int(pressure) if pressure else None,
        "transparent_hugepage": host_facts.first(
            r"\[(\w+)\]", host_facts.read_text("/sys/kernel/mm/transparent_hugepage/enabled")
        ),
    }


def nccl_version(code: int) -> str | None:
    """2.18.3 for 21803, and 2.8.4 for 2804: up to 2.8 the minor version had one digit. None for 0: no NCCL."""
    if not code:
        return None
    major, rest = divmod(code, 10000 if code >= 10000 else 1000)
    return f"{major}.{rest // 100}.{rest % 100}"


def mpi_version() -> str | None:
    """First line of MPI_Get_library_version; None if Horovod was built without MPI."""
    if not hvd.mpi_built():
        return None
    import mpi4py

    # Horovod calls MPI_Init and MPI_Finalize; mpi4py must not call them again.
    mpi4py.rc.initialize = mpi4py.rc.finalize = False
    from mpi4py import MPI

    return MPI.Get_library_version().splitlines()[0].rstrip("\0, ")
