"""One writer at a time for a folder that several hosts may share. Every room may import this."""

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
from hpcjobs.base.files import beside, claim_link, read_json
from hpcjobs.base.proc import read_process

_HEARTBEAT_S = 10.0
# A holder on another host that gave no sign for so long is gone.
_SILENCE_S = 120.0


class Locked(HpcjobsError):
    """Somebody else holds the lock."""


@dataclasses.dataclass(frozen=True)
class Hold:
    """A lock that is held, or was: another host may have taken it over while this process was stopped."""

    path: Path
    what: Path | str
    id: str

    def check(self) -> None:
        """Raises Locked where the lock is another's by now."""
        holder = read_json(self.path) or {}
        if holder.get("id") != self.id:
            by = f"process {holder.get('pid')} on {holder.get('host')}" if holder else "somebody who is done already"
            raise Locked(f"{self.what}: {by} took the lock over, for this process gave no sign for long; start again")


@contextmanager
def held(path: Path, what: Path | str) -> Iterator[Hold]:
    """Hold the lock file `path`, which guards `what`, and touch it every 10 s meanwhile.

    It is a hard link, which NFS makes atomically where its flock is not to be trusted. A lock whose
    holder ran on this host and is gone, or ran elsewhere and gave no sign for 120 s, is taken over.
    Raises Locked, naming the holder.
    """
    me = {**process(), "since": time.time(), "id": uuid.uuid4().hex}
    _take(path, json.dumps(me) + "\n", what)
    stop = threading.Event()
    beat = threading.Thread(target=_beat, args=(path, stop), name="lock heartbeat", daemon=True)
    beat.start()
    try:
        yield Hold(path, what, me["id"])
    finally:
        stop.set()
        beat.join()
        if (read_json(path) or {}).get("id") == me["id"]:
            path.unlink(missing_ok=True)


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
                continue  # released this moment
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
    # Both times are the file system's own: the hosts' clocks need not agree.
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
        # A file server that is away for a while must not end it.
        with suppress(OSError):
            os.utime(path)
