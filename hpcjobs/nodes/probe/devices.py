"""All-reduce through Horovod, on the devices that it was built for.

Not run by us on GPUs: needs GPUs.
"""

from __future__ import annotations

from typing import Any

from mpi4py import MPI

from hpcjobs.nodes.probe import figures
from hpcjobs.nodes.probe.messages import ladder


def allreduce(comm: MPI.Comm, seconds: float, largest: int) -> dict[str, Any]:
    """Figures of Horovod's all-reduce, its device, and its operations (nccl, mpi or gloo). Collective."""
    import horovod.tensorflow as hvd
    import tensorflow as tf

    hvd.init()
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        mine = gpus[hvd.local_rank() % len(gpus)]
        tf.config.set_visible_devices(mine, "GPU")
        tf.config.experimental.set_memory_growth(mine, True)
    device = "gpu" if gpus else "cpu"
    tensors: dict[int, Any] = {}

    def once(size: int) -> float:
        if size not in tensors:
            tensors.clear()
            with tf.device("/GPU:0" if gpus else "/CPU:0"):
                tensors[size] = tf.ones(size // 4)
        comm.Barrier()
        start = MPI.Wtime()
        # One name per size: Horovod then recognises the tensor, as it does a gradient.
        result = hvd.allreduce(tensors[size], op=hvd.Sum, name=f"probe.{size}")
        # A GPU works on after the call returns: reading a number on the host waits for its end.
        float(result[0])
        return MPI.Wtime() - start

    try:
        timings = ladder(comm, once, seconds, largest)
    finally:
        hvd.shutdown()
    by = "nccl" if gpus and hvd.nccl_built() else "mpi" if hvd.mpi_built() else "gloo"
    return {"device": device, "operations": by, **figures.allreduce(timings, comm.Get_size())}
