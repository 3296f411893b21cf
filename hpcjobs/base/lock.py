"""A lock file: one writer at a time for a folder that several hosts may share. Every room may import this."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hpcjobs.base.errors import HpcjobsError
from hpcjobs.base.files import beside, claim_link, read_evidence, read_json
from hpcjobs.base.proc import read_process

_HEARTBEAT_S = 10.0
# A holder on another host that has not touched its lock for this long is gone.
_SILENCE_S = 120.0
# A lock that cannot be removed in so many tries is free when its process ends.
_TRIES = 3


class Locked(HpcjobsError):
    """Another process holds the lock."""


@dataclasses.dataclass(frozen=True)
class Hold:
    """A lock that this process has taken. If the process is suspended for long, another host may take the lock over."""

    path: Path
    what: Path | str
    id: str

    def check(self) -> None:
        """Raises Locked if another process has taken the lock over."""
        holder = read_json(self.path) or {}
        if holder.get("id") != self.id:
            by = f"process {holder.get('pid')} on {holder.get('host')}" if holder else "a process that has ended since"
            raise Locked(
                f"{self.what}: {by} took the lock over, because this process did not touch it for long; start again"
            )


@contextmanager
def held(path: Path, what: Path | str) -> Iterator[Hold]:
    """Hold the lock file `path`, which guards `what`, and touch it every 10 s. Raises Locked, naming the holder.

    The lock of a process that has ended is taken over: of a process on this host /proc tells, and a process on another
    host counts as ended when it has not touched its lock for 120 s. The file is made by `claim_link`.
    """
    me = {**process(), "since": time.time(), "id": uuid.uuid4().hex}
    try:
        _take(path, json.dumps(me) + "\n", what)
    except OSError:
        _release(path, me["id"])  # the file server may have made it, and said that it failed
        raise
    stop = threading.Event()
    beat = threading.Thread(target=_beat, args=(path, stop), name="lock heartbeat", daemon=True)
    beat.start()
    try:
        yield Hold(path, what, me["id"])
    finally:
        stop.set()
        beat.join()
        _release(path, me["id"])


def _release(path: Path, mine: str) -> None:
    """Remove the lock if it is this process's. A file server that fails for a moment is asked again."""
    for _ in range(_TRIES):
        with suppress(OSError):
            holder = read_evidence(path) or {}
            if holder.get("id") == mine:
                path.unlink(missing_ok=True)
            return
        time.sleep(0.1)


def process() -> dict[str, Any]:
    """This process: `host`, `pid`, and `started`, which differs from that of a later process with the same pid."""
    me = read_process(os.getpid())
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": me.started if me else None}


def alive(holder: Mapping[str, Any]) -> bool:
    """Whether a `process()` of this host still runs."""
    found = read_process(int(holder["pid"]))
    return found is not None and not found.zombie and found.started == holder["started"]


def _take(path: Path, mine: str, what: Path | str) -> None:
    for _ in range(100):
        if claim_link(path, mine):
            return
        holder = read_json(path)
        if holder is None:
            if not path.exists():
                continue  # it was just released
            raise Locked(f"{what}: the lock {path} cannot be read; if nobody works there, remove it")
        if not _gone(holder, path):
            raise Locked(
                f"{what}: process {holder.get('pid')} on {holder.get('host')} is working on it since "
                f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(float(holder.get('since', 0))))}; "
                f"wait for it, or end it"
            )
        _clear(path, mine, holder)
    raise Locked(f"{what}: another process took the lock at the same moment; try again")


def _gone(holder: Mapping[str, Any], path: Path) -> bool:
    if holder.get("host") == socket.gethostname():
        return not {"pid", "started"} <= holder.keys() or not alive(holder)
    # Both times are by the file system's clock, because the hosts' clocks may differ.
    return _time_of_file_system(path) - path.stat().st_mtime > _SILENCE_S


def _time_of_file_system(path: Path) -> float:
    """The time by the clock of the file system that holds `path`: the mtime of a new file, in s since the epoch."""
    temporary = beside(path)
    try:
        temporary.touch(exist_ok=False)
        os.utime(temporary)
        return temporary.stat().st_mtime
    finally:
        temporary.unlink(missing_ok=True)


def _clear(path: Path, mine: str, stale: Mapping[str, Any]) -> None:
    """Remove the lock if it is still the stale one. Only one process at a time checks and removes."""
    turn = path.with_name(f".{path.name}.takeover")
    if not claim_link(turn, mine):
        # A process that was killed between claiming and removing `turn` left it behind.
        if (taker := read_json(turn)) and _gone(taker, turn):
            turn.unlink(missing_ok=True)
        time.sleep(0.05)
        return
    try:
        if read_json(path) == dict(stale):
            path.unlink()
    finally:
        turn.unlink()


def _beat(path: Path, stop: threading.Event) -> None:
    while not stop.wait(_HEARTBEAT_S):
        # The thread must survive a file server that does not answer for a while.
        with suppress(OSError):
            os.utime(path)
