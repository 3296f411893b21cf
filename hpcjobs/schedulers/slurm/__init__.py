"""Slurm: one array per script, one query for all jobs of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from hpcjobs.errors import SchedulerUnreachable, SubmitRefused
from hpcjobs.hostlist import fold_indices
from hpcjobs.records import JobState, Limits
from hpcjobs.schedulers.slurm import limits, parse
from hpcjobs.schedulers.slurm.commands import Refused, run

# Ids that go on one command line; a sweep has few jobs (one per size), so this is never reached but
# by a cancel of single tasks.
_IDS_PER_CALL = 500
# Accounting older than this is not searched for jobs of a sweep.
_FIND_SINCE = "now-60days"


def answers() -> bool:
    """Whether there is a Slurm here and its controller is up."""
    try:
        return "UP" in run("scontrol", "ping")
    except (Refused, SchedulerUnreachable):
        return False


class SlurmScheduler:
    """The Slurm that the commands on PATH talk to. Methods raise SchedulerUnreachable where it is away."""

    def submit(self, script: Path, indices: Sequence[int], name: str) -> str:
        """Submit as one array. Raises SubmitRefused with Slurm's own words."""
        try:
            said = run("sbatch", "--parsable", f"--job-name={name}", f"--array={fold_indices(indices)}", str(script))
        except Refused as error:
            raise SubmitRefused(f"sbatch refused {script.name}: {error}") from None
        return parse.job_id(said)

    def find(self, sweep_id: str) -> dict[str, str]:
        """Job names that hold `sweep_id`, each with its job id: of the controller and of the accounting."""
        found = parse.names(run("squeue", "--noheader", "--states=all", "--format=%F|%j"))
        try:
            words = ("--allocations", "--noheader", "--parsable2", "--format=JobID,JobName")
            found |= parse.names(run("sacct", *words, f"--starttime={_FIND_SINCE}"))
        except Refused:
            pass  # no accounting here
        return {name: job for name, job in found.items() if sweep_id in name}

    def poll(self, ids: Sequence[str]) -> Mapping[str, JobState]:
        """States of all tasks of jobs `ids`: one squeue and, where there is accounting, one sacct.

        What squeue says of a living job counts: after a requeue sacct still shows the end before it.
        """
        if not ids:
            return {}
        jobs = ",".join(ids)
        try:
            columns = "--format=%F_%K|%T|%r|%N|%S"
            seen = parse.squeue(run("squeue", "--noheader", "--array", "--states=all", columns, f"--jobs={jobs}"))
        except Refused as error:
            if "Invalid job id" not in str(error):
                raise SchedulerUnreachable(f"squeue failed: {error}") from None
            seen = {}  # the controller forgets a job MinJobAge after its end
        try:
            columns = "--format=JobID,State,ExitCode,NodeList,Start,End"
            booked = parse.sacct(run("sacct", "--allocations", "--noheader", "--parsable2", columns, f"--jobs={jobs}"))
        except Refused:
            booked = {}  # no accounting here
        living = {task: state for task, state in seen.items() if state.state is None or not state.state.final}
        ended = {task: state for task, state in booked.items() if state.state is not None and state.state.final}
        return {**booked, **seen, **ended, **living}

    def cancel(self, ids: Sequence[str]) -> None:
        """scancel jobs or tasks; it says nothing of those that have ended."""
        for start in range(0, len(ids), _IDS_PER_CALL):
            try:
                run("scancel", *ids[start : start + _IDS_PER_CALL])
            except Refused as error:
                if "already completing or completed" not in str(error) and "Invalid job id" not in str(error):
                    raise

    def limits(self) -> Limits:
        """What `scontrol show config` says."""
        return limits.read(run("scontrol", "show", "config"))

    def test(self, script: Path) -> str:
        """`sbatch --test-only`: when and where the script would start. Raises SubmitRefused."""
        try:
            return run("sbatch", "--test-only", str(script), both=True).strip()
        except Refused as error:
            raise SubmitRefused(f"sbatch --test-only refused {script.name}: {error}") from None
