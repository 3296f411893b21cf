"""The processes of one task on this host: finds all of them, and ends them."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import time
from pathlib import Path

from hpcjobs.base.proc import Process, read_process

# Every process of a task inherits this variable. It is found by it, even if it made a new session for itself.
MARK = "HPCJOBS_LOCAL_TASK"
# A process that still exists this long after SIGKILL hangs in the kernel, usually on a dead device, in seconds.
_UNKILLABLE_S = 60.0
# How often it is checked whether the processes have ended, in seconds.
_LOOK_S = 0.1


def age_s(process: Process) -> float:
    """Seconds since the process started. Setting the clock does not change it."""
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

    `mark` is the value of MARK in their environment. `leader` is the pid of the batch script's shell, which leads a
    session, and `started` is when it started, in clock ticks since boot. Both are None if the runner was killed before
    it could record them. Then the shell is the oldest session leader with the mark.
    """

    mark: str
    leader: int | None
    started: int | None

    def shell(self) -> Process | None:
        """The batch script's shell, or None if it has ended."""
        if self.leader is None:
            leaders = [each for each in _living() if each.session == each.pid and self._marked(each.pid)]
            return min(leaders, key=lambda each: each.started, default=None)
        found = read_process(self.leader)
        return None if found is None or found.zombie or found.started != self.started else found

    def members(self) -> list[int]:
        """The pids of all live processes that are in the session, have the mark, or descend from one of those.

        No single criterion finds all: Open MPI gives each rank its own process group, some launchers give each rank
        its own session, and a process may start a child with an empty environment.
        """
        living = _living()
        session = self._session()
        mine = {each.pid for each in living if each.session == session or self._marked(each.pid)}
        while more := {each.pid for each in living if each.parent in mine} - mine:
            mine |= more
        return sorted(mine - {os.getpid()})

    def _session(self) -> int | None:
        # Once the session is empty, its number may be reused for another process.
        holder = None if self.leader is None else read_process(self.leader)
        return None if holder is not None and holder.started != self.started else self.leader

    def _marked(self, pid: int) -> bool:
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            return False  # it has ended, or belongs to another user
        return os.fsencode(f"\0{MARK}={self.mark}\0") in b"\0" + environment + b"\0"

    def end(self, wait_s: float) -> list[int]:
        """End all processes. Returns the pids of those that did not end within a minute after SIGKILL.

        SIGTERM goes to the batch script's process group, so that a launcher can end its ranks. Processes that outlive
        the script get SIGTERM, too. SIGKILL follows `wait_s` seconds after the first SIGTERM.
        """
        deadline = time.monotonic() + wait_s
        if (shell := self.shell()) is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(shell.pid, signal.SIGTERM)
        terminated = False
        while members := self.members():
            if time.monotonic() >= deadline + _UNKILLABLE_S:
                return members
            if time.monotonic() >= deadline:
                _signal(members, signal.SIGKILL)
            elif not terminated and self.shell() is None:
                _signal(members, signal.SIGTERM)
                terminated = True
            time.sleep(_LOOK_S)
        return []


def _living() -> list[Process]:
    found = [read_process(int(entry)) for entry in os.listdir("/proc") if entry.isdigit()]
    return [process for process in found if process is not None and not process.zombie]


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
