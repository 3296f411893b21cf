"""The runner of a local queue: `python -m hpcjobs.schedulers.local.runner FOLDER`, one at a time per folder.

It starts the tasks that wait, signals a task before its time limit, ends it at the limit or on request, records how it
ended, and runs the epilogue when no task is left. It must survive every error that may pass by itself: if it dies,
nobody watches its tasks.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import deque
from pathlib import Path

from hpcjobs.base import lock
from hpcjobs.base.contract import EXIT_INTERRUPTED
from hpcjobs.base.proc import Process, read_process
from hpcjobs.schedulers.local import processes
from hpcjobs.schedulers.local.localqueue import (
    CANCELLED,
    COMPLETED,
    FAILED,
    NO_RUNNER,
    REQUEUED,
    RUNNING,
    STARTING,
    TIMEOUT,
    Queue,
    QueuedJob,
    Record,
)
from hpcjobs.schedulers.local.processes import Tree

# How often the queue and the running tasks are checked, in seconds. SIGCHLD reports the end of a task at once.
_TICK_S = 0.25
# How long a runner that cannot write its lock waits before it tries again, in seconds.
_LOCK_S = 1.0
# The time limit of the epilogue, the same as that of the collector job on a cluster, in seconds.
_EPILOGUE_S = 900.0
# A message is not repeated within this time, in seconds.
_REPEAT_S = 60.0
# Errors that may pass by themselves: a full disk or quota, a full table of processes or files, an unreachable file
# server.
_PASSING = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EAGAIN, errno.ENOMEM),
    *(errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.EIO, errno.EINTR),
}


@dataclasses.dataclass
class Running:
    """A task that has begun. `process` is None if an earlier runner started it.

    `ender` is the thread that ends its processes, once that is necessary. `ended_as` is the word that is then recorded:
    CANCELLED, TIMEOUT, or empty if the script had ended by itself and only left processes behind.
    """

    task: str
    job: QueuedJob
    record: Record
    process: subprocess.Popen[bytes] | None = None
    ended_as: str = ""
    ender: threading.Thread | None = None


def log(text: str) -> None:
    """Write a line to runner.log. The line is lost if the disk is full."""
    with contextlib.suppress(OSError):
        os.write(2, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n".encode(errors="backslashreplace"))


class Runner:
    """The runner of one folder. Its process must hold the folder's lock."""

    def __init__(self, folder: Path):
        self.queue = Queue(folder)
        self.loaded: set[str] = set()  # numbers of jobs
        self._jobs: dict[str, QueuedJob] = {}
        self._waiting: dict[str, deque[str]] = {}  # tasks by job, in the order in which they start
        self._running: dict[str, Running] = {}
        self._elsewhere: dict[str, Record] = {}  # started on another host by a runner that is gone
        self._unsaved: dict[str, Record] = {}
        self._unsaved_since = 0.0  # by the monotonic clock; 0: every record is saved
        self._sweep_removed = False
        self._has_lock = True
        self._collected = 0
        self._last_message = ("", 0.0)  # and its time by the monotonic clock
        self._wakeup, writer = os.pipe()
        for end in (self._wakeup, writer):
            os.set_blocking(end, False)
        # The end of a child interrupts the wait between two ticks.
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def work(self) -> None:
        """Run tasks until none is left, then the epilogue. Repeat both while new jobs arrive."""
        while True:
            try:
                busy = self._tick() or self._run_epilogue()
            except OSError as error:
                self._log(f"{error}; trying again")
                busy = True
            if not busy:
                return
            select.select([self._wakeup], [], [], _TICK_S)
            with contextlib.suppress(BlockingIOError):
                os.read(self._wakeup, 4096)

    def _log(self, text: str) -> None:
        """`log`, but the same line at most once a minute."""
        if self._last_message[0] == text and time.monotonic() - self._last_message[1] < _REPEAT_S:
            return
        self._last_message = (text, time.monotonic())
        log(text)

    def _tick(self) -> bool:
        """Check the queue and all tasks once. Returns whether there is more to do."""
        # After the sweep was removed, running tasks may end by themselves, but nothing is written any more: another
        # sweep may have the folder now.
        self._sweep_removed = self._sweep_removed or any(
            self.queue.was_removed(*known) for known in list(self._jobs.items())[:1]
        )
        for running in list(self._running.values()):
            self._watch(running)
        if self._sweep_removed:
            return bool(self._running)
        self._save_all()
        self._has_lock = self._has_lock and self.queue.is_lock_held_by(socket.gethostname(), os.getpid())
        if not self._has_lock:
            self._log("another runner has the lock: it starts the waiting tasks")
            return bool(self._running or self._unsaved)
        self._load()
        cancelled = self.queue.cancel_requests()
        for number, tasks in self._waiting.items():
            self._waiting[number] = deque(task for task in tasks if task not in cancelled)
        for task in cancelled & self._elsewhere.keys():
            self._save(task, dataclasses.replace(self._elsewhere.pop(task), word=CANCELLED, end=time.time()))
        if not self._unsaved:
            self._start_more()
        return bool(self._running or self._unsaved or any(self._waiting.values()))

    # --- jobs and records ------------------------------------------------------------------------

    def _load(self) -> None:
        for number in self.queue.numbers():
            if number in self.loaded:
                continue
            self.loaded.add(number)
            if (job := self.queue.job(number)) is None:
                self._log(f"jobs/{number}.json does not hold a job of this version of hpcjobs: skipped")
                continue
            waiting: deque[str] = deque()
            for task in (f"{number}_{index}" for index in job.indices):
                record = self.queue.record(task)
                if record is None or record.word == REQUEUED:
                    waiting.append(task)
                elif record.end is None and record.here:
                    # An earlier runner started it. Whether or not it still runs, it is not started again.
                    self._running[task] = Running(task, job, _with_shell(record))
                elif record.end is None:
                    self._elsewhere[task] = record
            self._jobs[number], self._waiting[number] = job, waiting

    def _save(self, task: str, record: Record) -> None:
        self._unsaved[task] = record
        self._save_all()

    def _save_all(self) -> None:
        if self._sweep_removed:
            self._unsaved.clear()
        try:
            for task, record in list(self._unsaved.items()):
                self.queue.save(task, record)
                del self._unsaved[task]
        except OSError as error:
            self._unsaved_since = self._unsaved_since or time.monotonic()
            self._log(f"cannot write the record of {task}: {error.strerror}; nothing starts until it is written")
        else:
            if self._unsaved_since:  # earlier messages may be missing from a log on the same disk
                self._log(
                    f"for {time.monotonic() - self._unsaved_since:.0f} s not every record could be written; all are now"
                )
            self._unsaved_since = 0.0

    # --- starting --------------------------------------------------------------------------------

    def _start_more(self) -> None:
        for number, job in self._jobs.items():
            tasks = self._waiting[number]
            if any(self._unfinished(other) for other in job.after):
                continue
            while tasks:
                # No task overtakes another: otherwise a job that needs the whole machine might never start.
                if len(self._running) >= min(each.throttle for each in (job, *self._jobs_running())):
                    return
                if not self._start(tasks[0], job):
                    return
                tasks.popleft()

    def _jobs_running(self) -> list[QueuedJob]:
        return [running.job for running in self._running.values()]

    def _unfinished(self, what: str) -> bool:
        """Whether a job, or a single task, has not ended."""
        number = what.partition("_")[0]
        left = (*self._waiting.get(number, ()), *self._running, *self._unsaved)
        return any(what in (task, task.partition("_")[0]) for task in left)

    def _start(self, task: str, job: QueuedJob) -> bool:
        """Start a task. Returns False if it could not be started now and must be tried again."""
        before = self.queue.record(task)
        restarts = before.restarts if before else 0
        # The mark is unique: if this sweep is removed, the next one in the same folder has tasks of the same names.
        mark = f"{self.queue.folder}/{task}/{uuid.uuid4().hex}"
        record = Record(host=socket.gethostname(), mark=mark, start=time.time(), word=STARTING, restarts=restarts)
        try:
            # The record comes first: if the runner is killed before the start, no other runner starts the task again.
            self.queue.save(task, record)
            process = self._open(task, job, record)
        except OSError as error:
            if error.errno in _PASSING:
                self._log(f"cannot start {task}: {error}; trying again")
                if before is None:
                    self.queue.forget(task)
                else:
                    self._save(task, before)
                return False
            self._save(task, dataclasses.replace(record, word=FAILED, reason=str(error), rc=1, end=time.time()))
            return True
        shell = read_process(process.pid)
        started = None if shell is None else shell.started
        record = dataclasses.replace(record, word=RUNNING, pid=process.pid, started=started)
        self._running[task] = Running(task, job, record, process)
        self._save(task, record)
        return True

    def _open(self, task: str, job: QueuedJob, record: Record) -> subprocess.Popen[bytes]:
        flags = os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_NOFOLLOW
        output = os.open(Path(job.output) / f"{task}.out", flags, 0o666)
        try:
            return subprocess.Popen(
                ["bash", job.script, *job.arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.queue.folder,
                env=_environment(task, record),
                start_new_session=True,
            )
        finally:
            os.close(output)

    # --- watching and ending ---------------------------------------------------------------------

    def _watch(self, running: Running) -> None:
        if running.ender is not None and running.ender.is_alive():
            return
        tree = running.record.tree
        shell = tree.shell()
        if shell is None and running.process is not None and running.process.poll() is None:
            return  # it is ending
        if shell is not None:
            if not self._sweep_removed and self.queue.cancel_requested(running.task):
                self._end(running, tree, CANCELLED)
            elif running.job.time_s is not None:
                self._watch_time_limit(running, tree, shell)
        elif running.ender is None and tree.members():
            self._end(running, tree, "")
        else:
            self._finish(running)

    def _watch_time_limit(self, running: Running, tree: Tree, shell: Process) -> None:
        job, record = running.job, running.record
        assert job.time_s is not None
        left = job.time_s - processes.age_s(shell)
        if left <= 0:
            self._end(running, tree, TIMEOUT)
        # The signal would kill a shell that has not set its trap yet: it is sent only once there is a handler.
        elif job.signal and left <= job.signal_s and not record.warned and processes.catches(shell.pid, job.signal):
            os.kill(shell.pid, job.signal)
            running.record = dataclasses.replace(record, warned=True)
            self._save(running.task, running.record)

    def _end(self, running: Running, tree: Tree, word: str) -> None:
        running.ended_as = word
        running.ender = threading.Thread(target=self._end_processes, args=(running, tree), name=f"ends {running.task}")
        running.ender.start()

    def _end_processes(self, running: Running, tree: Tree) -> None:
        if left := tree.end(running.job.kill_wait_s):
            self._log(f"{running.task}: SIGKILL did not end process {', '.join(map(str, left))}")

    def _finish(self, running: Running) -> None:
        """Record how a task ended, or requeue it."""
        task, job, record = running.task, running.job, running.record
        rc = None if running.process is None else running.process.returncode
        cancelled = running.ended_as == CANCELLED or (rc != 0 and self.queue.cancel_requested(task))
        del self._running[task]
        interrupted = record.warned and rc == EXIT_INTERRUPTED and not running.ended_as and not cancelled
        if interrupted and record.restarts < job.requeues:
            again = dataclasses.replace(
                record, word=REQUEUED, restarts=record.restarts + 1, pid=None, started=None, warned=False
            )
            self._save(task, again)
            self._waiting[task.partition("_")[0]].appendleft(task)
            return
        reason = ""
        if cancelled:
            word = CANCELLED
        elif running.ended_as:
            word = running.ended_as
        elif rc is None:
            word, reason = NO_RUNNER, "its runner was gone: how it ended is not known"
        else:
            word = COMPLETED if rc == 0 else FAILED
        self._save(task, dataclasses.replace(record, word=word, reason=reason, rc=rc, end=time.time()))

    # --- the epilogue ----------------------------------------------------------------------------

    def _run_epilogue(self) -> bool:
        """Run the epilogue if a job was added since it last ran. Returns whether it ran."""
        last = max(map(int, self._jobs), default=0)
        if self._sweep_removed or not self._has_lock or last <= max(self._collected, self.queue.collected()):
            return False
        self._collected = last
        epilogue = self._jobs[str(last)].epilogue
        if epilogue:
            try:
                done = subprocess.run(epilogue, stdin=subprocess.DEVNULL, check=False, timeout=_EPILOGUE_S)
                if done.returncode:
                    self._log(f"the epilogue ended with {done.returncode}")
            except (OSError, subprocess.TimeoutExpired) as error:
                self._log(f"the epilogue failed: {error}")
        self.queue.set_collected(last)
        return True


def _with_shell(record: Record) -> Record:
    """The record, with its shell filled in if the runner was killed before it could record the shell."""
    shell = record.tree.shell() if record.pid is None else None
    return record if shell is None else dataclasses.replace(record, word=RUNNING, pid=shell.pid, started=shell.started)


def _environment(task: str, record: Record) -> dict[str, str]:
    """The environment of a task.

    It has an array's variables, but no SLURM_JOB_ID and no node list: with those Open MPI would look for Slurm.
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SBATCH_"))}
    number, _, index = task.partition("_")
    environment |= {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": index}
    if record.restarts:
        environment["SLURM_RESTART_COUNT"] = str(record.restarts)
    return environment | {processes.MARK: record.mark}


def run(folder: Path) -> None:
    """Run every queued task of `folder`. Returns at once if another runner has the lock."""
    queue = Queue(folder)
    loaded: set[str] = set()
    # The queue is checked again after the lock is released: a submission just before that started a runner which found
    # the lock taken and exited.
    while set(queue.numbers()) - loaded:
        try:
            with lock.held(queue.lock, folder):
                runner = Runner(folder)
                runner.work()
                loaded = runner.loaded
        except lock.Locked:
            return
        except OSError as error:  # the lock cannot be written
            log(f"{queue.lock}: {error.strerror}; trying again")
            time.sleep(_LOCK_S)


if __name__ == "__main__":
    run(Path(sys.argv[1]))
