"""The runner of a local queue: `python -m hpcjobs.schedulers.local.runner FOLDER`, one at a time per folder.

It starts what waits, tells a task of its time limit, ends it at the limit or when somebody asks, writes
down how it ended, and runs the epilogue when nothing is left. It must outlive every error that may pass:
a runner that died leaves tasks that nobody watches.
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
    Job,
    Queue,
    Record,
)
from hpcjobs.schedulers.local.processes import Tree

# How often the queue and the running tasks are looked at, in seconds. The end of a task is noticed at once.
_TICK_S = 0.25
# How often a runner that cannot write its lock tries to, in seconds.
_LOCK_S = 1.0
# As the time that the collecting job of a cluster has, in seconds.
_EPILOGUE_S = 900.0
# The same trouble is told once in so many seconds.
_TELL_S = 60.0
# What may pass by itself: a full disk or quota, a full table of processes or files, a file server that is away.
_PASSING = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EAGAIN, errno.ENOMEM),
    *(errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.EIO, errno.EINTR),
}


@dataclasses.dataclass
class Running:
    """A task that has begun; `process` is None where a runner before this one started it.

    `over` is why it was ended, if it was; `ender` does that.
    """

    task: str
    job: Job
    record: Record
    process: subprocess.Popen[bytes] | None = None
    over: str = ""
    ender: threading.Thread | None = None


def tell(text: str) -> None:
    """A line for runner.log, whose disk may be full as well."""
    with contextlib.suppress(OSError):
        os.write(2, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n".encode(errors="backslashreplace"))


class Runner:
    """The runner of one folder, whose lock it must hold."""

    def __init__(self, folder: Path):
        self.queue = Queue(folder)
        self.seen: set[str] = set()  # numbers of jobs
        self._jobs: dict[str, Job] = {}
        self._waiting: dict[str, deque[str]] = {}  # tasks by job, in the order in which they start
        self._running: dict[str, Running] = {}
        self._elsewhere: dict[str, Record] = {}  # begun on another host by a runner that is gone
        self._unsaved: dict[str, Record] = {}
        self._gone = False  # the sweep was removed
        self._ours = True  # the lock is
        self._stuck = 0.0  # since when there are some that the disk refused
        self._collected = 0
        self._said = ("", 0.0)
        self._alarm, alarm = os.pipe()
        for end in (self._alarm, alarm):
            os.set_blocking(end, False)
        # A child's end interrupts the sleep between two ticks.
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(alarm, warn_on_full_buffer=False)

    def work(self) -> None:
        """Run tasks until none is left, then the epilogue, until there is nothing new after it."""
        while True:
            try:
                busy = self._tick() or self._collect()
            except OSError as error:
                self.say(f"{error}; trying again")
                busy = True
            if not busy:
                return
            select.select([self._alarm], [], [], _TICK_S)
            with contextlib.suppress(BlockingIOError):
                os.read(self._alarm, 4096)

    def say(self, text: str) -> None:
        """`tell`, but the same line only once a minute."""
        if self._said[0] == text and time.monotonic() - self._said[1] < _TELL_S:
            return
        self._said = (text, time.monotonic())
        tell(text)

    def _tick(self) -> bool:
        """Look at everything once. Returns whether there is more to do."""
        # What runs may run to its end, but nothing is written any more, least of all into another sweep.
        self._gone = self._gone or any(self.queue.lacks(*known) for known in list(self._jobs.items())[:1])
        for running in list(self._running.values()):
            self._watch(running)
        if self._gone:
            return bool(self._running)
        self._flush()
        self._ours = self._ours and self.queue.holds(socket.gethostname(), os.getpid())
        if not self._ours:
            self.say("another runner has the lock: it starts what waits")
            return bool(self._running or self._unsaved)
        self._load()
        wishes = self.queue.wishes()
        for number, tasks in self._waiting.items():
            self._waiting[number] = deque(task for task in tasks if task not in wishes)
        for task in wishes & self._elsewhere.keys():
            self._save(task, dataclasses.replace(self._elsewhere.pop(task), word=CANCELLED, end=time.time()))
        if not self._unsaved:
            self._start_more()
        return bool(self._running or self._unsaved or any(self._waiting.values()))

    # --- what is known ---------------------------------------------------------------------------

    def _load(self) -> None:
        for number in self.queue.numbers():
            if number in self.seen:
                continue
            self.seen.add(number)
            if (job := self.queue.job(number)) is None:
                self.say(f"jobs/{number}.json holds no job of this hpcjobs: left out")
                continue
            waiting: deque[str] = deque()
            for task in (f"{number}_{index}" for index in job.indices):
                record = self.queue.record(task)
                if record is None or record.word == REQUEUED:
                    waiting.append(task)
                elif record.end is None and record.here:
                    # Of a runner that is gone. It may live on; it is not run again in either case.
                    self._running[task] = Running(task, job, _completed(record))
                elif record.end is None:
                    self._elsewhere[task] = record
            self._jobs[number], self._waiting[number] = job, waiting

    def _save(self, task: str, record: Record) -> None:
        self._unsaved[task] = record
        self._flush()

    def _flush(self) -> None:
        if self._gone:
            self._unsaved.clear()
        try:
            for task, record in list(self._unsaved.items()):
                self.queue.save(task, record)
                del self._unsaved[task]
        except OSError as error:
            self._stuck = self._stuck or time.monotonic()
            self.say(f"cannot write the record of {task}: {error.strerror}; nothing starts until it is written")
        else:
            if self._stuck:  # what was told meanwhile may be missing from a log on the same disk
                self.say(f"for {time.monotonic() - self._stuck:.0f} s not every record could be written; all are now")
            self._stuck = 0.0

    # --- starting --------------------------------------------------------------------------------

    def _start_more(self) -> None:
        for number, job in self._jobs.items():
            tasks = self._waiting[number]
            if any(self._unfinished(other) for other in job.after):
                continue
            while tasks:
                # Nobody overtakes: else one that wants the machine for itself would never start.
                if len(self._running) >= min(each.throttle for each in (job, *self._jobs_running())):
                    return
                if not self._start(tasks[0], job):
                    return
                tasks.popleft()

    def _jobs_running(self) -> list[Job]:
        return [running.job for running in self._running.values()]

    def _unfinished(self, what: str) -> bool:
        """Whether a job, or a single task, has not ended."""
        number = what.partition("_")[0]
        left = (*self._waiting.get(number, ()), *self._running, *self._unsaved)
        return any(what in (task, task.partition("_")[0]) for task in left)

    def _start(self, task: str, job: Job) -> bool:
        """Start a task. Returns False where that has to be tried again."""
        before = self.queue.record(task)
        restarts = before.restarts if before else 0
        # Another sweep in the same folder, after this one was removed, has the same tasks.
        mark = f"{self.queue.folder}/{task}/{uuid.uuid4().hex}"
        record = Record(host=socket.gethostname(), mark=mark, start=time.time(), word=STARTING, restarts=restarts)
        try:
            # First the record: should the runner be killed in between, nobody starts the task a second time.
            self.queue.save(task, record)
            process = self._open(task, job, record)
        except OSError as error:
            if error.errno in _PASSING:
                self.say(f"cannot start {task}: {error}; trying again")
                if before is None:
                    self.queue.forget(task)
                else:
                    self._save(task, before)
                return False
            self._save(task, dataclasses.replace(record, word=FAILED, reason=str(error), rc=1, end=time.time()))
            return True
        born = read_process(process.pid)
        record = dataclasses.replace(
            record, word=RUNNING, pid=process.pid, started=None if born is None else born.started
        )
        self._running[task] = Running(task, job, record, process)
        self._save(task, record)
        return True

    def _open(self, task: str, job: Job, record: Record) -> subprocess.Popen[bytes]:
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
            return  # it ends this very moment
        if shell is not None:
            if not self._gone and self.queue.wished(running.task):
                self._end(running, tree, CANCELLED)
            elif running.job.time_s is not None:
                self._mind_the_time(running, tree, shell)
        elif running.ender is None and tree.members():
            self._end(running, tree, "")
        else:
            self._finish(running)

    def _mind_the_time(self, running: Running, tree: Tree, shell: Process) -> None:
        job, record = running.job, running.record
        assert job.time_s is not None
        left = job.time_s - processes.age_s(shell)
        if left <= 0:
            self._end(running, tree, TIMEOUT)
        # A shell without its trap would die of the signal: it is told once it has set it.
        elif job.signal and left <= job.signal_s and not record.told and processes.catches(shell.pid, job.signal):
            os.kill(shell.pid, job.signal)
            running.record = dataclasses.replace(record, told=True)
            self._save(running.task, running.record)

    def _end(self, running: Running, tree: Tree, why: str) -> None:
        running.over = why
        running.ender = threading.Thread(target=self._ender, args=(running, tree), name=f"ends {running.task}")
        running.ender.start()

    def _ender(self, running: Running, tree: Tree) -> None:
        if left := tree.end(running.job.kill_wait_s):
            self.say(f"{running.task}: not even SIGKILL ends {' '.join(map(str, left))}")

    def _finish(self, running: Running) -> None:
        """Write down how a task ended, or queue it again."""
        task, job, record = running.task, running.job, running.record
        rc = None if running.process is None else running.process.returncode
        cancelled = running.over == CANCELLED or (rc != 0 and self.queue.wished(task))
        del self._running[task]
        interrupted = record.told and rc == EXIT_INTERRUPTED and not running.over and not cancelled
        if interrupted and record.restarts < job.requeues:
            again = dataclasses.replace(
                record, word=REQUEUED, restarts=record.restarts + 1, pid=None, started=None, told=False
            )
            self._save(task, again)
            self._waiting[task.partition("_")[0]].appendleft(task)
            return
        reason = ""
        if cancelled:
            word = CANCELLED
        elif running.over:
            word = running.over
        elif rc is None:
            word, reason = NO_RUNNER, "its runner was gone: how it ended is not known"
        else:
            word = COMPLETED if rc == 0 else FAILED
        self._save(task, dataclasses.replace(record, word=word, reason=reason, rc=rc, end=time.time()))

    # --- the epilogue ----------------------------------------------------------------------------

    def _collect(self) -> bool:
        """Run the epilogue, if it has not seen all jobs. Returns whether it ran."""
        last = max(map(int, self._jobs), default=0)
        if self._gone or not self._ours or last <= max(self._collected, self.queue.collected()):
            return False
        self._collected = last
        epilogue = self._jobs[str(last)].epilogue
        if epilogue:
            try:
                done = subprocess.run(epilogue, stdin=subprocess.DEVNULL, check=False, timeout=_EPILOGUE_S)
                if done.returncode:
                    self.say(f"the epilogue ended with {done.returncode}")
            except (OSError, subprocess.TimeoutExpired) as error:
                self.say(f"the epilogue failed: {error}")
        self.queue.set_collected(last)
        return True


def _completed(record: Record) -> Record:
    """With its shell, should the runner that started it have had no time to write that down."""
    shell = record.tree.shell() if record.pid is None else None
    return record if shell is None else dataclasses.replace(record, word=RUNNING, pid=shell.pid, started=shell.started)


def _environment(task: str, record: Record) -> dict[str, str]:
    """What a task sees. A full set of SLURM_JOBID and node list would make Open MPI look for Slurm."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SBATCH_"))}
    number, _, index = task.partition("_")
    environment |= {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": index}
    if record.restarts:
        environment["SLURM_RESTART_COUNT"] = str(record.restarts)
    return environment | {processes.MARK: record.mark}


def run(folder: Path) -> None:
    """Run every queued task of `folder`, unless another runner does already."""
    queue = Queue(folder)
    seen: set[str] = set()
    # The lock is free again, then the queue is looked at once more: a submission that came meanwhile
    # started a runner of its own, or is found here.
    while set(queue.numbers()) - seen:
        try:
            with lock.held(queue.lock, folder):
                runner = Runner(folder)
                runner.work()
                seen = runner.seen
        except lock.Locked:
            return
        except OSError as error:  # the lock cannot be written
            tell(f"{queue.lock}: {error.strerror}; trying again")
            time.sleep(_LOCK_S)


if __name__ == "__main__":
    run(Path(sys.argv[1]))
