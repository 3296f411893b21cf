"""A thread that ends a rank which makes no progress, and names the rank that caused it.

In an all-reduce a rank waits for ever for a rank that is stopped, or whose node is gone. So each rank
writes a pulse file on the shared file system, and a rank that stalls looks for the rank whose pulse has stopped. If a
rank dies, the launcher sends the others SIGTERM: a rank that stalls after that is not the cause and names no rank.
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
# Before the first step a rank starts Horovod, reads weights and compiles: that may take longer than any step.
_START_S = 600.0
_REPORT_S = 10.0


class Watchdog:
    """Ends this process (ErrorCode.STALLED) `stall_s` after the last `beat`; before the first, after 10 min at least.

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
        self._terminated = False
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        """Start the thread. Call it on the main thread, as `stop`."""
        (self.attempt / _FOLDER).mkdir(exist_ok=True)
        # Python runs signal handlers on the main thread, which may wait for other ranks; the pipe works without it.
        self._signals, self._wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
        self._thread.start()

    def beat(self, what: str) -> None:
        """Record progress; `what` says where the rank is, such as `step 7`."""
        self.what = what
        self.patience = self.stall_s
        self.last = time.monotonic()

    def stop(self) -> None:
        """Stop the thread. One rank of each job may then call `clean`."""
        self._ended.set()
        self._thread.join()
        signal.set_wakeup_fd(-1)
        os.close(self._signals)
        os.close(self._wakeup)

    def clean(self) -> None:
        """Remove the pulse files."""
        shutil.rmtree(self.attempt / _FOLDER, ignore_errors=True)

    def _watch(self) -> None:
        pause = min(5.0, self.stall_s / 8)
        seen: dict[str, tuple[str, float]] = {}
        looked = time.monotonic()
        while not self._ended.wait(pause):
            # A process that was stopped and continued did not stall during that time. One reading of the clock serves
            # all of this turn: a stop that falls into the turn is seen by the next one.
            now = time.monotonic()
            if (slept := now - looked) > 3 * pause:
                self.last += slept
            looked = now
            self._read_signals()
            _within(pause, self._pulse)
            stalled = now - self.last
            if stalled < self.patience / 2:
                seen = {}
                continue
            _within(pause, partial(self._look, seen))
            if stalled > self.patience:
                silent = now - max(3 * pause, self.patience / 4)
                self._give_up(
                    stalled,
                    [text for text, at in list(seen.values()) if at < silent],
                    [text for text, _ in list(seen.values())],
                )

    def _look(self, seen: dict[str, tuple[str, float]]) -> None:
        """Record in `seen` which pulses changed, and when."""
        for path in sorted((self.attempt / _FOLDER).glob("r*")):
            with suppress(OSError):
                text = path.read_text()
                if seen.get(path.name, ("", 0.0))[0] != text:
                    seen[path.name] = (text, time.monotonic())

    def _read_signals(self) -> None:
        with suppress(BlockingIOError):
            self._terminated |= signal.SIGTERM in os.read(self._signals, 4096)

    def _pulse(self) -> None:
        self._pulses += 1
        text = json.dumps({"pulse": self._pulses, "rank": self.rank, "host": socket.gethostname(), "at": self.what})
        temporary = self.attempt / _FOLDER / f".r{self.rank:05d}"
        with suppress(OSError):  # A full disk must not end the rank.
            temporary.write_text(text)
            temporary.replace(self.attempt / _FOLDER / f"r{self.rank:05d}")

    def _give_up(self, stalled: float, silent: list[str], pulses: list[str]) -> None:
        def report() -> None:
            with suppress(OSError), (self.attempt / contract.stacks_txt(self.rank)).open("w") as file:
                faulthandler.dump_traceback(file, all_threads=True)
            if not self._terminated:
                nodes = sorted({str(json.loads(pulse)["host"]) for pulse in silent})
                failure.report(self.attempt, ErrorCode.STALLED, explain(stalled, self.what, silent, pulses), nodes)

        # SIGTERM may have come since, together with the SIGCONT that continues a stopped process.
        self._read_signals()
        if self._terminated:
            print(f"hpcjobs: SIGTERM, and no progress for {stalled:.0f} s at {self.what}", file=sys.stderr, flush=True)
        _within(_REPORT_S, report)
        os._exit(1)


def _within(seconds: float, write: Callable[[], None]) -> None:
    """Run `write` on a thread, wait at most `seconds`: a hanging file system must not keep a rank from ending."""
    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    thread.join(seconds)


def explain(stalled: float, what: str, silent: list[str], pulses: list[str]) -> str:
    """Why a rank stalled: `silent` pulses (JSON) are those that stopped; without them, where all ranks are."""
    text = f"no progress for {stalled:.0f} s at {what}"
    if silent:
        ranks = [json.loads(pulse) for pulse in silent]
        named = "; ".join(f"rank {rank['rank']} on {rank['host']}, last at {rank['at']}" for rank in ranks)
        return f"{text}: no sign of life from {named}"
    places = sorted({json.loads(pulse)["at"] for pulse in pulses})
    return f"{text}: all ranks are alive ({', '.join(places[:4])}), but none makes progress"
