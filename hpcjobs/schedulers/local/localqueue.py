"""The local scheduler's queue on disk.

`jobs/N.json` is a submission, `tasks/N_I.json` the record of an array task that has begun, `cancelled/N_I` the request
to cancel a task. `runner.lock` is held by the runner. `collected.json` names the last job before its latest epilogue.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

from hpcjobs.base import lock
from hpcjobs.base.files import claim_link, read_json, to_json, write_json
from hpcjobs.base.records import JobState, RunState
from hpcjobs.schedulers.local.processes import Tree

# A runner that was just started may not hold its lock yet, in seconds.
_RUNNER_START_S = 10.0
# A runner on another host touches its lock every 10 s. If the lock is older than this, that runner is gone, in seconds.
_SILENCE_S = 120.0

# A runner that was killed is gone within this time, unless it waits for a file system, in seconds.
_RUNNER_END_S = 10

# Words of a task that has not ended ...
STARTING, RUNNING, REQUEUED = "STARTING", "RUNNING", "REQUEUED"
# ... and of one that has. NO_RUNNER: its runner was killed, so how it ended is not known.
COMPLETED, FAILED, TIMEOUT, CANCELLED, NO_RUNNER = "COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "NO_RUNNER"
_ENDS = {
    COMPLETED: RunState.DONE,
    FAILED: RunState.FAILED,
    TIMEOUT: RunState.FAILED,
    CANCELLED: RunState.CANCELLED,
    NO_RUNNER: RunState.LOST,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class QueuedJob:
    """A submission.

    `throttle`: how many tasks may run at a time. `after`: jobs or tasks that must have ended before its tasks start.
    `requeues`: how often a task may start again. `submitted` is in seconds since the epoch, names in `_s` are seconds.
    """

    name: str
    script: str
    arguments: list[str]
    indices: list[int]
    output: str
    epilogue: list[str]
    throttle: int
    after: list[str]
    requeues: int
    time_s: int | None
    signal: int | None
    signal_s: int
    kill_wait_s: float
    submitted: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """A task that has begun at least once. `start` and `end` are in seconds since the epoch.

    `mark` is the value of `processes.MARK` in the environment of its processes. `pid` and `started` (clock ticks since
    boot) name its shell. `restarts`: how often it was started again. `warned`: the signal before its time limit was
    sent. `rc` is its exit code, or minus the signal that ended it.
    """

    host: str
    mark: str
    start: float
    word: str
    restarts: int = 0
    pid: int | None = None
    started: int | None = None
    warned: bool = False
    reason: str = ""
    rc: int | None = None
    end: float | None = None

    @property
    def here(self) -> bool:
        """Whether this host runs it, or ran it."""
        return self.host == socket.gethostname()

    @property
    def tree(self) -> Tree:
        """Its processes, on its host."""
        return Tree(self.mark, self.pid, self.started)


class Queue:
    """The queue's folder. Methods raise OSError if it cannot be read or written."""

    def __init__(self, folder: Path):
        self.folder = folder

    def make(self) -> None:
        """Make the folder and its subfolders."""
        for part in ("jobs", "tasks", "cancelled"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)

    def numbers(self) -> list[str]:
        """The numbers of all jobs, ascending."""
        with contextlib.suppress(FileNotFoundError):
            stems = [name.removesuffix(".json") for name in os.listdir(self.folder / "jobs")]
            return sorted((stem for stem in stems if stem.isdigit()), key=int)
        return []

    def job(self, number: str) -> QueuedJob | None:
        """A job, or None if its file does not hold one."""
        with contextlib.suppress(TypeError):
            return QueuedJob(**(read_json(self.folder / "jobs" / f"{number}.json") or {}))
        return None

    def jobs(self) -> dict[str, QueuedJob]:
        """All jobs by number, ascending."""
        return {number: job for number in self.numbers() if (job := self.job(number)) is not None}

    def add(self, job: QueuedJob) -> str:
        """Add a job to the queue, whole or not at all. Returns its number."""
        data = to_json(dataclasses.asdict(job))
        number = int((self.numbers() or ["0"])[-1]) + 1
        while not claim_link(self.folder / "jobs" / f"{number}.json", data):
            number += 1
        return str(number)

    def record(self, task: str) -> Record | None:
        """A task's record, or None if it has not begun.

        A file that cannot be read counts as a task that has ended: whether it ran is not known, so it must not start.
        """
        path = self._path(task)
        data = read_json(path) or {}
        if "told" in data:  # the name of `warned` in version 0.1
            data["warned"] = data.pop("told")
        try:
            return Record(**data)
        except TypeError:
            if not os.path.lexists(path):
                return None
            return Record(host="", mark="", start=0, end=0, word=NO_RUNNER, reason=f"{path} cannot be read")

    def save(self, task: str, record: Record) -> None:
        """Write a task's record, whole or not at all."""
        write_json(self._path(task), dataclasses.asdict(record))

    def forget(self, task: str) -> None:
        """Remove the record of a task that could not be started."""
        self._path(task).unlink(missing_ok=True)

    def _path(self, task: str) -> Path:
        return self.folder / "tasks" / f"{task}.json"

    def request_cancel(self, task: str) -> None:
        """Ask the runner to cancel a task."""
        # A symbolic link is not followed. Whatever has that name already is a request, too.
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self.folder / "cancelled" / task, flags, 0o666))

    def cancel_requested(self, task: str) -> bool:
        """Whether somebody asked to cancel the task."""
        return os.path.lexists(self.folder / "cancelled" / task)

    def cancel_requests(self) -> set[str]:
        """All tasks that somebody asked to cancel."""
        return set(os.listdir(self.folder / "cancelled"))

    def collected(self) -> int:
        """The number of the last job that was in the queue when the epilogue last ran. 0 if it never ran."""
        return int((read_json(self.folder / "collected.json") or {}).get("job", 0))

    def set_collected(self, number: int) -> None:
        """Record that the epilogue ran after all jobs up to that number."""
        write_json(self.folder / "collected.json", {"job": number})

    @property
    def lock(self) -> Path:
        """The lock file of the runner."""
        return self.folder / "runner.lock"

    def is_lock_held_by(self, host: str, pid: int) -> bool:
        """Whether that runner still holds the lock. While its host was suspended, another runner may have taken it."""
        holder = read_json(self.lock)
        if holder is None:
            return os.path.lexists(self.lock)  # it exists, and cannot be read at the moment
        return (holder.get("host"), holder.get("pid")) == (host, pid)

    def was_removed(self, number: str, job: QueuedJob) -> bool:
        """Whether that job was removed with its sweep. Another sweep may have taken the folder since."""
        if not os.path.lexists(self.folder / "jobs" / f"{number}.json"):
            return True
        return self.job(number) not in (job, None)

    def runner_lives(self) -> bool:
        """Whether a live runner holds the lock. A runner on another host is alive while it touches the lock."""
        holder: dict[str, Any] = read_json(self.lock) or {}
        if not {"host", "pid", "started"} <= holder.keys():
            return False
        if holder["host"] == socket.gethostname():
            return lock.alive(holder)
        with contextlib.suppress(FileNotFoundError):
            return time.time() - self.lock.stat().st_mtime < _SILENCE_S
        return False

    def end_runner(self) -> bool:
        """Kill the runner, if it is on this host; its tasks live on. Returns whether no runner is left."""
        holder: dict[str, Any] = read_json(self.lock) or {}
        if not self.runner_lives():
            return True
        if holder.get("host") != socket.gethostname():
            return False
        with contextlib.suppress(OSError):
            os.kill(holder["pid"], signal.SIGKILL)
        for _ in range(_RUNNER_END_S * 20):
            if not self.runner_lives():
                return True
            time.sleep(0.05)
        return False

    def state(self, task: str, job: QueuedJob, runner: bool) -> JobState:
        """The state of a task. `runner`: whether there is a runner, which will start the tasks that wait."""
        record = self.record(task)
        cancel = self.cancel_requested(task)
        if record is None or record.word == REQUEUED:
            again = "" if record is None else " again"
            if cancel:
                return JobState(RunState.CANCELLED, CANCELLED, f"before it started{again}")
            # A job that was just submitted waits for its runner to start. The clock may have been set back since.
            if runner or abs(time.time() - job.submitted) < _RUNNER_START_S:
                return JobState(RunState.PENDING, "PENDING" if record is None else REQUEUED)
            return JobState(RunState.LOST, NO_RUNNER, "its runner is gone")
        nodelist = record.host or ""
        if record.end is None:
            state, word, reason = _begun(record, runner, cancel)
            return JobState(state, word, reason, nodelist=nodelist, start=record.start)
        rc = record.rc
        return JobState(
            state=_ENDS[record.word],
            word=record.word,
            reason=record.reason,
            exit_code=None if rc is None else max(rc, 0),
            signal=None if rc is None else max(-rc, 0),
            nodelist=nodelist,
            start=record.start,
            end=record.end,
        )


def _begun(record: Record, runner: bool, cancel: bool) -> tuple[RunState, str, str]:
    """(state, word, reason) of a task that has begun, and whose record has no end. `cancel`: that was requested."""
    if not record.here and not runner:
        reason = f"on {record.host}, which cannot be seen from here"
        return (RunState.CANCELLED, CANCELLED, reason) if cancel else (RunState.RUNNING, RUNNING, reason)
    unseen = runner and (record.pid is None or not record.here)
    if not cancel and (unseen or record.tree.shell() is not None):
        return RunState.RUNNING, RUNNING, ""
    # The runner ends the processes that the script left behind, then records how the task ended.
    if runner or record.tree.members():
        return RunState.RUNNING, "COMPLETING", ""
    if cancel:
        return RunState.CANCELLED, CANCELLED, "its runner is gone"
    return RunState.LOST, NO_RUNNER, "its runner is gone"
