"""A neighbour on the node: it burns CPUs in random blocks until it is killed, or its parent has ended.

`cpu_neighbour.py SEED [--processes N] [--mean S]`: each of N processes computes and sleeps by turns, each turn of an
exponentially distributed length. It belongs to no job.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time


def burn(seed: int, mean_s: float, parent: int) -> None:
    """Compute and sleep by turns while the parent lives."""
    draw = random.Random(seed)
    while os.getppid() == parent:
        end = time.monotonic() + draw.expovariate(1 / mean_s)
        while time.monotonic() < end:
            sum(range(1000))
        time.sleep(draw.expovariate(1 / mean_s))


def main() -> int:
    """Start the processes, the last one in this one. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seed", type=int)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--mean", type=float, default=0.5, help="seconds of a turn, on average")
    args = parser.parse_args()
    here, above = os.getpid(), os.getppid()
    for number in range(args.processes - 1):
        if os.fork() == 0:
            burn(args.seed * 1000 + number, args.mean, here)
            return 0
    burn(args.seed * 1000 + args.processes, args.mean, above)
    return 0


if __name__ == "__main__":
    sys.exit(main())
