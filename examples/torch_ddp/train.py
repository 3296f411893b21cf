"""DistributedDataParallel on made-up data: prints its speed, writes a checkpoint when asked to end, and resumes.

Any launcher that sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT starts it: hpcjobs with `start: rank`,
torchrun (`start: node`), or nobody at all, and then there is one rank. NCCL with GPUs, gloo without.
"""

import argparse
import itertools
import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

INTERRUPTED = 75  # "a checkpoint is written, start me again": `stop.exit_code` of the experiment


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=32, help="samples of one rank in one step")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--width", type=int, default=512, help="units of each hidden layer")
    parser.add_argument("--every", type=int, default=10, help="steps between two lines of output")
    return parser.parse_args()


def connect() -> torch.device:
    """Join the other ranks. Returns the device of this one."""
    for name, alone in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0")):
        os.environ.setdefault(name, alone)
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29500")
    if not torch.cuda.is_available():
        dist.init_process_group("gloo")
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    dist.init_process_group("nccl")
    return device


def made_up(samples: int) -> TensorDataset:
    """Images of 28 x 28 and the classes that a fixed linear map gives them, the same on all ranks."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(samples, 784, generator=generator)
    labels = (images @ torch.randn(784, 10, generator=generator)).argmax(1)
    return TensorDataset(images, labels)


def batches(loader: DataLoader, sampler: DistributedSampler, step: int):
    """Batches without end, from step `step` on, in the order that a run without interruption sees."""
    first, skip = divmod(step, len(loader))
    for epoch in itertools.count(first):
        sampler.set_epoch(epoch)
        yield from itertools.islice(loader, skip if epoch == first else 0, None)


def save(path: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write the checkpoint under another name and rename it, so that a killed run leaves the one before."""
    if dist.get_rank() == 0:
        state = {"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(state, path.with_suffix(".tmp"))
        os.replace(path.with_suffix(".tmp"), path)
        print(f"checkpoint of step {step} written", flush=True)
    dist.barrier()


def main() -> int:
    asked = []
    signal.signal(signal.SIGUSR1, lambda number, frame: asked.append(number))
    args = options()
    torch.manual_seed(int(os.environ.get("HPCJOBS_SEED", "0")))
    device = connect()
    ranks = dist.get_world_size()

    width = args.width
    layers = [nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)]
    model = DistributedDataParallel(nn.Sequential(*layers).to(device))
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr)

    # The folder is the same for all attempts of a run, so a requeued job finds the checkpoint of the job before it.
    checkpoint = Path(os.environ.get("HPCJOBS_RUN_DIR", ".")) / "checkpoint.pt"
    start = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device)
        start = state["step"]
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    if dist.get_rank() == 0:
        print(f"{ranks} ranks, {dist.get_backend()}, from step {start}", flush=True)

    data = made_up(max(4096, ranks * args.batch))
    sampler = DistributedSampler(data)
    loader = DataLoader(data, args.batch, sampler=sampler, drop_last=True)
    since = time.perf_counter()
    steps = range(start + 1, args.steps + 1)
    for step, (images, labels) in zip(steps, batches(loader, sampler, start), strict=False):
        loss = nn.functional.cross_entropy(model(images.to(device)), labels.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % args.every:
            continue
        # Ranks hear a signal at different steps, so all of them ask at the same ones whether any has heard it.
        ending = torch.tensor(float(bool(asked)), device=device)
        dist.all_reduce(ending, op=dist.ReduceOp.MAX)
        stop = bool(ending.item())  # waits for the GPU, so the time below is that of finished steps
        now = time.perf_counter()
        if dist.get_rank() == 0:
            speed = args.every * args.batch * ranks / (now - since)
            print(f"step {step} samples/s: {speed:.1f} loss: {loss.item():.4f}", flush=True)
        if stop:
            save(checkpoint, step, model, optimizer)
            dist.destroy_process_group()
            return INTERRUPTED
        since = time.perf_counter()
    save(checkpoint, args.steps, model, optimizer)
    dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
