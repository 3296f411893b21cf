"""This machine as a scheduler: one detached runner per sweep runs the scripts that Slurm would run.

All state is in one folder (`localqueue.py`). The runner (`runner.py`) leads its own session, so it outlives the
terminal. It ends when no task is left.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from hpcjobs.base.errors import SchedulerUnreachable, SubmitRefused
from hpcjobs.base.records import JobState, Limits, Order
from hpcjobs.schedulers import Capabilities
from hpcjobs.schedulers.local import localscript
from hpcjobs.schedulers.local.localqueue import CANCELLED, REQUEUED, Queue, QueuedJob

# Time from SIGTERM to SIGKILL of a task, in seconds (Slurm's KillWait is 30).
KILL_WAIT_S = 10.0
# The runner gets this much more time to end a cancelled task. Then this process ends it, in seconds.
_RUNNER_WAIT_S = 5.0
# The runner gets this much time to record the end of a task whose processes are gone, in seconds.
_RECORD_WAIT_S = 1.0


class LocalScheduler:
    """The scheduler of one sweep on this machine.

    `folder` holds its queue, `output` the output of its tasks. The runner runs the command `epilogue` when no task is
    left: it collects. A task that was signalled before its time limit and ended with EXIT_INTERRUPTED starts again, at
    most `requeues` times.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(
        arrays=True,
        signals=True,
        dependencies=False,
        accounting=False,
        limits=False,
        site_options=False,
        compute_nodes=False,
        requeue_from_job=False,
        epilogue=True,
    )

    def __init__(self, folder: Path, output: Path, epilogue: Sequence[str] = (), requeues: int = 0):
        self.queue = Queue(folder.resolve())
        self.output = output.resolve()
        self.epilogue = list(epilogue)
        self.requeues = requeues

    def submit(self, script: Path, indices: Sequence[int], name: str, order: Order) -> str:
        """Queue the tasks and make sure that there is a runner. Returns the job's number. Raises SubmitRefused.

        Tasks start in the order of their submission. A task starts only while fewer tasks run than its job's throttle
        and the throttle of every running job allow. A job without a throttle runs one task at a time, alone on the
        machine. `order.exclude` is ignored: there is one node.
        """
        flags = os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_NOFOLLOW
        try:
            directives = localscript.read(script.read_text(encoding="utf-8", errors="replace"))
            self.queue.make()
            unknown = {job.partition("_")[0] for job in order.after} - set(self.queue.numbers())
            if unknown:
                raise SubmitRefused(f"{script.name}: no job {', '.join(sorted(unknown))} to wait for")
            log = os.open(self.queue.folder / "runner.log", flags, 0o666)
            try:
                job = QueuedJob(
                    name=name,
                    script=str(script.absolute()),
                    arguments=list(order.arguments),
                    indices=list(indices),
                    output=str(self.output),
                    epilogue=self.epilogue,
                    throttle=order.throttle or 1,
                    after=list(order.after),
                    requeues=self.requeues if directives.requeue else 0,
                    time_s=directives.time_s,
                    signal=directives.signal,
                    signal_s=directives.signal_s,
                    kill_wait_s=KILL_WAIT_S,
                    submitted=time.time(),
                )
                number = self.queue.add(job)
                # The job is queued, even if no runner can be started: then its tasks show as lost.
                with contextlib.suppress(OSError):
                    self._start_runner(log)
            finally:
                os.close(log)
        except OSError as error:
            raise SubmitRefused(f"{error.filename or self.queue.folder}: {error.strerror}") from None
        return number

    def _start_runner(self, log: int) -> None:
        # A second runner finds the lock taken and exits at once. Python looks for modules in the working folder
        # first: others must not be able to write there.
        subprocess.Popen(
            [sys.executable, "-m", "hpcjobs.schedulers.local.runner", str(self.queue.folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
        )

    def find(self, names: Collection[str], *, living: bool = False) -> dict[str, list[str]]:
        """The numbers of jobs with these names, by name, oldest first; if `living`, of those that have not ended."""
        found: dict[str, list[str]] = {}
        for number, job in self.queue.jobs().items():
            over = living and all(self._ended(f"{number}_{index}") for index in job.indices)
            if job.name in names and not over:
                found.setdefault(job.name, []).append(number)
        return found

    def poll(self, tasks: Collection[str]) -> Mapping[str, JobState]:
        """The states of the `tasks` (`JOB_INDEX`) that are in the queue."""
        jobs = self.queue.jobs()
        runner = self.queue.runner_lives()
        states = {}
        for task in tasks:
            number, _, index = task.partition("_")
            job = jobs.get(number)
            if job is not None and index.isdigit() and int(index) in job.indices:
                states[task] = self.queue.state(task, job, runner)
        return states

    def cancel(self, ids: Sequence[str]) -> None:
        """End jobs or tasks with every process they started.

        Raises SchedulerUnreachable if a request to cancel cannot be written.
        """
        tasks = {
            f"{number}_{index}": job
            for number, job in self.queue.jobs().items()
            for index in job.indices
            if number in ids or f"{number}_{index}" in ids
        }
        failed = None
        # All requests are written before any task is ended: otherwise the runner would start the next task meanwhile.
        for task in [task for task in tasks if not self._ended(task)]:
            try:
                self.queue.request_cancel(task)
            except OSError as error:
                failed = error  # running tasks are ended all the same
        if failed and all(task in tasks for task in self._left()):
            # Nothing else is left to run: a runner that is gone starts none of the tasks that wait.
            failed = None if self.queue.end_runner() else failed
        running = [task for task in tasks if self._runs(task)]
        if not failed:
            self._wait_for_runner(running, max((tasks[task].kill_wait_s for task in running), default=0))
        enders = [threading.Thread(target=self._end, args=(task, tasks[task].kill_wait_s)) for task in running]
        for ender in enders:
            ender.start()
        for ender in enders:
            ender.join()
        if failed:
            raise SchedulerUnreachable(
                f"{self.queue.folder}: {failed.strerror}: running tasks were ended, but waiting ones may still start"
            )

    def _left(self) -> Iterator[str]:
        """Every task of the queue that has not ended."""
        every = (f"{number}_{index}" for number, job in self.queue.jobs().items() for index in job.indices)
        return (task for task in every if not self._ended(task) and not self.queue.cancel_requested(task))

    def _ended(self, task: str) -> bool:
        record = self.queue.record(task)
        return record is not None and record.end is not None

    def _runs(self, task: str) -> bool:
        record = self.queue.record(task)
        return record is not None and record.end is None and record.word != REQUEUED

    def _wait_for_runner(self, tasks: Sequence[str], wait_s: float) -> None:
        """Let the runner end the tasks: only their parent gets their exit codes."""
        deadline = time.monotonic() + wait_s + _RUNNER_WAIT_S
        while self.queue.runner_lives() and time.monotonic() < deadline:
            records = [self.queue.record(task) for task in tasks]
            left = [record for record in records if record is not None and record.end is None]
            if not left:
                return
            if not any(record.here and record.tree.members() for record in left):
                # Their processes are gone, but not all records are written: perhaps the disk is full.
                deadline = min(deadline, time.monotonic() + _RECORD_WAIT_S)
            time.sleep(0.05)

    def _end(self, task: str, wait_s: float) -> None:
        record = self.queue.record(task)
        if record is None or record.end is not None or not record.here:
            return
        left = record.tree.end(wait_s)
        if not left and not self.queue.runner_lives():
            ended = dataclasses.replace(record, word=CANCELLED, reason="its runner was gone", end=time.time())
            with contextlib.suppress(OSError):  # the request to cancel is on disk and says enough
                self.queue.save(task, ended)

    def limits(self, partition: str | None, reservation: str | None = None) -> Limits:
        """No limits."""
        return Limits()

    def user_limit(self, qos: str | None) -> int | None:
        """No limit."""
        return None

    def node_energy(self, tasks: Sequence[str], mark: str) -> tuple[str, Mapping[str, int]]:
        """Nobody measures it."""
        return "", {}

    def test(self, text: str) -> str:
        """Check that bash can parse the script, and that its `#SBATCH` lines are valid. Raises SubmitRefused.

        Returns when it would start: at once if no other task runs.
        """
        localscript.read(text)
        done = subprocess.run(["bash", "-n"], input=os.fsencode(text), capture_output=True, timeout=30)
        if done.returncode:
            raise SubmitRefused(f"bash cannot parse the script: {os.fsdecode(done.stderr).strip()}")
        return "at once, in turn"
