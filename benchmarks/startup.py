"""Compares the time of `hpcjobs --help` with that of `python -c "import click"`: required are at most 1.5 times.

The commands run in turns, and the smallest time of each counts: a disturbance can only make a start longer.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

ROUNDS = 30
COMMANDS = {
    'python -c "import click"': [sys.executable, "-c", "import click"],
    "hpcjobs --help": [str(Path(sys.executable).parent / "hpcjobs"), "--help"],
}


def seconds(command: list[str]) -> float:
    """Wall time of one start, in s."""
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def main() -> None:
    """Print both times and their ratio."""
    best = dict.fromkeys(COMMANDS, float("inf"))
    for _ in range(ROUNDS):
        for name, command in COMMANDS.items():
            best[name] = min(best[name], seconds(command))
    for name, value in best.items():
        print(f"{1000 * value:7.1f} ms  {name}")
    floor, ours = best.values()
    print(f"ratio {ours / floor:.2f} (required: at most 1.5)")


if __name__ == "__main__":
    main()
