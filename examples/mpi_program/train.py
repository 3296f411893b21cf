"""An MPI program that trains: gradients of a linear model are added up by Allreduce. Needs mpi4py and NumPy."""

import argparse
import time

import numpy as np
from mpi4py import MPI

FEATURES = 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=64, help="samples of one rank in one step")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--every", type=int, default=10, help="steps between two lines of output")
    args = parser.parse_args()

    world = MPI.COMM_WORLD
    truth = np.random.default_rng(0).standard_normal(FEATURES)
    generator = np.random.default_rng((1, world.rank))
    weights = np.zeros(FEATURES)
    total = np.empty(FEATURES)
    since = time.perf_counter()
    for step in range(1, args.steps + 1):
        samples = generator.standard_normal((args.batch, FEATURES))
        gradient = samples.T @ (samples @ (weights - truth)) / args.batch
        world.Allreduce(gradient, total)
        weights -= args.lr * total / world.size
        if world.rank == 0 and step % args.every == 0:
            now = time.perf_counter()
            print(f"step {step} samples/s: {args.every * args.batch * world.size / (now - since):.1f}", flush=True)
            since = now


if __name__ == "__main__":
    main()
