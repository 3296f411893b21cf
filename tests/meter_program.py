"""A stand-in for a data-parallel training, for tests of the meter: its steps last as long as they are told to.

`meter_program.py [OPTIONS]` is one rank of WORLD_SIZE, started by anyone who sets RANK, WORLD_SIZE, MASTER_ADDR and
MASTER_PORT. It needs Python's standard library and the two lines of the meter, which are marked below; without a meter
on PYTHONPATH it trains without one. A step takes a batch from a loader, computes (a sleep, which is exact also on a
machine with other work; or a loop), and adds up gradients over sockets by way of rank 0.

`--plant NAME=NUMBER[+NAME=NUMBER...]` makes it slow in known ways. Nothing is planted in a run of one rank, so that a
table shows the planted time as a loss against its base:

    loader=MS   each batch takes that much longer to load
    late=MS     the last rank computes that much longer in each step
    hook=MS     each rank sleeps that long in each all-reduce, as a slow hook or fabric would let it wait
    send=BYTES  each rank sends that many more bytes in each all-reduce, for a link that a test throttles
    talk=1      each step averages the loss by an all-reduce of its own, which `sync` does not switch off

At its end a rank writes what it has done into `own-rNNN.json`, beside the meter's files; `overslept_ms` is by how much
each step's computing took longer than it was told to.
"""

from __future__ import annotations

import argparse
import array
import contextlib
import json
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

try:
    import meter  # the meter's first line
except ModuleNotFoundError:  # outside of hpcjobs
    meter = None

WEIGHTS = 8
PATIENCE_S = 300.0
PLANTS = ("loader", "late", "hook", "send", "talk")


class Ranks:
    """All ranks, and their sums. `on` is False while the meter has switched the gradients' all-reduce off."""

    def __init__(self, rank: int, size: int, hook_s: float, padding: int) -> None:
        self.rank, self.size, self.hook_s, self.padding = rank, size, hook_s, padding
        self.on = True
        self.peers = self._connect() if size > 1 else []
        for peer in self.peers:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _connect(self) -> list[socket.socket]:
        """Rank 0's sockets to all others in the order of their ranks, or another's to rank 0."""
        address = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
        if self.rank == 0:
            by_rank: dict[int, socket.socket] = {}
            with socket.create_server(("", address[1]), backlog=self.size) as server:
                server.settimeout(PATIENCE_S)
                while len(by_rank) < self.size - 1:
                    peer, _ = server.accept()
                    peer.settimeout(PATIENCE_S)
                    by_rank[int(self._receive(peer, 1)[0])] = peer
            return [by_rank[rank] for rank in sorted(by_rank)]
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                root = socket.create_connection(address, timeout=PATIENCE_S)
            except OSError:  # rank 0 does not listen yet
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
                continue
            root.sendall(array.array("d", [self.rank]).tobytes())
            return [root]

    def _receive(self, peer: socket.socket, numbers: int, padding: int = 0) -> array.array[float]:
        data, length = bytearray(), 8 * numbers + padding
        while len(data) < length:
            part = peer.recv(length - len(data))
            if not part:
                raise ConnectionError("another rank has ended")
            data += part
        return array.array("d", bytes(data[: 8 * numbers]))

    def total(self, values: Iterable[float], padding: int = 0) -> list[float]:
        """The sum over all ranks. Only what goes to rank 0 is padded: one way is enough for a throttled link."""
        mine = array.array("d", values)
        if self.rank:
            self.peers[0].sendall(mine.tobytes() + bytes(padding))
            return list(self._receive(self.peers[0], len(mine)))
        for peer in self.peers:
            mine = array.array("d", map(float.__add__, mine, self._receive(peer, len(mine), padding)))
        for peer in self.peers:
            peer.sendall(mine.tobytes())
        return list(mine)

    def reduce_gradient(self, gradient: list[float]) -> list[float]:
        """What `sync` switches: the mean over ranks, or a rank's own."""
        if not self.on or self.size == 1:
            return gradient
        time.sleep(self.hook_s)
        return [each / self.size for each in self.total(gradient, self.padding)]

    def sync(self, on: bool) -> None:
        """Switch the gradients' all-reduce off and on: the meter's `sync=`."""
        self.on = on


class Loader:
    """One epoch's batches. With `prefetch_factor`, a thread makes them and keeps that many ready."""

    def __init__(self, batches: int, samples: int, last: int, load_s: float, prefetch: int) -> None:
        self.sizes = [samples] * batches + [last] * bool(last)
        self.load_s = load_s
        # By the names of PyTorch's DataLoader, so that a meter sees how many batches may be ready.
        self.num_workers = 1 if prefetch else 0
        self.prefetch_factor = prefetch or None

    def _make(self) -> Iterator[list[int]]:
        for size in self.sizes:
            time.sleep(self.load_s)
            yield list(range(size))

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[list[int]]:
        if not self.num_workers:
            yield from self._make()
            return
        ready: queue.Queue[list[int] | None] = queue.Queue(self.prefetch_factor or 0)
        left = threading.Event()

        def put(batch: list[int] | None) -> None:
            while not left.is_set():
                with contextlib.suppress(queue.Full):
                    ready.put(batch, timeout=0.1)
                    return

        def work() -> None:
            for batch in self._make():
                put(batch)
                if left.is_set():
                    return
            put(None)

        threading.Thread(target=work, daemon=True).start()
        try:
            while (batch := ready.get()) is not None:
                yield batch
        finally:
            left.set()


def plants(text: str) -> dict[str, float]:
    """`loader=20+late=10` as a mapping. Raises argparse.ArgumentTypeError, which lists the names."""
    found = {}
    for each in text.split("+") if text not in ("", "none") else []:
        name, _, number = each.partition("=")
        if name not in PLANTS:
            raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(PLANTS)}")
        found[name] = float(number)
    return found


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compute", type=float, default=15.0, help="ms of each step that are computing")
    parser.add_argument("--loop", action="store_true", help="compute by a loop on the CPU, not by a sleep")
    parser.add_argument("--load", type=float, default=0.0, help="ms in which a batch is loaded, nothing planted")
    parser.add_argument("--prefetch", type=int, default=0, help="batches that a thread keeps ready; 0: no thread")
    parser.add_argument("--samples", type=int, default=8, help="of one rank in one step")
    parser.add_argument("--batches", type=int, default=10_000, help="of one epoch")
    parser.add_argument("--last", type=int, default=0, help="samples of a smaller batch at the end of each epoch")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--evaluate", type=float, default=0.0, help="ms of an evaluation after each epoch")
    parser.add_argument("--checkpoint", type=float, default=0.0, help="ms of a checkpoint after each epoch")
    parser.add_argument("--plant", type=plants, default={}, help="NAME=NUMBER[+NAME=NUMBER...]")
    parser.add_argument("--no-sync", action="store_true", help="do not tell the meter how to switch the all-reduce off")
    return parser.parse_args()


def compute(ms: float, loop: bool) -> float:
    """Be busy, or asleep, for that long. Returns by how many ms it took longer."""
    began = time.perf_counter()
    if loop:
        end = time.thread_time() + ms / 1000  # of CPU time: another program makes the step longer, as a real one
        while time.thread_time() < end:
            pass
    else:
        time.sleep(ms / 1000)
    return 1000 * (time.perf_counter() - began) - ms


def main() -> int:
    """Train. Returns the exit code."""
    args = options()
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    plant: dict[str, float] = args.plant if size > 1 else {}
    late_ms = plant.get("late", 0.0) if rank == size - 1 else 0.0
    ranks = Ranks(rank, size, plant.get("hook", 0.0) / 1000, int(plant.get("send", 0)))
    load_s = (args.load + plant.get("loader", 0.0)) / 1000
    loader = Loader(args.batches, args.samples, args.last, load_s, args.prefetch)
    about = {} if args.no_sync else {"sync": ranks.sync}
    weights = [0.0] * WEIGHTS
    done: dict[str, Any] = {"rank": rank, "steps": 0, "samples": 0, "epochs": 0, "overslept_ms": []}
    between_s, began = 0.0, time.perf_counter()
    try:
        for epoch in range(args.epochs):
            batches = meter.steps(loader, samples=args.samples, **about) if meter else loader  # its second line
            for batch in batches:
                done["overslept_ms"].append(round(compute(args.compute + late_ms, args.loop), 3))
                gradient = [(rank + 1) * sum(batch) / len(batch) + each for each in range(WEIGHTS)]
                weights = [w - 0.01 * g for w, g in zip(weights, ranks.reduce_gradient(gradient), strict=True)]
                loss = sum(weights)
                if plant.get("talk"):
                    loss = ranks.total([loss])[0] / size
                done["steps"] += 1
                done["samples"] += len(batch)
            stamp = time.perf_counter()
            time.sleep((args.evaluate + args.checkpoint) / 1000)
            between_s += time.perf_counter() - stamp
            if args.evaluate and meter:
                meter.score("accuracy", 1.0 - 1.0 / (epoch + 2))
            done["epochs"] += 1
    finally:
        folder = Path(os.environ.get("HPCJOBS_METRICS", "."))
        done |= {"weights": weights, "between_s": between_s, "wall_s": time.perf_counter() - began}
        (folder / f"own-r{rank:03d}.json").write_text(json.dumps(done))
    return 0


if __name__ == "__main__":
    sys.exit(main())
