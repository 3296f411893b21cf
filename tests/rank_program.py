"""A training's rank for tests of launchers: it waits for all ranks, does what DEEDS says, or waits for its end.

`rank_program.py FOLDER` writes into the folder `place-RANK` (its environment, as JSON), then `ready-RANK`, and into
`heard-RANK` the name of each signal that it gets. DEEDS is `RANK:DEED,...`, with DEED `kill` (SIGKILL to itself),
`segv` or `exitN`. Another rank exits with 75 SAVE_S seconds after SIGUSR1, or after SIGTERM if HANDLE_TERM is set.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

PATIENCE_S = 300.0


def main() -> int:
    """The rank's life. Returns its exit code."""
    folder, rank, world = Path(sys.argv[1]), os.environ["RANK"], int(os.environ["WORLD_SIZE"])
    heard = []

    def hear(number: int, _frame: FrameType | None) -> None:
        heard.append(number)
        with open(folder / f"heard-{rank}", "a", encoding="utf-8") as file:
            file.write(f"{signal.Signals(number).name}\n")

    before = signal.getsignal(signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, hear)
    if os.environ.get("HANDLE_TERM"):
        signal.signal(signal.SIGTERM, hear)
    told = {"sigusr1": getattr(before, "name", str(before)), "pid": os.getpid(), "argv": sys.orig_argv, **os.environ}
    (folder / f"place-{rank}").write_text(json.dumps(told))
    (folder / f"ready-{rank}").touch()
    deeds = dict(deed.split(":") for deed in os.environ.get("DEEDS", "").split(",") if deed)
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if heard:
            time.sleep(float(os.environ.get("SAVE_S", "0.2")))
            return 75
        if len(list(folder.glob("ready-*"))) == world and rank in deeds:
            deed = deeds[rank]
            if deed.startswith("exit"):
                return int(deed.removeprefix("exit"))
            os.kill(os.getpid(), {"kill": signal.SIGKILL, "segv": signal.SIGSEGV}[deed])
        time.sleep(0.05)
    return 99


if __name__ == "__main__":
    sys.exit(main())
