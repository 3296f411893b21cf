"""This machine as a scheduler: one detached runner per sweep runs the scripts that Slurm would.

All state is in one folder: `jobs/N.json` is a submission, `tasks/N_I.json` one array task,
`cancelled/N_I` a wish. The runner (`python -m hpcjobs.schedulers.local FOLDER`) is in a session of its
own, so it outlives the terminal; it runs one task at a time and goes when there is none left.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hpcjobs.errors import SubmitRefused
from hpcjobs.files import read_json, write_json
from hpcjobs.records import JobState, Limits, Order, RunState

# Time from SIGTERM to SIGKILL of a cancelled task, in seconds (Slurm's KillWait is 30).
KILL_WAIT_S = 10.0
# A runner that was just started may not hold its lock yet.
RUNNER_START_S = 10.0


class LocalScheduler:
    """The scheduler of one sweep on this machine.

    `folder` holds its state; `output` is the folder of the tasks' output; `epilogue` is a command that
    the runner runs when no task is left (it collects); `requeues` is how often a task that was told to
    write a checkpoint starts again.
    """

    def __init__(self, folder: Path, output: Path, epilogue: Sequence[str] = (), requeues: int = 0):
        self.folder = folder
        self.output = output
        self.epilogue = list(epilogue)
        self.requeues = requeues

    def submit(self, script: Path, indices: Sequence[int], name: str, order: Order) -> str:
        """Queue the tasks and make sure that a runner is there. Returns the job's number."""
        for part in ("jobs", "tasks", "cancelled"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        job = {
            "name": name,
            "script": str(script),
            "indices": list(indices),
            "output": str(self.output),
            "epilogue": self.epilogue,
            "arguments": list(order.arguments),
            "submitted": time.time(),
        }
        fresh = self.folder / "jobs" / f".new.{os.getpid()}"
        write_json(fresh, job)
        number = 1
        while True:
            try:
                os.link(fresh, self.folder / "jobs" / f"{number}.json")
                break
            except FileExistsError:
                number += 1
        fresh.unlink()
        self._start_runner()
        return str(number)

    def _start_runner(self) -> None:
        # A second runner finds the lock taken and leaves at once.
        with (self.folder / "runner.log").open("ab") as log:
            subprocess.Popen(
                [sys.executable, "-m", __name__, str(self.folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
            )

    def find(self, sweep_id: str) -> dict[str, list[str]]:
        """Job names that hold `sweep_id`, with their numbers, also of jobs that have ended."""
        found: dict[str, list[str]] = {}
        for number, job in _jobs(self.folder):
            if sweep_id in job["name"]:
                found.setdefault(job["name"], []).append(number)
        return found

    def poll(self, tasks: Collection[str]) -> Mapping[str, JobState]:
        """States of the known ones of these tasks (`JOB_INDEX`)."""
        wanted = set(tasks)
        runner = _runner_lives(self.folder)
        states = {}
        for number, job in _jobs(self.folder):
            young = time.time() - job["submitted"] < RUNNER_START_S
            for index in job["indices"]:
                task = f"{number}_{index}"
                if task in wanted:
                    states[task] = _state(self.folder, task, runner or young)
        return states

    def cancel(self, ids: Sequence[str]) -> None:
        """End jobs or tasks with every process they started."""
        tasks = [task for task in self._tasks(ids) if "end" not in (self._record(task) or {})]
        # All are marked before any is ended: else the runner starts the next one meanwhile.
        for task in tasks:
            (self.folder / "cancelled" / task).touch()
        for task in tasks:
            record = self._record(task)
            if record is not None and "end" not in record and _alive(record):
                _end_session(record["pid"])

    def _record(self, task: str) -> dict[str, Any] | None:
        return read_json(self.folder / "tasks" / f"{task}.json")

    def _tasks(self, ids: Sequence[str]) -> Iterator[str]:
        for number, job in _jobs(self.folder):
            for index in job["indices"]:
                if number in ids or f"{number}_{index}" in ids:
                    yield f"{number}_{index}"

    def limits(self) -> Limits:
        """None."""
        return Limits()

    def test(self, text: str) -> str:
        """Whether bash can parse the script. Raises SubmitRefused."""
        done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, timeout=30)
        if done.returncode:
            raise SubmitRefused(f"bash cannot parse the script: {done.stderr.strip()}")
        return "bash can parse the script"


def _jobs(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for path in (folder / "jobs").glob("*.json"):
        job = read_json(path)
        if path.stem.isdigit() and job is not None:
            found.append((path.stem, job))
    return sorted(found, key=lambda entry: int(entry[0]))


def _state(folder: Path, task: str, runner: bool) -> JobState:
    record = read_json(folder / "tasks" / f"{task}.json")
    if record is None:
        if (folder / "cancelled" / task).exists():
            return JobState(RunState.CANCELLED, "CANCELLED", "before it started")
        return (
            JobState(RunState.PENDING, "PENDING")
            if runner
            else JobState(RunState.LOST, "NO_RUNNER", "its runner is gone")
        )
    nodes = (record["host"],)
    if "end" not in record:
        if _alive(record):
            return JobState(RunState.RUNNING, "RUNNING", nodes=nodes, start=record["start"])
        if runner:  # the runner is about to write down how it ended
            return JobState(RunState.RUNNING, "COMPLETING", nodes=nodes, start=record["start"])
        return JobState(RunState.LOST, "NO_RUNNER", "its runner is gone", nodes=nodes, start=record["start"])
    rc = record["rc"]
    number = -rc if rc < 0 else 0
    word, state = ("COMPLETED", RunState.DONE) if rc == 0 else ("FAILED", RunState.FAILED)
    if (folder / "cancelled" / task).exists():
        word, state = "CANCELLED", RunState.CANCELLED
    return JobState(state, word, "", max(rc, 0), number, nodes, record["start"], record["end"])


# --- processes -----------------------------------------------------------------------------------


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the state on (proc(5) numbers the state 3)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _started(pid: int) -> int | None:
    """Start of the process in clock ticks since boot (field 22): with the pid it names one process."""
    fields = _stat(pid)
    return None if fields is None or fields[0] == "Z" else int(fields[19])


def _alive(record: Mapping[str, Any]) -> bool:
    if record["host"] != socket.gethostname():
        return True  # cannot be seen from here
    return bool(_started(record["pid"]) == record["ticks"])


def _session(leader: int) -> list[int]:
    """Processes of the session that `leader` made: mpirun gives each rank a group of its own."""
    members = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            fields = _stat(int(entry))
            if fields is not None and fields[0] != "Z" and int(fields[3]) == leader:
                members.append(int(entry))
    return members


def _end_session(leader: int) -> None:
    """SIGTERM to the leader's process group; after KILL_WAIT_S SIGKILL to all of the session that is left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGTERM)
    for pid in _wait_gone(leader):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    _wait_gone(leader)


def _wait_gone(leader: int) -> list[int]:
    """Wait up to KILL_WAIT_S until the session is empty; what is left of it."""
    deadline = time.monotonic() + KILL_WAIT_S
    while (members := _session(leader)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return members


# --- the runner ----------------------------------------------------------------------------------


def _runner_lives(folder: Path) -> bool:
    """Whether a runner holds the lock. From another host it cannot be seen, and is believed."""
    owner = read_json(folder / "runner.json")
    if owner is not None and owner["host"] != socket.gethostname():
        return True
    try:
        with (folder / "runner.lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _next_task(folder: Path) -> tuple[str, int, dict[str, Any]] | None:
    for number, job in _jobs(folder):
        for index in job["indices"]:
            task = f"{number}_{index}"
            if not (folder / "tasks" / f"{task}.json").exists() and not (folder / "cancelled" / task).exists():
                return number, index, job
    return None


def _environment(number: str, index: int) -> dict[str, str]:
    """What a task sees. A full set of SLURM_JOBID and node list would make Open MPI look for Slurm."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SBATCH_"))}
    return environment | {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": str(index)}


def _run_task(folder: Path, number: str, index: int, job: Mapping[str, Any]) -> None:
    path = folder / "tasks" / f"{number}_{index}.json"
    with (Path(job["output"]) / f"{number}_{index}.out").open("ab") as output:
        process = subprocess.Popen(
            ["bash", job["script"], *job["arguments"]],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=_environment(number, index),
            start_new_session=True,
        )
    record: dict[str, Any] = {
        "host": socket.gethostname(),
        "pid": process.pid,
        "ticks": _started(process.pid),
        "start": time.time(),
    }
    write_json(path, record)
    if (folder / "cancelled" / path.stem).exists():  # asked for before there was a record of what to end
        _end_session(process.pid)
    rc = process.wait()
    write_json(path, {**record, "rc": rc, "end": time.time()})


def run(folder: Path) -> None:
    """Run every queued task of `folder`, one at a time, unless another runner does already."""
    while _next_task(folder) is not None:
        with (folder / "runner.lock").open("wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            write_json(folder / "runner.json", {"host": socket.gethostname(), "pid": os.getpid()})
            epilogue: list[str] = []
            while (task := _next_task(folder)) is not None:
                number, index, job = task
                _run_task(folder, number, index, job)
                epilogue = job["epilogue"]
        # The lock is free again, then the queue is looked at once more: a submission that came
        # meanwhile started a runner of its own, or is found here.
        if epilogue:
            subprocess.run(epilogue, stdin=subprocess.DEVNULL, check=False)


if __name__ == "__main__":
    run(Path(sys.argv[1]))
