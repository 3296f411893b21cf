"""A DistributedDataParallel whose steps last as long as they are told to. It knows nothing of the meter.

`--plant NAME=NUMBER[+NAME=NUMBER...]` as in tests/meter_program.py: `loader`, `late` and `hook` in ms, `send` in bytes.
At its end a rank writes by how many ms each step's computing took longer than it was told to.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset, default_collate

parser = argparse.ArgumentParser()
parser.add_argument("--plant", default="none")
parser.add_argument("--compute", type=float, default=15.0, help="ms of each step that are a sleep")
args = parser.parse_args()
plant = {name: float(number) for name, _, number in (each.partition("=") for each in args.plant.split("+")) if number}

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, ranks = dist.get_rank(), dist.get_world_size()
message = torch.zeros(int(plant.get("send", 0)), dtype=torch.uint8)
compute_s = (args.compute + (plant.get("late", 0.0) if rank == ranks - 1 else 0.0)) / 1000


def collate(samples: list) -> list:
    time.sleep(plant.get("loader", 0.0) / 1000)
    return default_collate(samples)


def hook(state, bucket):  # PyTorch reads annotations here
    """Wait, and send what a throttled link lets wait: all to rank 0, as the stand-in's ranks do."""
    time.sleep(plant.get("hook", 0.0) / 1000)
    if len(message) and rank:
        dist.send(message, 0)
    elif len(message):
        for peer in range(1, ranks):
            dist.recv(message, peer)
    return allreduce_hook(None, bucket)


images = TensorDataset(torch.randn(8 * ranks * 10_000, 8))
loader = DataLoader(images, 8, sampler=DistributedSampler(images), collate_fn=collate)
model = DistributedDataParallel(torch.nn.Linear(8, 1))
model.register_comm_hook(None, hook)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
overslept_ms = []
try:
    for (inputs,) in loader:
        began = time.perf_counter()
        time.sleep(compute_s)
        overslept_ms.append(1000 * (time.perf_counter() - began - compute_s))
        optimizer.zero_grad()
        model(inputs).mean().backward()
        optimizer.step()
finally:
    own = Path(os.environ["HPCJOBS_METRICS"]) / f"own-r{rank:03d}.json"
    own.write_text(json.dumps({"overslept_ms": overslept_ms}))
