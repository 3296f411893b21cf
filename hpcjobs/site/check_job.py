"""A short job of a check: it is submitted, waited for, and its output is read."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import time
from pathlib import Path

from hpcjobs.base.records import JobState, Order, RunState, Tell
from hpcjobs.collect import evidence
from hpcjobs.config import Cluster
from hpcjobs.schedulers import factory

# How long, in s, a file that a job wrote may stay invisible on another host: NFS caches attributes for up to a minute.
_NFS_CACHE_S = 60.0
# How long, in s, a started job is waited for beyond the patience for its start. Then it is cancelled.
_LONGEST_S = 1800.0
# The interval between two queries of the scheduler, in s.
_POLL_S = 2.0
# The first file that the job's script writes: the node's clock.
CLOCK = "clock"


@dataclasses.dataclass(frozen=True)
class CheckJob:
    """The end of a short job. `ended` is None if it did not start in time and was cancelled; `reason` says why.

    By this host's clock, in s since the epoch, its script began between `not_before` and `seen` (None: never seen).
    """

    id: str
    ended: JobState | None
    not_before: float
    seen: float | None
    reason: str = ""


def run(cluster: Cluster, folder: Path, script: Path, name: str, patience_s: float, tell: Tell) -> CheckJob:
    """Run a script of `render.probe_job`, by the scheduler if jobs run on other nodes, else on this machine.

    Raises SubmitRefused, SchedulerUnreachable.
    """
    if factory.capabilities(cluster).compute_nodes:
        return run_by_scheduler(cluster, folder, script, name, patience_s, tell)
    return run_here(folder, script, name, patience_s)


def run_by_scheduler(
    cluster: Cluster, folder: Path, script: Path, name: str, patience_s: float, tell: Tell
) -> CheckJob:
    """Submit the script and wait for its end. Raises SubmitRefused, SchedulerUnreachable.

    A job that has not started after `patience_s` is cancelled, and so is one whose wait is interrupted.
    """
    scheduler = factory.make(cluster)
    begun = polled_at = not_before = time.time()
    seen: float | None = None
    job = scheduler.submit(script, [0], name, Order())
    tell(f"job {job} looks at a compute node ...")
    state = JobState(None, "")
    ended = False
    try:
        while not ended:
            now = time.time()
            if seen is None and CLOCK in os.listdir(folder):
                seen = time.time()
            elif seen is None:
                not_before = now
            if now - polled_at > _POLL_S:
                polled_at, answer = now, scheduler.poll([f"{job}_0"]).get(f"{job}_0")
                state = answer if answer is not None and not answer.silent else state
                ended = state.state is not None and state.state.final
            started = seen is not None or state.state is RunState.RUNNING
            if not ended and now - begun > patience_s + (_LONGEST_S if started else 0.0):
                return CheckJob(job, None, not_before, seen, state.reason)
            time.sleep(0.2)
    finally:
        if not ended:
            scheduler.cancel([job])
    while seen is None and time.time() < polled_at + _NFS_CACHE_S:
        time.sleep(0.5)
        seen = time.time() if CLOCK in os.listdir(folder) else None
    return CheckJob(job, state, not_before, seen)


def run_here(folder: Path, script: Path, name: str, patience_s: float) -> CheckJob:
    """Run the script on this machine; end it, with all processes of its session, after `patience_s`."""
    before = time.time()
    with (folder / f"{name}.out").open("wb") as output:
        # Its own session lets one signal end everything that the launcher started.
        running = subprocess.Popen(["bash", str(script)], stdout=output, stderr=output, start_new_session=True)
        try:
            code = running.wait(timeout=patience_s)
        except BaseException as error:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            return CheckJob("here", None, before, None, f"it took more than {patience_s:.0f} s")
    return CheckJob("here", JobState(None, f"exit code {code}"), before, time.time())


def last_line(folder: Path, name: str) -> str:
    """The line of a job's output that says why it ended, as of a run; without one, its own last words."""
    output = folder / f"{name}.out"
    if not output.exists():
        return "it wrote no output"
    return evidence.why(output, ends_known=True) or "its output is empty"
