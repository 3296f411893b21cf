"""What the scripts of these tests share: images, a network, and what PLANT plants in a training that knows no meter.

PLANT is a list such as `loader=20,rank=10`, in milliseconds: `loader` a loader that takes so much longer for each
batch, `rank` the last rank so much later in each step, `net` an all-reduce that takes so much longer.
"""

from __future__ import annotations

import contextlib
import os
import time

import torch
from torch import nn

PLANT = {
    name: float(ms) for name, _, ms in (part.partition("=") for part in os.environ.get("PLANT", "").split(",") if part)
}
BATCH = 8
# What a step takes besides its arithmetic, in milliseconds: a sleep, which other programs disturb little.
REST_MS = float(os.environ.get("REST_MS", "15"))

with contextlib.suppress(OSError, AttributeError):
    # Before the other programs of this machine, which would plant something of their own. Needs root.
    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))


class Images(torch.utils.data.Dataset):
    """Made-up images of ten classes."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.images = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.images[index % 64], index % 10


def collate(samples: list) -> object:
    """A batch, as PyTorch makes it, but for `loader`."""
    time.sleep(PLANT.get("loader", 0) / 1000)
    return torch.utils.data.default_collate(samples)


def network() -> nn.Module:
    """With buffers, as most networks have."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))


def compute() -> None:
    """The part of a forward pass that is a sleep."""
    late = int(os.environ.get("RANK", "0")) == int(os.environ.get("WORLD_SIZE", "1")) - 1
    time.sleep((REST_MS + (PLANT.get("rank", 0) if late else 0)) / 1000)


def slow_network(model: nn.Module) -> None:
    """A hook of DistributedDataParallel that sleeps before it sums up."""
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

    if "net" not in PLANT:
        return

    def hook(state, bucket):  # PyTorch reads annotations here
        time.sleep(PLANT["net"] / 1000)
        return allreduce_hook(None, bucket)

    model.register_comm_hook(None, hook)
