"""This machine as a scheduler: one detached runner per sweep runs the scripts that Slurm would.

All state is in one folder (`localqueue.py`). The runner (`runner.py`) is in a session of its own, so it
outlives the terminal; it goes when there is no task left.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from hpcjobs.base.errors import SchedulerUnreachable, SubmitRefused
from hpcjobs.base.records import JobState, Limits, Order
from hpcjobs.schedulers import Capabilities
from hpcjobs.schedulers.local import localscript
from hpcjobs.schedulers.local.localqueue import CANCELLED, REQUEUED, Job, Queue

# Time from SIGTERM to SIGKILL of a task, in seconds (Slurm's KillWait is 30).
KILL_WAIT_S = 10.0
# The runner gets so much longer to end a cancelled task; then it is ended without it, in seconds.
_RUNNER_WAIT_S = 5.0
# And so long to write down that it has, in seconds.
_RECORD_WAIT_S = 1.0


class LocalScheduler:
    """The scheduler of one sweep on this machine.

    `folder` holds its state; `output` is the folder of the tasks' output; `epilogue` is a command that
    the runner runs when no task is left (it collects); `requeues` is how often a task that was told of its
    time limit, and left with EXIT_INTERRUPTED, starts again.
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
        """Queue the tasks and make sure that a runner is there. Returns the job's number.

        Tasks start in the order of their submission. One starts only while fewer run than its own job's
        throttle and that of every running one allow; a job without one has its tasks alone on the machine.
        `order.exclude` means nothing here: there is one node.
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
                job = Job(
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
                # It is queued now, whatever happens to the runner: a task without one shows as lost.
                with contextlib.suppress(OSError):
                    self._start_runner(log)
            finally:
                os.close(log)
        except OSError as error:
            raise SubmitRefused(f"{error.filename or self.queue.folder}: {error.strerror}") from None
        return number

    def _start_runner(self, log: int) -> None:
        # A second runner finds the lock taken and leaves at once. Python looks for modules in the working
        # folder first: it must not be one that others may write to.
        subprocess.Popen(
            [sys.executable, "-m", "hpcjobs.schedulers.local.runner", str(self.queue.folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
        )

    def find(self, names: Collection[str]) -> dict[str, list[str]]:
        """Numbers of all jobs of these names, by name, oldest first."""
        found: dict[str, list[str]] = {}
        for number, job in self.queue.jobs().items():
            if job.name in names:
                found.setdefault(job.name, []).append(number)
        return found

    def poll(self, tasks: Collection[str]) -> Mapping[str, JobState]:
        """States of those of the tasks (`JOB_INDEX`) that are known."""
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
        """End jobs or tasks with every process they started. Raises SchedulerUnreachable where the disk says no."""
        tasks = {
            f"{number}_{index}": job
            for number, job in self.queue.jobs().items()
            for index in job.indices
            if number in ids or f"{number}_{index}" in ids
        }
        failed = None
        # All are marked before any is ended: else the runner starts the next one meanwhile.
        for task in [task for task in tasks if not self._ended(task)]:
            try:
                self.queue.wish(task)
            except OSError as error:
                failed = error  # those that run are ended all the same
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
                f"{self.queue.folder}: {failed.strerror}: what runs was ended, but what waits may still start"
            )

    def _ended(self, task: str) -> bool:
        record = self.queue.record(task)
        return record is not None and record.end is not None

    def _runs(self, task: str) -> bool:
        record = self.queue.record(task)
        return record is not None and record.end is None and record.word != REQUEUED

    def _wait_for_runner(self, tasks: Sequence[str], wait_s: float) -> None:
        """Let the runner end them: it alone can say how they ended."""
        deadline = time.monotonic() + wait_s + _RUNNER_WAIT_S
        while self.queue.runner_lives() and time.monotonic() < deadline:
            records = [self.queue.record(task) for task in tasks]
            left = [record for record in records if record is not None and record.end is None]
            if not left:
                return
            if not any(record.here and record.tree.members() for record in left):
                # They are gone, and only their records are missing: perhaps the disk is full.
                deadline = min(deadline, time.monotonic() + _RECORD_WAIT_S)
            time.sleep(0.05)

    def _end(self, task: str, wait_s: float) -> None:
        record = self.queue.record(task)
        if record is None or record.end is not None or not record.here:
            return
        left = record.tree.end(wait_s)
        if not left and not self.queue.runner_lives():
            ended = dataclasses.replace(record, word=CANCELLED, reason="its runner was gone", end=time.time())
            with contextlib.suppress(OSError):  # it is marked as cancelled
                self.queue.save(task, ended)

    def limits(self, partition: str | None) -> Limits:
        """None."""
        return Limits()

    def user_limit(self, qos: str | None) -> int | None:
        """None."""
        return None

    def test(self, text: str) -> str:
        """Whether bash can parse the script, and its `#SBATCH` lines make sense. Raises SubmitRefused."""
        localscript.read(text)
        done = subprocess.run(["bash", "-n"], input=os.fsencode(text), capture_output=True, timeout=30)
        if done.returncode:
            raise SubmitRefused(f"bash cannot parse the script: {os.fsdecode(done.stderr).strip()}")
        return "bash can parse the script"
