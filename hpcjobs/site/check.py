"""Whether a cluster is fit for a study, as seen from the login node and by a short job."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from hpcjobs.base.contract import CHECK_NODE, FAILURE, OK, WARNING, Finding
from hpcjobs.base.errors import SubmitRefused
from hpcjobs.base.files import open_plain, read_json
from hpcjobs.base.records import JobState, Order, RunState
from hpcjobs.schedulers import Scheduler
from hpcjobs.schedulers.slurm.slurm_scheduler import SlurmScheduler

# Clocks that differ by more, in s, are worth a warning; by more than the second, elapsed times mean nothing.
_SKEW_S, _MUCH_SKEW_S = 2.0, 60.0
# How long a file of a job that has ended may take to be seen from another host: NFS keeps what it knew for so long.
_CACHED_S = 60.0
# Longer than any such job may run, in s: one that is not heard of for so long is given up.
_LONGEST_S = 1800.0
# How often the scheduler is asked, in s.
_ASK_S = 2.0
# The first thing that the job's script leaves.
CLOCK = "clock"
# What srun and mpirun say last, of whatever it was.
_OF_ITS_END = re.compile(r"Exited with exit code|Terminating StepId|srun: Job step aborted|STEP \S+ ON|^MPI_ABORT was")

Told = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Job:
    """What became of a short job: `ended` None where it had not begun in time, and was cancelled.

    By this host's clock, in s since the epoch, its script began after `not_before` and before `seen` (None: never).
    """

    id: str
    ended: JobState | None
    not_before: float
    seen: float | None
    said: str = ""


def fits(objections: Iterable[str], tests: Mapping[str, Callable[[], str]], up: bool) -> Iterator[Finding]:
    """What the site's limits and `sbatch --test-only` say of each script, by group."""
    for text in objections:
        state = WARNING if not up and text.endswith("until it is") else FAILURE
        yield Finding("limits", state, text, "give smaller sizes, or another partition, time or QOS in the profile")
    for group, test in tests.items():
        try:
            yield Finding("sbatch", OK, f"{group}: could start {test()}")
        except SubmitRefused as error:
            yield Finding("sbatch", FAILURE, f"{group}: {error}", "change the key of the profile that Slurm objects to")


def disk(folder: Path, needed: int) -> Finding:
    """Whether so many bytes of checkpoints and logs fit into the folder's file system."""
    free = shutil.disk_usage(folder).free
    said = f"{free / 1e9:.3g} GB free in {folder}, about {needed / 1e9:.3g} GB needed at most (quotas are not seen)"
    if free > needed:
        return Finding("disk", OK, said)
    return Finding(
        "disk", FAILURE, said, "give --out on a larger file system, fewer repeats, or train.checkpoint=false"
    )


def run_by_slurm(folder: Path, script: Path, name: str, patience_s: float, told: Told) -> Job:
    """Submit a script of `render.errand` and wait for its end. Raises SubmitRefused, SchedulerUnreachable.

    A job that has not begun after `patience_s` is cancelled; so is one that is interrupted.
    """
    scheduler: Scheduler = SlurmScheduler()
    begun = asked = not_before = time.time()
    seen: float | None = None
    job = scheduler.submit(script, [0], name, Order())
    told(f"job {job} asks a compute node ...")
    state = JobState(None, "")
    ended = False
    try:
        while not ended:
            now = time.time()
            if seen is None and CLOCK in os.listdir(folder):
                seen = time.time()
            elif seen is None:
                not_before = now
            if now - asked > _ASK_S:
                asked, state = now, scheduler.poll([f"{job}_0"]).get(f"{job}_0", state)
                ended = state.state is not None and state.state.final
            started = seen is not None or state.state is RunState.RUNNING
            if not ended and now - begun > patience_s + (_LONGEST_S if started else 0.0):
                return Job(job, None, not_before, seen, state.reason)
            time.sleep(0.2)
    finally:
        if not ended:
            scheduler.cancel([job])
    while seen is None and time.time() < asked + _CACHED_S:
        time.sleep(0.5)
        seen = time.time() if CLOCK in os.listdir(folder) else None
    return Job(job, state, not_before, seen)


def run_here(folder: Path, script: Path, name: str, patience_s: float, told: Told) -> Job:
    """The same on this machine."""
    before = time.time()
    with (folder / f"{name}.out").open("wb") as output:
        # A session of its own: what the launcher started ends with it.
        running = subprocess.Popen(["bash", str(script)], stdout=output, stderr=output, start_new_session=True)
        try:
            code = running.wait(timeout=patience_s)
        except BaseException as error:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            return Job("here", None, before, None, f"it took more than {patience_s:.0f} s")
    return Job("here", JobState(None, f"exit code {code}"), before, time.time())


def answers(job: Job, folder: Path, name: str, token: str, here: str) -> Iterator[Finding]:
    """What the job found on its node, and what its coming and going tells; `here` is this host."""
    if job.ended is None:
        said = f"job {job.id} did not run in time{f' ({job.said})' if job.said else ''}: nobody asked a compute node"
        yield Finding("node", WARNING, said, "ask again when there is room, or with a larger --patience-min")
        return
    if job.seen is None:
        said = f"job {job.id} ended ({job.ended.word}), and nothing that it wrote into {folder} is seen here"
        yield Finding("folder", FAILURE, said, "give --out on a file system that compute nodes share and may write to")
        return
    about = read_json(folder / CHECK_NODE) or {}
    if about.get("token") != token:
        said = f"job {job.id} ended ({job.ended.word}) before it could say what its node has: {last_line(folder, name)}"
        yield Finding(
            "node", FAILURE, said, f"see {folder / name}.out; python, modules and prologue of the profile decide"
        )
        return
    host = about["host"]
    yield Finding("folder", OK, f"{host} reads and writes {folder}")
    if host != here and (skew := clocks(folder, job)):
        yield skew
    for check, state, said, cure in about["findings"]:
        yield Finding(check, state, f"{said} on {host}" if check != "data" else said, cure)


def clocks(folder: Path, job: Job) -> Finding | None:
    """By how much the node's clock is ahead of this host's, within what the waiting could tell."""
    try:
        with open_plain(folder / CLOCK) as file:
            theirs = float(file.read().split()[0])
    except (OSError, ValueError, IndexError):
        return None
    assert job.seen is not None
    least, most = theirs - job.seen, theirs - job.not_before
    if least <= 0 <= most:
        return Finding("clock", OK, f"the node's clock is ours within {max(-least, most):.1f} s")
    off = min(abs(least), abs(most))
    said = f"the node's clock is {'ahead of' if least > 0 else 'behind'} this host's by {off:.1f} s at least"
    state = FAILURE if off > _MUCH_SKEW_S else WARNING if off > _SKEW_S else OK
    return Finding("clock", state, said, "" if state == OK else "have NTP or chrony set the clocks of both")


def last_line(folder: Path, name: str) -> str:
    """What a job said last, but for what the launcher says of its end."""
    try:
        with open_plain(folder / f"{name}.out") as file:
            lines = file.read()[-4000:].decode("utf-8", "replace").split("\n")
    except OSError:
        return "it left no output"
    said = [line.strip() for line in lines if any(map(str.isalpha, line))]
    own = [line for line in said if not _OF_ITS_END.search(line)]
    return (own or said or ["it said nothing"])[-1]
