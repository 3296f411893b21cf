"""Runs the real trainer as a rank, and records the signals that this rank receives.

Called like a profile's `python`: `signal_recorder.py -m hpcjobs.chexnet.train RUN_YAML --attempt DIR`. Each signal
handler of the trainer first appends the signal's name to DIR/signals-RANK.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any


def main() -> None:
    module, attempt = sys.argv[2], Path(sys.argv[5])
    rank = os.environ.get("OMPI_COMM_WORLD_RANK") or os.environ["SLURM_PROCID"]
    install = signal.signal

    def install_with_record(number: int, handler: Any) -> Any:
        if not callable(handler):
            return install(number, handler)

        def record(received: int, frame: FrameType | None) -> None:
            with (attempt / f"signals-{rank}").open("a") as file:
                file.write(f"{signal.Signals(received).name}\n")
            handler(received, frame)

        return install(number, record)

    signal.signal = install_with_record
    del sys.argv[1:3]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
