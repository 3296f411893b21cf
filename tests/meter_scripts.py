"""Runs small trainings with hpcjobs/meter.py in them, each rank a process of its own, and reads what they left."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from hpcjobs.collect import mllog
from hpcjobs.collect.mlperf_lines import Event

METER = Path(__file__).resolve().parents[1] / "hpcjobs" / "meter.py"
LIMIT_S = 300

# A clock that only `spend` moves, so that a window's figures are exact.
CLOCK = """
clock = [100.0]
meter._now = lambda: clock[0]

def spend(ms):
    clock[0] += ms / 1000

def loader(count, ms=0, size=8):
    for _ in range(count):
        spend(ms)
        yield [0] * size
"""

# `ring.reduce()` waits for all ranks, as an all-reduce does; `ring.sync(False)` switches it off.
RING = """
import os, socket, time
rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])

class Ring:
    on = True

    def __init__(self):
        address = ("127.0.0.1", int(os.environ["RING_PORT"]))
        if rank == 0:
            server = socket.create_server(address)
            self.peers = [server.accept()[0] for _ in range(size - 1)]
        else:
            while True:
                try:
                    self.peers = [socket.create_connection(address)]
                    return
                except OSError:
                    time.sleep(0.05)

    def sync(self, on):
        self.on = on

    def reduce(self):
        if self.on:
            for turn in ("recv", "send") if rank == 0 else ("send", "recv"):
                for peer in self.peers:
                    if turn == "send":
                        peer.sendall(b"g")
                    elif not peer.recv(1):
                        raise SystemExit("a rank is gone")

ring = Ring()
"""


@dataclasses.dataclass
class Outcome:
    """What a training left: exit code of each rank, the events of train.log, each rank's note, and what was printed."""

    codes: list[int]
    events: list[Event]
    folder: Path
    out: list[str]
    err: list[str]

    def named(self, key: str) -> list[Event]:
        return [event for event in self.events if event.key == key]

    def last(self, key: str) -> Any:
        """The value of the last such event."""
        return self.named(key)[-1].value

    def note(self, rank: int = 0) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / f"meter-r{rank:03d}.json").read_text())
        return found


def train(
    folder: Path,
    script: str,
    *,
    ranks: int = 1,
    measure: dict[str, Any] | None = None,
    python: str = sys.executable,
    **environment: str,
) -> Outcome:
    """Run `script` on `ranks` processes to their end, with the meter on and its files in `folder`/metrics."""
    metrics = folder / "metrics"
    metrics.mkdir(exist_ok=True)
    program = folder / "train.py"
    head = f"import sys\nsys.path.insert(0, {str(METER.parent)!r})\nimport meter\n"
    program.write_text(head + textwrap.dedent(script))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # Alone in its environment: a meter must do with what it is given.
    base = {name: os.environ[name] for name in ("PATH", "HOME", "LD_LIBRARY_PATH") if name in os.environ}
    base |= {"HPCJOBS_METRICS": str(metrics), "HPCJOBS_MEASURE": json.dumps(measure or {}), "RING_PORT": str(port)}
    base |= {"WORLD_SIZE": str(ranks), **environment}
    running = [
        subprocess.Popen(
            [python, "-I", "-S", str(program)],
            env={name: value for name, value in {**base, "RANK": str(rank)}.items() if value},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]
    printed = [process.communicate(timeout=LIMIT_S) for process in running]
    codes = [process.returncode for process in running]
    return Outcome(codes, list(mllog.events(metrics / "train.log")), metrics, *map(list, zip(*printed, strict=True)))
