"""A training of a few lines, for tests: its ranks meet as those of examples/plain_sockets do, and it ends as told.

`training.py [DEED]`: ranks make short steps, and rank 0 prints a rate after each. At step 5 the last rank does DEED:
`kill` (SIGKILL to itself), `exit` (exit code 3), `raise` (a Python exception) or `stall` (no further step). With
`stop`, nothing ends the training but SIGUSR1: then rank 0 writes a checkpoint, and all ranks exit with 85; a training
that finds a checkpoint makes 20 steps more. Without DEED, it makes 30 steps; `silent` prints no rate.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "examples" / "plain_sockets"))
import train

INTERRUPTED = 85
STEPS = 30
SAMPLES = 4  # of one rank in one step
STEP_S = 0.02


def do(deed: str) -> None:
    """What the last rank does at step 5."""
    if deed == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if deed == "exit":
        sys.exit(3)
    if deed == "raise":
        raise ValueError("the shapes differ")
    if deed == "stall":
        time.sleep(600)


def main() -> int:
    """The rank's life. Returns its exit code."""
    deed = sys.argv[1] if len(sys.argv) > 1 else ""
    heard: list[int] = []
    if deed == "stop":
        signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    checkpoint = Path(os.environ["HPCJOBS_RUN_DIR"], "checkpoint")
    begin = int(checkpoint.read_text()) if checkpoint.exists() else 0
    last = begin + 20 if begin else 10**6 if deed == "stop" else STEPS
    peers = train.connect()
    for step in range(begin + 1, last + 1):
        since = time.perf_counter()
        time.sleep(STEP_S)
        if step == 5 and train.RANK == train.RANKS - 1:
            do(deed)
        ranks, asked = train.all_reduce(peers, [1.0, float(bool(heard))])
        if train.RANK == 0 and deed != "silent":
            print(f"step {step} samples/s: {SAMPLES * ranks / (time.perf_counter() - since):.1f}", flush=True)
        if asked:
            if train.RANK == 0:
                checkpoint.write_text(str(step))
            return INTERRUPTED
    if train.RANK == 0:
        print(f"{train.RANKS} ranks trained from step {begin} to {last}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
