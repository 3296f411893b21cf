"""Slurm: one array per script, one query for all jobs of a sweep."""

from __future__ import annotations

import dataclasses
import functools
import getpass
import pwd
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

from hpcjobs.base.errors import SchedulerUnreachable, SubmitRefused
from hpcjobs.base.hostlist import fold_indices
from hpcjobs.base.records import JobState, Limits, Order
from hpcjobs.schedulers import Capabilities
from hpcjobs.schedulers.slurm import limits, parse
from hpcjobs.schedulers.slurm.commands import NotHere, Refused, run

# Ids that go on one command line; a sweep has few jobs (one per size), so this is never reached but
# by a cancel of single tasks.
_IDS_PER_CALL = 500
# Accounting older than this is not searched for jobs of a sweep.
_FIND_SINCE = "now-60days"
_NO_JOB = "Invalid job id"


def answers() -> bool:
    """Whether there is a Slurm here and its controller is up."""
    try:
        return "UP" in run("scontrol", "ping")
    except (Refused, SchedulerUnreachable):
        return False


def _named(state: JobState) -> JobState:
    """With the name of who cancelled it, of whom sacct tells the uid."""
    by, _, uid = state.reason.partition(" ")
    return dataclasses.replace(state, reason=f"by {_user(uid)}") if by == "by" else state


@functools.cache
def _user(uid: str) -> str:
    try:
        return pwd.getpwuid(int(uid)).pw_name
    except (KeyError, ValueError):
        return uid


class SlurmScheduler:
    """The Slurm that the commands on PATH talk to. Methods raise SchedulerUnreachable if it does not answer."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        arrays=True,
        signals=True,
        dependencies=True,
        accounting=True,
        limits=True,
        site_options=True,
        compute_nodes=True,
        requeue_from_job=True,
        epilogue=False,
    )

    def submit(self, script: Path, indices: Sequence[int], name: str, order: Order) -> str:
        """Submit as one array. Raises SubmitRefused with Slurm's own words, and the limit they speak of.

        An answer without a job id is no refusal: then it is looked for by its name.
        """
        array = fold_indices(indices) + (f"%{order.throttle}" if order.throttle else "")
        words = [f"--job-name={name}", f"--array={array}"]
        after = {"afterany": order.after, "afterok": order.after_ok}
        if waits := [f"{how}:{':'.join(jobs)}" for how, jobs in after.items() if jobs]:
            words.append(f"--dependency={','.join(waits)}")
        if order.after_ok:
            # Else it waits for ever where one of them failed.
            words.append("--kill-on-invalid-dep=yes")
        if order.exclude:
            words.append(f"--exclude={','.join(order.exclude)}")
        try:
            said = run("sbatch", "--parsable", *words, str(script), *order.arguments)
        except Refused as error:
            limit = limits.which(str(error))
            raise SubmitRefused(f"sbatch refused {script.name}: {error}{f' ({limit})' if limit else ''}") from None
        try:
            return parse.job_id(said)
        except SchedulerUnreachable:
            if jobs := self.find([name]).get(name):
                return jobs[-1]
            raise

    def find(self, names: Collection[str]) -> dict[str, list[str]]:
        """Ids of all jobs of these names: of the controller, and of the accounting where there is one."""
        if not names:
            return {}
        joined = ",".join(names)
        text = run("squeue", "--noheader", "--states=all", "--format=%F|%j", f"--name={joined}")
        try:
            words = ("--allocations", "--noheader", "--parsable2", "--format=JobID,JobName")
            text += run("sacct", *words, f"--starttime={_FIND_SINCE}", f"--name={joined}")
        except (Refused, NotHere):
            pass  # no accounting here
        found = parse.names(text)
        return {name: found[name] for name in names if name in found}

    def poll(self, tasks: Collection[str]) -> Mapping[str, JobState]:
        """States of these tasks: one squeue for all and, where that does not show all of them alive, one sacct.

        What squeue says of a living job counts: after a requeue sacct still shows the end before it. How a
        task ended the accounting says best; without one, squeue and scontrol do, for MinJobAge after it.
        """
        # Of a script that somebody started by hand the job is 0: asked for that, squeue would answer nothing at all.
        jobs = sorted({job for task in tasks if (job := task.partition("_")[0]).strip("0").isdigit()}, key=int)
        if not jobs:
            return {}
        seen = self._squeue(jobs)
        living = {task: state for task, state in seen.items() if state.state is None or not state.state.final}
        if all(task in living for task in tasks):
            return {task: living[task] for task in tasks}
        try:
            columns = "--format=JobID,State,ExitCode,NodeList,Start,End"
            joined = f"--jobs={','.join(jobs)}"
            booked = parse.sacct(run("sacct", "--allocations", "--noheader", "--parsable2", columns, joined))
        except (Refused, SchedulerUnreachable) as error:
            away = not isinstance(error, Refused | NotHere)
            if away and not all(task in seen for task in tasks):
                raise  # accounting there is, but away: who knows what it knows of the others
            booked = self._scontrol({task.partition("_")[0] for task in tasks if task in seen and task not in living})
        ended = {task: _named(state) for task, state in booked.items() if state.state is not None and state.state.final}
        # What is alive by the books alone ran away from them: the controller, which answered, does not know it.
        odd = {task: state for task, state in booked.items() if state.state is None}
        known = {**odd, **seen, **ended, **living}
        return {task: known[task] for task in tasks if task in known}

    def _squeue(self, jobs: Sequence[str]) -> dict[str, JobState]:
        try:
            columns = "--format=%F_%K|%T|%r|%N|%S"
            words = ("squeue", "--noheader", "--array", "--states=all", columns)
            return parse.squeue(run(*words, f"--jobs={','.join(jobs)}"))
        except Refused as error:
            if _NO_JOB in str(error):
                return {}  # the controller forgets a job MinJobAge after its end
            raise SchedulerUnreachable(f"squeue failed: {error}") from None

    def _scontrol(self, jobs: Collection[str]) -> dict[str, JobState]:
        """How tasks ended, of a site without accounting; nothing of those that the controller forgot."""
        found: dict[str, JobState] = {}
        for job in jobs:
            try:
                found |= parse.scontrol(run("scontrol", "--oneliner", "show", "job", job))
            except Refused:
                continue
        return found

    def cancel(self, ids: Sequence[str]) -> None:
        """scancel jobs or tasks; it says nothing of those that have ended."""
        for start in range(0, len(ids), _IDS_PER_CALL):
            try:
                run("scancel", *ids[start : start + _IDS_PER_CALL])
            except Refused as error:
                if "already completing or completed" not in str(error) and _NO_JOB not in str(error):
                    raise

    def limits(self, partition: str | None) -> Limits:
        """What the controller says."""
        max_array, max_jobs = limits.config(run("scontrol", "show", "config"))
        name, nodes, time_s, up = limits.partition(run("scontrol", "--oneliner", "show", "partition"), partition)
        own = len(run("squeue", "--noheader", "--array", "--format=%F", f"--user={getpass.getuser()}").split())
        return Limits(max_array, max_jobs, None, own, name, nodes, time_s, up)

    def user_limit(self, qos: str | None) -> int | None:
        """What the accounting says, where there is one that answers; it takes its time."""
        user = getpass.getuser()
        table = ("sacctmgr", "--noheader", "--parsable2", "--readonly", "show")
        try:
            with ThreadPoolExecutor() as pool:
                of_user = pool.submit(run, *table, "assoc", f"user={user}", "format=MaxSubmit,DefaultQOS,QOS")
                of_qos = pool.submit(run, *table, "qos", "format=Name,MaxSubmitPU")
            return limits.submit(of_user.result(), of_qos.result(), qos)
        except (Refused, SchedulerUnreachable):
            return None

    def test(self, text: str) -> str:
        """`sbatch --test-only`: when and where the script would start. Raises SubmitRefused."""
        try:
            said = run("sbatch", "--test-only", both=True, given=text).strip()
        except Refused as error:
            raise SubmitRefused(f"sbatch --test-only: {error}") from None
        return parse.would_start(said)
