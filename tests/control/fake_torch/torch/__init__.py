"""A fake of PyTorch: as much of it as hpcjobs/inject/ touches, with its names and no arithmetic.

FAKE_TORCH breaks it: each word is something that a future PyTorch, or a fork of it, might lack or do otherwise.
"""

import contextlib
import os
import types

BROKEN = os.environ.get("FAKE_TORCH", "").split(",")
_grad = [True]


def is_grad_enabled():
    if "grad" in BROKEN:
        raise RuntimeError("no such mode")
    return _grad[-1]


@contextlib.contextmanager
def no_grad():
    _grad.append(False)
    yield
    _grad.pop()


def is_tensor(value):
    return False


cuda = types.SimpleNamespace(is_available=lambda: False)
distributed = types.SimpleNamespace(is_available=lambda: False)

from torch.serialization import save  # noqa: E402, F401

from . import nn, optim, utils  # noqa: E402, F401
