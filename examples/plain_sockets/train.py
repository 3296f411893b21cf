"""Data-parallel SGD with Python's standard library alone: ranks meet at MASTER_ADDR:MASTER_PORT and add up gradients.

It learns nothing useful and is slow. It shows what hpcjobs gives a training, and runs wherever Python 3.8 does.
"""

import argparse
import array
import json
import os
import random
import signal
import socket
import sys
import time
from pathlib import Path

INTERRUPTED = 75  # "a checkpoint is written, start me again": `stop.exit_code` of the experiment
WEIGHTS = 500
RANK = int(os.environ.get("RANK", "0"))
RANKS = int(os.environ.get("WORLD_SIZE", "1"))


def connect():
    """Rank 0 listens, and the others call it. Returns the sockets that it has: to all others, or to rank 0."""
    if RANKS == 1:
        return []
    address = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    if RANK == 0:
        with socket.create_server(("", address[1]), backlog=RANKS) as server:
            return [server.accept()[0] for _ in range(RANKS - 1)]
    deadline = time.monotonic() + 300
    while True:
        try:
            return [socket.create_connection(address)]
        except OSError:  # rank 0 does not listen yet
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def receive(peer, numbers):
    """Read this many floating-point numbers."""
    data = bytearray()
    while len(data) < 8 * numbers:
        part = peer.recv(8 * numbers - len(data))
        if not part:
            raise ConnectionError("another rank has ended")
        data += part
    return array.array("d", bytes(data))


def all_reduce(peers, values):
    """The sum of `values` over all ranks, by way of rank 0."""
    total = array.array("d", values)
    if RANK > 0:
        peers[0].sendall(total.tobytes())
        return receive(peers[0], len(total))
    for peer in peers:
        total = array.array("d", map(float.__add__, total, receive(peer, len(total))))
    for peer in peers:
        peer.sendall(total.tobytes())
    return total


def gradient(weights, truth, batch, generator):
    """The mean gradient of the squared error of a linear model, over made-up samples."""
    total = [0.0] * WEIGHTS
    for _ in range(batch):
        sample = [generator.gauss(0, 1) for _ in range(WEIGHTS)]
        error = sum(x * (w - t) for x, w, t in zip(sample, weights, truth))
        total = [g + error * x for g, x in zip(total, sample)]
    return [g / batch for g in total]


def save(path, step, weights):
    """Write the checkpoint under another name and rename it, so that a killed run leaves the one before."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({"step": step, "weights": list(weights)}))
    os.replace(temporary, path)
    print(f"checkpoint of step {step} written", flush=True)


def main():
    asked = []
    signal.signal(signal.SIGUSR1, lambda number, frame: asked.append(number))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=64, help="samples of one rank in one step")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--every", type=int, default=10, help="steps between two lines of output")
    args = parser.parse_args()

    peers = connect()
    shared = random.Random(0)
    truth = [shared.gauss(0, 1) for _ in range(WEIGHTS)]
    # The folder is the same for all attempts of a run, so a requeued job finds the checkpoint of the job before it.
    checkpoint = Path(os.environ.get("HPCJOBS_RUN_DIR", ".")) / "checkpoint.json"
    start, weights = 0, [0.0] * WEIGHTS
    if checkpoint.exists():
        state = json.loads(checkpoint.read_text())
        start, weights = state["step"], state["weights"]
    generator = random.Random(1000 * RANK + start)
    since = time.perf_counter()
    for step in range(start + 1, args.steps + 1):
        mine = gradient(weights, truth, args.batch, generator)
        # Ranks hear a signal at different steps. The sum of what they heard is the same on all.
        *total, heard = all_reduce(peers, [*mine, float(bool(asked))])
        weights = [w - args.lr * g / RANKS for w, g in zip(weights, total)]
        if RANK == 0 and step % args.every == 0:
            now = time.perf_counter()
            print(f"step {step} samples/s: {args.every * args.batch * RANKS / (now - since):.1f}", flush=True)
            since = now
        if heard or step == args.steps:
            if RANK == 0:
                save(checkpoint, step, weights)
            return INTERRUPTED if heard else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
