"""A local scheduler in its own folder, for its tests."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from hpcjobs.base.records import JobState, Order, RunState
from hpcjobs.schedulers.local.local_scheduler import LocalScheduler

# A script that has this line waits there until the test calls `Site.release`: no sleep has to be long enough.
HOLD = "until [ -e go ]; do sleep 0.05; done"
ENDED = (RunState.DONE, RunState.FAILED, RunState.CANCELLED, RunState.LOST)


def until(ready: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until `ready`. The time limit is for a test that fails: it is many times what a slow machine needs."""
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Site:
    """A scheduler in a folder, and the state of its tasks."""

    def __init__(self, folder: Path, epilogue: tuple[str, ...] = (), requeues: int = 0):
        self.folder = folder
        (folder / "out").mkdir()
        self.scheduler = LocalScheduler(folder / "state", folder / "out", epilogue, requeues)

    def submit(
        self,
        script: str,
        indices: Sequence[int] = (0,),
        name: str = "job",
        order: Order | None = None,
        **changes: object,
    ) -> str:
        path = self.folder / f"{name}.sh"
        path.write_text(script)
        return self.scheduler.submit(path, indices, name, dataclasses.replace(order or Order(), **changes))

    def start(self, script: str) -> str:
        """Submit a single task; its id."""
        return f"{self.submit(script)}_0"

    def task(self, task: str) -> JobState:
        return self.scheduler.poll([task]).get(task, JobState(None, ""))

    def wait(self, task: str, *states: RunState) -> JobState:
        try:
            until(lambda: self.task(task).state in (states or ENDED))
        except AssertionError:
            raise AssertionError(f"{task} is {self.task(task)}; runner.log: {self.log()}") from None
        return self.task(task)

    def release(self) -> None:
        """Let the scripts go on that wait at HOLD."""
        (self.folder / "state" / "go").touch()

    def output(self, task: str) -> str:
        return (self.folder / "out" / f"{task}.out").read_text()

    def lines(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def pid(self, name: str) -> int:
        """The pid that a task writes to that file."""
        until(lambda: self.lines(name))
        return int(self.lines(name)[0])

    def log(self) -> str:
        return (self.folder / "state" / "runner.log").read_text()

    def runner(self) -> int:
        until((self.folder / "state" / "runner.lock").exists)
        return int(json.loads((self.folder / "state" / "runner.lock").read_text())["pid"])

    def gone(self) -> None:
        """Wait until the runner has ended."""
        until(lambda: not (self.folder / "state" / "runner.lock").exists())

    def kill_runner(self) -> None:
        """Kill the runner with SIGKILL. Then make all jobs look old: a job that was just submitted counts as pending."""
        runner = self.runner()
        os.kill(runner, signal.SIGKILL)
        until(lambda: not alive(runner))
        for path in (self.folder / "state" / "jobs").glob("*.json"):
            path.write_text(json.dumps({**json.loads(path.read_text()), "submitted": 0}))
