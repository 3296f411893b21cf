"""What the kernel says of a process of this host: /proc/PID/stat, read once for all. Every room may import this."""

from __future__ import annotations

import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Process:
    """A process of this host. `started` is in clock ticks since boot: with the pid it names one process for good.

    `session` is the pid of its session's leader. `zombie`: it has ended, but its parent has not waited for it.
    """

    pid: int
    parent: int
    session: int
    started: int
    zombie: bool


def read_process(pid: int) -> Process | None:
    """The process with that pid, or None if there is no such process."""
    try:
        # The second field is the name in parentheses, which may hold any byte. proc(5) numbers the next field 3.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return Process(pid, int(fields[1]), int(fields[3]), int(fields[19]), fields[0] == b"Z")
