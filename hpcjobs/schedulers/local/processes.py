"""Processes of this host: which of them belong to one task, and how all of those are ended."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import time
from pathlib import Path

from hpcjobs.base.proc import Process, read_process

# Every process of a task has this in its environment: it is found by it, whatever session it made for itself.
MARK = "HPCJOBS_LOCAL_TASK"
# A process that is still there so long after its SIGKILL waits for a dead device, in seconds.
_UNKILLABLE_S = 60.0
_LOOK_S = 0.1


def age_s(process: Process) -> float:
    """Seconds since the process started. No step of the clock changes it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - process.started / os.sysconf("SC_CLK_TCK")


def catches(pid: int, number: int) -> bool:
    """Whether the process has a handler for that signal."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    except OSError:
        pass
    return False


@dataclasses.dataclass(frozen=True)
class Tree:
    """The processes of one task.

    `mark` is the value of MARK in their environment; `leader` is the batch script's shell, which leads a
    session and started at `started`. Both are None where nobody lived to write them down: then it is the
    oldest of those with the mark that lead a session.
    """

    mark: str
    leader: int | None
    started: int | None

    def shell(self) -> Process | None:
        """The batch script's shell, while it lives."""
        if self.leader is None:
            leaders = [each for each in _living() if each.session == each.pid and self._marked(each.pid)]
            return min(leaders, key=lambda each: each.started, default=None)
        found = read_process(self.leader)
        return None if found is None or found.zombie or found.started != self.started else found

    def members(self) -> list[int]:
        """All that live: of the session, with the mark, or begotten by one that is.

        Open MPI gives each rank a process group, some launchers a session; the children of a process that
        emptied its environment are still its children.
        """
        living = _living()
        session = self._session()
        mine = {each.pid for each in living if each.session == session or self._marked(each.pid)}
        while more := {each.pid for each in living if each.parent in mine} - mine:
            mine |= more
        return sorted(mine - {os.getpid()})

    def _session(self) -> int | None:
        # The number is free for others once the session is empty: then another process has it.
        holder = None if self.leader is None else read_process(self.leader)
        return None if holder is not None and holder.started != self.started else self.leader

    def _marked(self, pid: int) -> bool:
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            return False  # gone, or somebody else's
        return os.fsencode(f"\0{MARK}={self.mark}\0") in b"\0" + environment + b"\0"

    def end(self, wait_s: float) -> list[int]:
        """End them all. Returns what did not end within a minute after SIGKILL.

        SIGTERM goes to the batch script's process group, so that a launcher ends its ranks; whatever
        outlives the script gets its own. SIGKILL follows after `wait_s` seconds.
        """
        deadline = time.monotonic() + wait_s
        if (shell := self.shell()) is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(shell.pid, signal.SIGTERM)
        told = False
        while members := self.members():
            if time.monotonic() >= deadline + _UNKILLABLE_S:
                return members
            if time.monotonic() >= deadline:
                _signal(members, signal.SIGKILL)
            elif not told and self.shell() is None:
                _signal(members, signal.SIGTERM)
                told = True
            time.sleep(_LOOK_S)
        return []


def _living() -> list[Process]:
    found = [read_process(int(entry)) for entry in os.listdir("/proc") if entry.isdigit()]
    return [process for process in found if process is not None and not process.zombie]


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
