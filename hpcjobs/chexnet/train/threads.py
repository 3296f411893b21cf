"""Limits the thread pools of a rank to the CPUs that it was given."""

from __future__ import annotations

import os


def limit_environment(cpus: int) -> None:
    """Limit the pools that read the environment when their library is loaded (OpenMP, oneDNN, BLAS)."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(cpus)


def limit_tensorflow(cpus: int) -> None:
    """Limit TensorFlow's pools. Call it before TensorFlow's first operation.

    The pool of tf.data is separate: see `hpcjobs.chexnet.train.input`.
    """
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(cpus)
    tf.config.threading.set_inter_op_parallelism_threads(cpus)
