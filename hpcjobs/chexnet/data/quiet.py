"""Prepares the environment of a process that makes or checks data, before it imports TensorFlow."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


def quiet_tensorflow() -> None:
    """Silence TensorFlow's log and hide the GPUs from it. Call it before TensorFlow is imported."""
    # The log holds notes on CUDA, which making data does not use. Errors come as exceptions.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Making data must not take memory from a training on the same GPU.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """`quiet_tensorflow` for a while: jobs that this process submits later inherit the environment as it was."""
    before = dict(os.environ)
    try:
        quiet_tensorflow()
        yield
    finally:
        for name in ("TF_CPP_MIN_LOG_LEVEL", "CUDA_VISIBLE_DEVICES"):
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]
