"""The local scheduler's queue as it lies on disk.

`jobs/N.json` is a submission, `tasks/N_I.json` an array task that has begun, `cancelled/N_I` a wish;
`runner.lock` is held by the runner, `collected.json` names the last job that its epilogue has seen.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
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
# A runner on another host touches its lock every 10 s; one that was silent for so long is gone, in seconds.
_SILENCE_S = 120.0

# Words of a task that has not ended ...
STARTING, RUNNING, REQUEUED = "STARTING", "RUNNING", "REQUEUED"
# ... and of one that has. NO_RUNNER: its runner was killed, and nobody saw how it ended.
COMPLETED, FAILED, TIMEOUT, CANCELLED, NO_RUNNER = "COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "NO_RUNNER"
_ENDS = {
    COMPLETED: RunState.DONE,
    FAILED: RunState.FAILED,
    TIMEOUT: RunState.FAILED,
    CANCELLED: RunState.CANCELLED,
    NO_RUNNER: RunState.LOST,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """A submission. `throttle`: tasks that may run at a time; `after`: jobs or tasks that must have ended before.

    `submitted` is in seconds since the epoch; the other times, ending in `_s`, are seconds.
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
    """A task that has begun, once or more often; `start` and `end` in seconds since the epoch.

    `mark` is what its processes have in their environment; `pid` and `started` (clock ticks since boot) name
    its shell. `restarts`: how often it was started again; `told`: it was sent the signal before its time limit;
    `rc` is negative for a signal.
    """

    host: str
    mark: str
    start: float
    word: str
    restarts: int = 0
    pid: int | None = None
    started: int | None = None
    told: bool = False
    reason: str = ""
    rc: int | None = None
    end: float | None = None

    @property
    def here(self) -> bool:
        """Whether it runs, or ran, on this host."""
        return self.host == socket.gethostname()

    @property
    def tree(self) -> Tree:
        """Its processes, on its host."""
        return Tree(self.mark, self.pid, self.started)


class Queue:
    """The folder. Methods raise OSError where it cannot be read or written."""

    def __init__(self, folder: Path):
        self.folder = folder

    def make(self) -> None:
        """Make the folder and its parts."""
        for part in ("jobs", "tasks", "cancelled"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)

    def numbers(self) -> list[str]:
        """Numbers of all jobs, in their order."""
        with contextlib.suppress(FileNotFoundError):
            stems = [name.removesuffix(".json") for name in os.listdir(self.folder / "jobs")]
            return sorted((stem for stem in stems if stem.isdigit()), key=int)
        return []

    def job(self, number: str) -> Job | None:
        """A job; None where its file does not hold one."""
        with contextlib.suppress(TypeError):
            return Job(**(read_json(self.folder / "jobs" / f"{number}.json") or {}))
        return None

    def jobs(self) -> dict[str, Job]:
        """All jobs by number, in their order."""
        return {number: job for number in self.numbers() if (job := self.job(number)) is not None}

    def add(self, job: Job) -> str:
        """Queue a job, whole or not at all. Returns its number."""
        data = to_json(dataclasses.asdict(job))
        number = int((self.numbers() or ["0"])[-1]) + 1
        while not claim_link(self.folder / "jobs" / f"{number}.json", data):
            number += 1
        return str(number)

    def record(self, task: str) -> Record | None:
        """A task's record; None where it has not begun. A damaged one is of a task that nobody may run again."""
        path = self._path(task)
        try:
            return Record(**(read_json(path) or {}))
        except TypeError:
            if not os.path.lexists(path):
                return None
            return Record(host="", mark="", start=0, end=0, word=NO_RUNNER, reason=f"{path} cannot be read")

    def save(self, task: str, record: Record) -> None:
        """Write a task's record, whole or not at all."""
        write_json(self._path(task), dataclasses.asdict(record))

    def forget(self, task: str) -> None:
        """Take back the record of a task that could not begin."""
        self._path(task).unlink(missing_ok=True)

    def _path(self, task: str) -> Path:
        return self.folder / "tasks" / f"{task}.json"

    def wish(self, task: str) -> None:
        """Ask that a task be cancelled."""
        # No link that somebody laid there is followed; one that is there is a wish as well.
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self.folder / "cancelled" / task, flags, 0o666))

    def wished(self, task: str) -> bool:
        """Whether somebody asked that the task be cancelled."""
        return os.path.lexists(self.folder / "cancelled" / task)

    def wishes(self) -> set[str]:
        """All tasks of which that was asked."""
        return set(os.listdir(self.folder / "cancelled"))

    def collected(self) -> int:
        """Number of the last job that the epilogue has seen."""
        return int((read_json(self.folder / "collected.json") or {}).get("job", 0))

    def set_collected(self, number: int) -> None:
        """Note that the epilogue has seen all jobs up to that number."""
        write_json(self.folder / "collected.json", {"job": number})

    @property
    def lock(self) -> Path:
        """The lock file of the runner."""
        return self.folder / "runner.lock"

    def holds(self, host: str, pid: int) -> bool:
        """Whether that runner has the lock still: on a host that slept, another one's may have taken it over."""
        holder = read_json(self.lock)
        if holder is None:
            return os.path.lexists(self.lock)  # not to be read just now
        return (holder.get("host"), holder.get("pid")) == (host, pid)

    def lacks(self, number: str, job: Job) -> bool:
        """Whether that job was removed with its sweep, perhaps to make room for another one."""
        if not os.path.lexists(self.folder / "jobs" / f"{number}.json"):
            return True
        return self.job(number) not in (job, None)

    def runner_lives(self) -> bool:
        """Whether a runner holds the lock. One on another host is believed while it touches it."""
        holder: dict[str, Any] = read_json(self.lock) or {}
        if not {"host", "pid", "started"} <= holder.keys():
            return False
        if holder["host"] == socket.gethostname():
            return lock.alive(holder)
        with contextlib.suppress(FileNotFoundError):
            return time.time() - self.lock.stat().st_mtime < _SILENCE_S
        return False

    def state(self, task: str, job: Job, runner: bool) -> JobState:
        """How a task fares; `runner`: whether there is one that will run what waits."""
        record = self.record(task)
        wished = self.wished(task)
        if record is None or record.word == REQUEUED:
            again = "" if record is None else " again"
            if wished:
                return JobState(RunState.CANCELLED, CANCELLED, f"before it started{again}")
            # Whatever step the clock made: that it was submitted just now is what counts.
            if runner or abs(time.time() - job.submitted) < _RUNNER_START_S:
                return JobState(RunState.PENDING, "PENDING" if record is None else REQUEUED)
            return JobState(RunState.LOST, NO_RUNNER, "its runner is gone")
        nodes = (record.host,) if record.host else ()
        if record.end is None:
            state, word, reason = _begun(record, runner, wished)
            return JobState(state, word, reason, nodes=nodes, start=record.start)
        rc = record.rc
        return JobState(
            state=_ENDS[record.word],
            word=record.word,
            reason=record.reason,
            exit_code=None if rc is None else max(rc, 0),
            signal=None if rc is None else max(-rc, 0),
            nodes=nodes,
            start=record.start,
            end=record.end,
        )


def _begun(record: Record, runner: bool, wished: bool) -> tuple[RunState, str, str]:
    """State, word and reason of a task that has begun, and of which no end is written down."""
    if not record.here and not runner:
        reason = f"on {record.host}, which cannot be seen from here"
        return (RunState.CANCELLED, CANCELLED, reason) if wished else (RunState.RUNNING, RUNNING, reason)
    unseen = runner and (record.pid is None or not record.here)
    if not wished and (unseen or record.tree.shell() is not None):
        return RunState.RUNNING, RUNNING, ""
    # The runner ends what the script left behind, and writes down how it ended.
    if runner or record.tree.members():
        return RunState.RUNNING, "COMPLETING", ""
    if wished:
        return RunState.CANCELLED, CANCELLED, "its runner is gone"
    return RunState.LOST, NO_RUNNER, "its runner is gone"
