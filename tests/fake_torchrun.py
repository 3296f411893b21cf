#!/usr/bin/env python3
"""A stand-in for torchrun: `fake_torchrun.py --nproc-per-node=2 --nnodes=2 [--max-restarts=N] SCRIPT WORDS...`.

It starts ranks as torch.distributed.run does: by the executable in PYTHON_EXEC, else by its own interpreter, each in a
session of its own, with RANK and kin in their environment. At the first rank that fails it ends the others (SIGTERM,
after 30 s SIGKILL to their groups) and exits with 1. It passes SIGTERM, SIGINT, SIGHUP and SIGQUIT on, and no other.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from types import FrameType

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
KILL_AFTER_S = 30.0


class Signalled(Exception):
    """torchrun got a signal that it passes on."""


def _signalled(number: int, _frame: FrameType | None) -> None:
    raise Signalled(number)


def _send(ranks: list[subprocess.Popen[bytes]], number: int) -> None:
    for rank in ranks:
        if rank.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(rank.pid, number)


def _end(ranks: list[subprocess.Popen[bytes]], number: int) -> None:
    _send(ranks, number)
    deadline = time.monotonic() + KILL_AFTER_S
    while any(rank.poll() is None for rank in ranks) and time.monotonic() < deadline:
        time.sleep(0.05)
    _send(ranks, signal.SIGKILL)
    for rank in ranks:
        rank.wait()


def _attempt(per_node: int, nodes: int, words: list[str], restart: int) -> int:
    """Run all ranks once. Returns 0, or 1 if one failed."""
    node = int(os.environ["NODE_RANK"])
    ranks = []
    for local in range(per_node):
        place = {
            **{"RANK": node * per_node + local, "WORLD_SIZE": per_node * nodes, "LOCAL_RANK": local},
            **{"LOCAL_WORLD_SIZE": per_node, "GROUP_RANK": node, "TORCHELASTIC_RESTART_COUNT": restart},
        }
        environment = {**os.environ, **{name: str(value) for name, value in place.items()}}
        argv = [os.getenv("PYTHON_EXEC", sys.executable), "-u", *words]
        ranks.append(subprocess.Popen(argv, env=environment, start_new_session=True))
    try:
        while True:
            codes = [rank.poll() for rank in ranks]
            failed = [(rank, code) for rank, code in enumerate(codes) if code]
            if failed:
                print(f"fake_torchrun: local rank {failed[0][0]} failed, exitcode: {failed[0][1]}", flush=True)
                _end(ranks, signal.SIGTERM)
                return 1
            if all(code == 0 for code in codes):
                return 0
            time.sleep(0.05)
    except Signalled as heard:
        _end(ranks, heard.args[0])
        raise


def main() -> int:
    """Run the ranks. Returns the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--nproc-per-node", type=int, required=True)
    parser.add_argument("--nnodes", type=int, default=1)
    parser.add_argument("--max-restarts", type=int, default=0)
    parser.add_argument("words", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    for number in FORWARDED:
        signal.signal(number, _signalled)
    for restart in range(options.max_restarts + 1):
        if _attempt(options.nproc_per_node, options.nnodes, options.words, restart) == 0:
            return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
