"""Compares the time of a start: `hpcjobs --help` with `import click`, and `import hpcjobs` with bare Python.

Required: `hpcjobs --help` takes at most 1.2 times `python -c "import click"`; `import hpcjobs` takes at most 20 ms more
than bare Python. The commands run in turns, and the smallest time of each counts: a disturbance can only make a start
longer.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

ROUNDS = 30
MOST_RATIO = 1.2
MOST_IMPORT_MS = 20.0
BARE, CLICK = 'python -c ""', 'python -c "import click"'
FACE, HELP = 'python -c "import hpcjobs"', "hpcjobs --help"
COMMANDS = {
    BARE: [sys.executable, "-c", ""],
    FACE: [sys.executable, "-c", "import hpcjobs"],
    CLICK: [sys.executable, "-c", "import click"],
    HELP: [str(Path(sys.executable).parent / "hpcjobs"), "--help"],
}


def seconds(command: list[str]) -> float:
    """Wall time of one start, in s."""
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def main() -> int:
    """Print the times, the ratio and the difference; returns 1 if one is above its limit."""
    best = dict.fromkeys(COMMANDS, float("inf"))
    for _ in range(ROUNDS):
        for name, command in COMMANDS.items():
            best[name] = min(best[name], seconds(command))
    for name, value in best.items():
        print(f"{1000 * value:7.1f} ms  {name}")
    ratio, more_ms = best[HELP] / best[CLICK], 1000 * (best[FACE] - best[BARE])
    print(f"ratio {ratio:.2f} (required: at most {MOST_RATIO})")
    print(f"import hpcjobs: {more_ms:.1f} ms over bare Python (required: at most {MOST_IMPORT_MS:g})")
    return int(ratio > MOST_RATIO or more_ms > MOST_IMPORT_MS)


if __name__ == "__main__":
    sys.exit(main())
