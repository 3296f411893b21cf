"""Prepares the environment of a process that makes or checks data, before it imports TensorFlow."""

from __future__ import annotations

import os


def quiet_tensorflow() -> None:
    """Silence TensorFlow's log and hide the GPUs from it. Call it before TensorFlow is imported."""
    # The log holds notes on CUDA, which making data does not use. Errors come as exceptions.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Making data must not take memory from a training on the same GPU.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
