"""Threads of a rank: no pool is larger than the CPUs that the rank was given."""

from __future__ import annotations

import os


def limit_environment(cpus: int) -> None:
    """Bound the pools that read the environment when their library is loaded (OpenMP, oneDNN, BLAS)."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(cpus)


def limit_tensorflow(cpus: int) -> None:
    """Bound TensorFlow's pools; to be called before its first operation.

    tf.data has a pool of its own: see `hpcjobs.chexnet.train.input`.
    """
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(cpus)
    tf.config.threading.set_inter_op_parallelism_threads(cpus)
