"""Which GPU a rank computes on. The choice is pure; `pin` applies it to TensorFlow."""

from __future__ import annotations

import os
from collections.abc import Sequence

from hpcjobs.base.contract import ErrorCode
from hpcjobs.chexnet.train.failure import TrainError
from hpcjobs.nodes.nvidia import list_gpus, visible_uuids


def choose(visible: int, local_rank: int, local_size: int) -> int:
    """Index of the visible GPU for `local_rank` of the `local_size` ranks on this host.

    A launcher may show every rank all GPUs of the host, or each rank only its own GPU
    (`--gpus-per-task=1`). Raises TrainError (device_missing) otherwise.
    """
    if visible == 0:
        raise TrainError(
            ErrorCode.DEVICE_MISSING,
            "run.yaml says device gpu, but TensorFlow sees no GPU: request GPUs in the profile (gpu_request), or check "
            "the driver and that TensorFlow was built with CUDA",
        )
    if visible == 1:
        return 0
    if visible < local_size:
        raise TrainError(
            ErrorCode.DEVICE_MISSING,
            f"{local_size} ranks on this host but {visible} visible GPUs: tasks per node must not exceed GPUs per node",
        )
    return local_rank


def check_distinct(claims: Sequence[tuple[str, str | None]]) -> None:
    """Check that no two ranks use the same GPU. `claims[rank]` is (host, UUID); an unknown UUID, None, is not checked.

    Raises TrainError (device_shared) that names both ranks.
    """
    holders: dict[tuple[str, str], int] = {}
    for rank, (host, uuid) in enumerate(claims):
        if uuid is None:
            continue
        first = holders.setdefault((host, uuid), rank)
        if first != rank:
            raise TrainError(
                ErrorCode.DEVICE_SHARED,
                f"ranks {first} and {rank} on {host} both use GPU {uuid}: bind each task to a different GPU, or show "
                "all of the node's GPUs to every task",
            )


def hide_gpus() -> None:
    """Hide all GPUs from TensorFlow. Call it before TensorFlow's first operation."""
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")


def pin(local_rank: int, local_size: int) -> str | None:
    """Bind TensorFlow to this rank's GPU, with memory growth; returns its UUID, or None if it is not known.

    Call it before TensorFlow's first operation. Raises TrainError (device_missing).
    """
    # Not run by us: needs a GPU.
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    index = choose(len(gpus), local_rank, local_size)
    tf.config.set_visible_devices(gpus[index], "GPU")
    tf.config.experimental.set_memory_growth(gpus[index], True)
    uuids = visible_uuids(list_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES"))
    return uuids[index] if index < len(uuids) else None
