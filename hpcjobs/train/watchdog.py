"""A thread that ends a rank which makes no progress, and says whose fault it is.

A rank waits for ever in an all-reduce for one that is stopped, or whose node is gone. So each rank
keeps a pulse on the shared file system, and one that stalls looks whose pulse has stopped.
"""

from __future__ import annotations

import faulthandler
import json
import os
import shutil
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

from hpcjobs import contract
from hpcjobs.contract import ErrorCode
from hpcjobs.train import failure

_FOLDER = ".pulse"
# Until the first step a rank starts Horovod, reads weights and compiles: that may take longer than any step.
_START_S = 600.0


class Watchdog:
    """Ends this process (ErrorCode.STALLED) `stall_s` after the last `beat`, ten minutes at least before the first.

    Start it before Horovod.
    """

    def __init__(self, attempt: Path, stall_s: float):
        self.attempt = attempt
        self.stall_s = stall_s
        self.patience = max(stall_s, _START_S)
        self.rank = failure.launched_rank()
        self.what = "starting"
        self.last = time.monotonic()
        self._ended = threading.Event()
        self._pulses = 0
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        (self.attempt / _FOLDER).mkdir(exist_ok=True)
        self._thread.start()

    def beat(self, what: str) -> None:
        """There was progress; `what` is done now, in words such as `step 7`."""
        self.what = what
        self.patience = self.stall_s
        self.last = time.monotonic()

    def stop(self) -> None:
        """Watch no more. One rank of each job may then call `clean`."""
        self._ended.set()
        self._thread.join()

    def clean(self) -> None:
        """Remove the pulses."""
        shutil.rmtree(self.attempt / _FOLDER, ignore_errors=True)

    def _watch(self) -> None:
        pause = min(5.0, self.stall_s / 8)
        seen: dict[str, tuple[str, float]] = {}
        looked = time.monotonic()
        while not self._ended.wait(pause):
            # A process that was stopped and goes on has lost that time, not stalled.
            if (slept := time.monotonic() - looked) > 3 * pause:
                self.last += slept
            looked = time.monotonic()
            self._pulse()
            stalled = time.monotonic() - self.last
            if stalled < self.patience / 2:
                seen = {}
                continue
            for path in sorted((self.attempt / _FOLDER).glob("r*")):
                with suppress(OSError):
                    text = path.read_text()
                    if seen.get(path.name, ("", 0.0))[0] != text:
                        seen[path.name] = (text, time.monotonic())
            if stalled > self.patience:
                silent = time.monotonic() - max(3 * pause, self.patience / 4)
                self._give_up(
                    stalled, [text for text, at in seen.values() if at < silent], [t for t, _ in seen.values()]
                )

    def _pulse(self) -> None:
        self._pulses += 1
        text = json.dumps({"pulse": self._pulses, "rank": self.rank, "host": socket.gethostname(), "at": self.what})
        temporary = self.attempt / _FOLDER / f".r{self.rank:05d}"
        with suppress(OSError):  # a full disk is no stall
            temporary.write_text(text)
            temporary.replace(self.attempt / _FOLDER / f"r{self.rank:05d}")

    def _give_up(self, stalled: float, silent: list[str], pulses: list[str]) -> None:
        with suppress(OSError), (self.attempt / contract.stacks_txt(self.rank)).open("w") as file:
            faulthandler.dump_traceback(file, all_threads=True)
        failure.report(self.attempt, ErrorCode.STALLED, explain(stalled, self.what, silent, pulses))
        os._exit(1)


def explain(stalled: float, what: str, silent: list[str], pulses: list[str]) -> str:
    """Why a rank stalled: which ranks' pulses (JSON) stopped, else which ranks are behind."""
    text = f"no progress for {stalled:.0f} s at {what}"
    if silent:
        ranks = [json.loads(pulse) for pulse in silent]
        named = "; ".join(f"rank {rank['rank']} on {rank['host']}, last at {rank['at']}" for rank in ranks)
        return f"{text}: no sign of life from {named}"
    places = sorted({json.loads(pulse)["at"] for pulse in pulses})
    return f"{text}: all ranks live ({', '.join(places[:4])}), none goes on"
