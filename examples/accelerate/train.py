"""Hugging Face Accelerate around a loop of one's own, on made-up data."""

import argparse
import time

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=32, help="samples of one rank in one step")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--every", type=int, default=10, help="steps between two lines of output")
    args = parser.parse_args()

    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    ranks = accelerator.num_processes
    generator = torch.Generator().manual_seed(0)
    samples = max(4096, ranks * args.batch)
    images = torch.randn(samples, 784, generator=generator)
    labels = torch.randint(0, 10, (samples,), generator=generator)
    loader = DataLoader(TensorDataset(images, labels), args.batch, shuffle=True, drop_last=True)
    model = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

    step, since = 0, time.perf_counter()
    while step < args.steps:
        for inputs, targets in loader:
            loss = nn.functional.cross_entropy(model(inputs), targets)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
            step += 1
            if step % args.every == 0:
                loss.item()  # waits for the GPU
                now = time.perf_counter()
                accelerator.print(f"step {step} samples/s: {args.every * args.batch * ranks / (now - since):.1f}")
                since = now
            if step == args.steps:
                break
    accelerator.end_training()


if __name__ == "__main__":
    main()
