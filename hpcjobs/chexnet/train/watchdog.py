"""A thread that ends a rank which makes no progress, and says whose fault it is.

A rank waits for ever in an all-reduce for one that is stopped, or whose node is gone. So each rank
keeps a pulse on the shared file system, and one that stalls looks whose pulse has stopped. Where a rank
dies, the launcher sends the others SIGTERM: one that stalls after that is no cause, and blames nobody.
"""

from __future__ import annotations

import faulthandler
import json
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from hpcjobs.base import contract
from hpcjobs.base.contract import ErrorCode
from hpcjobs.chexnet.train import failure
from hpcjobs.nodes.launched import launched_rank

_FOLDER = ".pulse"
# Until the first step a rank starts Horovod, reads weights and compiles: that may take longer than any step.
_START_S = 600.0
_TELL_S = 10.0


class Watchdog:
    """Ends this process (ErrorCode.STALLED) `stall_s` after the last `beat`, ten minutes at least before the first.

    Start it before Horovod.
    """

    def __init__(self, attempt: Path, stall_s: float):
        self.attempt = attempt
        self.stall_s = stall_s
        self.patience = max(stall_s, _START_S)
        self.rank = launched_rank()
        self.what = "starting"
        self.last = time.monotonic()
        self._ended = threading.Event()
        self._pulses = 0
        self._told_to_end = False
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begin to watch. On the main thread, as `stop`."""
        (self.attempt / _FOLDER).mkdir(exist_ok=True)
        # Python's handlers wait for the main thread, which waits for the other ranks; numbers of signals do not.
        self._signals, self._wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
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
        signal.set_wakeup_fd(-1)
        os.close(self._signals)
        os.close(self._wakeup)

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
            self._listen()
            _within(pause, self._pulse)
            stalled = time.monotonic() - self.last
            if stalled < self.patience / 2:
                seen = {}
                continue
            _within(pause, partial(self._look, seen))
            if stalled > self.patience:
                silent = time.monotonic() - max(3 * pause, self.patience / 4)
                self._give_up(
                    stalled,
                    [text for text, at in list(seen.values()) if at < silent],
                    [text for text, _ in list(seen.values())],
                )

    def _look(self, seen: dict[str, tuple[str, float]]) -> None:
        """Note in `seen` which pulses changed, and when."""
        for path in sorted((self.attempt / _FOLDER).glob("r*")):
            with suppress(OSError):
                text = path.read_text()
                if seen.get(path.name, ("", 0.0))[0] != text:
                    seen[path.name] = (text, time.monotonic())

    def _listen(self) -> None:
        with suppress(BlockingIOError):
            self._told_to_end |= signal.SIGTERM in os.read(self._signals, 4096)

    def _pulse(self) -> None:
        self._pulses += 1
        text = json.dumps({"pulse": self._pulses, "rank": self.rank, "host": socket.gethostname(), "at": self.what})
        temporary = self.attempt / _FOLDER / f".r{self.rank:05d}"
        with suppress(OSError):  # a full disk is no stall
            temporary.write_text(text)
            temporary.replace(self.attempt / _FOLDER / f"r{self.rank:05d}")

    def _give_up(self, stalled: float, silent: list[str], pulses: list[str]) -> None:
        def tell() -> None:
            with suppress(OSError), (self.attempt / contract.stacks_txt(self.rank)).open("w") as file:
                faulthandler.dump_traceback(file, all_threads=True)
            if not self._told_to_end:
                failure.report(self.attempt, ErrorCode.STALLED, explain(stalled, self.what, silent, pulses))

        if self._told_to_end:
            print(f"hpcjobs: SIGTERM, and no progress for {stalled:.0f} s at {self.what}", file=sys.stderr, flush=True)
        _within(_TELL_S, tell)
        os._exit(1)


def _within(seconds: float, write: Callable[[], None]) -> None:
    """Do it, but wait no longer: a file system that hangs must not keep a rank from ending."""
    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    thread.join(seconds)


def explain(stalled: float, what: str, silent: list[str], pulses: list[str]) -> str:
    """Why a rank stalled: which ranks' pulses (JSON) stopped, else which ranks are behind."""
    text = f"no progress for {stalled:.0f} s at {what}"
    if silent:
        ranks = [json.loads(pulse) for pulse in silent]
        named = "; ".join(f"rank {rank['rank']} on {rank['host']}, last at {rank['at']}" for rank in ranks)
        return f"{text}: no sign of life from {named}"
    places = sorted({json.loads(pulse)["at"] for pulse in pulses})
    return f"{text}: all ranks live ({', '.join(places[:4])}), none goes on"
