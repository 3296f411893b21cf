"""`data.cache: memory`: keeps the shards as files in RAM, one copy per node for all its ranks."""

from __future__ import annotations

import errno
import os
import resource
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path

from horovod.tensorflow import allgather_object

from hpcjobs.base.contract import ErrorCode
from hpcjobs.chexnet.data.dataset import Dataset, Shard
from hpcjobs.chexnet.train.failure import TrainError
from hpcjobs.nodes import cgroup

# File descriptors that TensorFlow, Horovod and MPI may need in addition to ours.
_SPARE_FILES = 256
_COPY_BYTES = 64 << 20


def check(dataset: Dataset, splits: Iterable[str]) -> None:
    """Raises TrainError (host_memory) if the node's copy of `splits` does not fit into memory.

    Every rank calls it before any rank copies, because a copy that has begun counts as used memory.
    """
    shards = _shards(dataset, splits)
    check_memory(sum(shard.bytes for shard in shards), len(shards))


def hold(dataset: Dataset, splits: Iterable[str], rank: int, size: int) -> dict[str, str]:
    """Copy this rank's part, `rank` of the `size` on the node, of the shards of `splits` into RAM.

    Returns a path per shard file, valid on this node while this process lives. The files are on no disk:
    the kernel frees them when the process ends, in whatever way. The descriptors stay open until then.
    Raises TrainError.
    """
    mine = _shards(dataset, splits)[rank::size]
    _allow_files(len(mine))
    return {shard.file: _copy(dataset.folder, shard) for shard in mine}


def share_on_node(mine: Mapping[str, str]) -> dict[str, str]:
    """The paths from all ranks of this node. Collective."""
    found: dict[str, str] = {}
    for host, paths in allgather_object((socket.gethostname(), dict(mine))):
        if host == socket.gethostname():
            found |= paths
    return found


def check_memory(needed: int, shards: int) -> None:
    """Raises TrainError (host_memory) if `needed` bytes are not free on this node, or not granted to this job."""
    meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    limits = {"free on the node": int(meminfo["MemAvailable"].split()[0]) << 10}
    granted = int(os.environ.get("SLURM_MEM_PER_NODE", 0)) or (
        int(os.environ.get("SLURM_MEM_PER_CPU", 0)) * int(os.environ.get("SLURM_CPUS_ON_NODE", 0))
    )
    if granted:  # in MiB; 0: all of the node
        limits["granted by Slurm"] = granted << 20
    if (free := cgroup.free_memory()) is not None:
        limits["free in this process' control group"] = free
    what, least = min(limits.items(), key=lambda limit: limit[1])
    if needed > least:
        raise TrainError(
            ErrorCode.HOST_MEMORY,
            f"data.cache memory needs {needed / 2**30:.1f} GiB a node for {shards} shards, and {least / 2**30:.1f} GiB "
            f"are {what}: request more memory, or set data.cache=none",
        )


def _shards(dataset: Dataset, splits: Iterable[str]) -> list[Shard]:
    return [shard for split in splits for shard in dataset.splits[split].shards]


def _allow_files(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = len(os.listdir("/proc/self/fd")) + count + _SPARE_FILES
    if soft != resource.RLIM_INFINITY and wanted > soft:
        if hard != resource.RLIM_INFINITY and wanted > hard:
            raise TrainError(
                ErrorCode.HOST_MEMORY,
                f"data.cache memory keeps {count} files open in a rank, but the hard limit of open files is {hard}: "
                "raise it (ulimit -Hn), or set data.cache=none",
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _copy(folder: Path, shard: Shard) -> str:
    path = folder / shard.file
    target = os.memfd_create(shard.file)
    try:
        with path.open("rb") as source:
            while os.sendfile(target, source.fileno(), None, _COPY_BYTES):
                pass
    except OSError as error:
        full = error.errno in (errno.ENOMEM, errno.ENOSPC)
        code = ErrorCode.HOST_MEMORY if full else ErrorCode.DATA_DAMAGED
        raise TrainError(code, f"data.cache memory: {path} cannot be copied: {error.strerror}") from None
    copied = os.fstat(target).st_size
    if copied != shard.bytes:
        raise TrainError(ErrorCode.DATA_DAMAGED, f"{path}: {copied} bytes were read, dataset.json says {shard.bytes}")
    return f"/proc/{os.getpid()}/fd/{target}"
