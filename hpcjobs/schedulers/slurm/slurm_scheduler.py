"""Slurm: submits each script as one array, and asks for all jobs of a sweep in one query."""

from __future__ import annotations

import dataclasses
import functools
import getpass
import pwd
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

from hpcjobs.base.errors import SchedulerUnreachable, SubmitRefused
from hpcjobs.base.hostlist import fold_indices
from hpcjobs.base.records import JobState, Limits, Order, RunState
from hpcjobs.schedulers import Capabilities
from hpcjobs.schedulers.slurm import limits, parse, partition_nodes
from hpcjobs.schedulers.slurm.commands import ACCOUNTING_TIMEOUT_S, NotHere, Refused, run

# The most ids on one command line. A sweep has one job per size: only a cancel of single tasks needs as many.
_IDS_PER_CALL = 500
# How far back sacct searches for the jobs of a sweep.
_FIND_SINCE = "now-60days"
_NO_JOB = "Invalid job id"
_SINFO = ("--noheader", "--exact", partition_nodes.COLUMNS)


def _or_nothing(*command: str, both: bool = False) -> str:
    """What `run` gives of a command that only adds to what is known; empty if it fails."""
    try:
        return run(*command, both=both)
    except (Refused, SchedulerUnreachable):
        return ""


def answers() -> bool:
    """Whether there is a Slurm here, and its controller is up."""
    return "UP" in _or_nothing("scontrol", "ping")


def _named(state: JobState) -> JobState:
    """The state, with the uid of the user who cancelled the job replaced by the user's name. sacct prints the uid."""
    by, _, uid = state.reason.partition(" ")
    return dataclasses.replace(state, reason=f"by {_user(uid)}") if by == "by" else state


@functools.cache
def _user(uid: str) -> str:
    try:
        return pwd.getpwuid(int(uid)).pw_name
    except (KeyError, ValueError):
        return uid


def _what_they_wait_for(alive: Mapping[str, JobState]) -> dict[str, JobState]:
    """Those tasks that wait for nodes which are down or drained, with the names of these nodes in the reason."""
    waiting = {
        task: state
        for task, state in alive.items()
        if state.state is RunState.PENDING and partition_nodes.waits(state.reason)
    }
    if not waiting:
        return {}
    jobs = ",".join(sorted({task.partition("_")[0] for task in waiting}))
    partitions = set(_or_nothing("squeue", "--noheader", "--format=%P", f"--jobs={jobs}").split())
    if not partitions:
        return {}  # sinfo would name nodes of any partition
    away = partition_nodes.away(_or_nothing("sinfo", *_SINFO, f"--partition={','.join(sorted(partitions))}"))
    return {
        task: dataclasses.replace(state, reason=f"{state.reason}: {away}") for task, state in waiting.items() if away
    }


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
        """Submit as one array. Raises SubmitRefused with sbatch's message, and the limit that the message is about.

        An answer without a job id is not a refusal: then the job is searched for by its name.
        """
        array = fold_indices(indices) + (f"%{order.throttle}" if order.throttle else "")
        words = [f"--job-name={name}", f"--array={array}"]
        after = {"afterany": order.after, "afterok": order.after_ok}
        if dependencies := [f"{kind}:{':'.join(jobs)}" for kind, jobs in after.items() if jobs]:
            words.append(f"--dependency={','.join(dependencies)}")
        if order.after_ok:
            # Without this option the job stays pending for ever if one of them fails.
            words.append("--kill-on-invalid-dep=yes")
        if order.exclude:
            words.append(f"--exclude={','.join(order.exclude)}")
        try:
            answer = run("sbatch", "--parsable", *words, str(script), *order.arguments)
        except Refused as error:
            limit = limits.which(str(error))
            raise SubmitRefused(f"sbatch refused {script.name}: {error}{f' ({limit})' if limit else ''}") from None
        try:
            return parse.job_id(answer)
        except SchedulerUnreachable:
            if jobs := self.find([name]).get(name):
                return jobs[-1]
            raise

    def find(self, names: Collection[str], *, living: bool = False) -> dict[str, list[str]]:
        """The ids of jobs with these names, known to slurmctld or, unless `living`, to accounting, if there is one.

        An id that accounting has may be another job's by now, if the controller lost its state.
        """
        if not names:
            return {}
        joined = ",".join(names)
        states = () if living else ("--states=all",)
        text = run("squeue", "--noheader", *states, "--format=%F|%j", f"--name={joined}")
        try:
            words = ["--allocations", "--noheader", "--parsable2", "--format=JobID,JobName"]
            words += [f"--starttime={_FIND_SINCE}", f"--name={joined}"]
            text += "" if living else run("sacct", *words, timeout_s=ACCOUNTING_TIMEOUT_S)
        except (Refused, NotHere):
            pass  # this site has no accounting
        found = parse.names(text)
        return {name: found[name] for name in names if name in found}

    def poll(self, tasks: Collection[str]) -> Mapping[str, JobState]:
        """The states of these tasks, by one squeue, and one sacct if squeue does not show all of them alive.

        For a live task squeue's answer counts: after a requeue sacct still shows the end before the requeue. For a task
        that has ended sacct's answer counts. On a site without accounting squeue and scontrol answer, for MinJobAge
        seconds after the end; while accounting does not answer, the tasks that slurmctld forgot are `silent`.
        """
        # A script that was started by hand has the job id 0. If asked for job 0, squeue answers for no job at all.
        jobs = sorted({job for task in tasks if (job := task.partition("_")[0]).strip("0").isdigit()}, key=int)
        if not jobs:
            return {}
        seen = self._squeue(jobs)
        alive = {task: state for task, state in seen.items() if state.state is None or not state.state.final}
        alive |= _what_they_wait_for(alive)
        if all(task in alive for task in tasks):
            return {task: alive[task] for task in tasks}
        silent: dict[str, JobState] = {}
        try:
            recorded = self._sacct(jobs)
        except (Refused, SchedulerUnreachable) as error:
            if not isinstance(error, Refused | NotHere):
                # There is accounting, but it does not answer: it may know the tasks that squeue does not show.
                silent = dict.fromkeys(tasks, JobState(None, "", str(error), silent=True))
            recorded = self._scontrol({task.partition("_")[0] for task in tasks if task in seen and task not in alive})
        ended = {
            task: _named(state) for task, state in recorded.items() if state.state is not None and state.state.final
        }
        # A job that only sacct shows as alive is stale: slurmctld, which answered, no longer knows it.
        unknown = {task: state for task, state in recorded.items() if state.state is None}
        known = {**silent, **unknown, **seen, **ended, **alive}
        return {task: known[task] for task in tasks if task in known}

    def _squeue(self, jobs: Sequence[str]) -> dict[str, JobState]:
        try:
            columns = "--format=%F_%K|%T|%r|%N|%S|%j|%k|%o"  # the last three are the label
            words = ("squeue", "--noheader", "--array", "--states=all", columns)
            return parse.squeue(run(*words, f"--jobs={','.join(jobs)}"))
        except Refused as error:
            if _NO_JOB in str(error):
                return {}  # slurmctld forgets a job MinJobAge seconds after its end
            raise SchedulerUnreachable(f"squeue failed: {error}") from None

    def _sacct(self, jobs: Sequence[str]) -> dict[str, JobState]:
        columns = "--format=JobID,State,ExitCode,NodeList,Start,End,Submit,JobName,Comment"  # the last two: the label
        words = ("--allocations", "--noheader", "--parsable2", columns, f"--jobs={','.join(jobs)}")
        return parse.sacct(run("sacct", *words, timeout_s=ACCOUNTING_TIMEOUT_S))

    def _scontrol(self, jobs: Collection[str]) -> dict[str, JobState]:
        """How tasks ended, on a site without accounting. Tasks that slurmctld forgot are left out."""
        found: dict[str, JobState] = {}
        for job in jobs:
            try:
                found |= parse.scontrol(run("scontrol", "--oneliner", "show", "job", job))
            except Refused:
                continue
        return found

    def cancel(self, ids: Sequence[str]) -> None:
        """scancel jobs or tasks. Those that have ended are ignored."""
        for start in range(0, len(ids), _IDS_PER_CALL):
            try:
                run("scancel", *ids[start : start + _IDS_PER_CALL])
            except Refused as error:
                if "already completing or completed" not in str(error) and _NO_JOB not in str(error):
                    raise

    def limits(self, partition: str | None, reservation: str | None = None) -> Limits:
        """The limits that slurmctld knows."""
        config = run("scontrol", "show", "config")
        max_array, max_jobs = limits.config(config)
        name, nodes, time_s, up = limits.partition(run("scontrol", "--oneliner", "show", "partition"), partition)
        own = len(run("squeue", "--noheader", "--array", "--format=%F", f"--user={getpass.getuser()}").split())
        mpi = limits.mpi_plugins(_or_nothing("srun", "--mpi=list", both=True))
        version = limits.version(config)
        kinds = partition_nodes.kinds(_or_nothing("sinfo", *_SINFO, f"--partition={name}")) if name else ()
        shown = _or_nothing("scontrol", "--oneliner", "show", "reservation", reservation) if reservation else ""
        left_s = limits.reserved_s(shown, time.time())
        return Limits(max_array, max_jobs, None, own, name, nodes, time_s, up, version, mpi, kinds, left_s)

    def user_limit(self, qos: str | None) -> int | None:
        """The limit that sacctmgr shows. None if there is no accounting, or it does not answer. May take seconds."""
        user = getpass.getuser()
        table = ("sacctmgr", "--noheader", "--parsable2", "--readonly", "show")
        try:
            with ThreadPoolExecutor() as pool:
                of_user = pool.submit(run, *table, "assoc", f"user={user}", "format=MaxSubmit,DefaultQOS,QOS")
                of_qos = pool.submit(run, *table, "qos", "format=Name,MaxSubmitPU")
            return limits.submit(of_user.result(), of_qos.result(), qos)
        except (Refused, SchedulerUnreachable):
            return None

    def node_energy(self, tasks: Sequence[str], mark: str) -> tuple[str, Mapping[str, int]]:
        """By sacct, if AcctGatherEnergyType names a plugin that measures."""
        plugin = parse.energy_plugin(run("scontrol", "show", "config"))
        # By whole arrays: one call for 20,000 tasks.
        arrays = sorted({task.partition("_")[0] for task in tasks})
        found: dict[str, int] = {}
        for start in range(0, len(arrays) if plugin else 0, _IDS_PER_CALL):
            jobs = ",".join(arrays[start : start + _IDS_PER_CALL])
            words = ("--noheader", "--parsable2", "--format=JobID,NNodes,ConsumedEnergyRaw,JobName", f"--jobs={jobs}")
            found |= parse.energy(run("sacct", *words, timeout_s=ACCOUNTING_TIMEOUT_S), mark)
        return plugin, {task: found[task] for task in tasks if task in found}

    def test(self, text: str) -> str:
        """`sbatch --test-only`: when and where the script would start. Raises SubmitRefused."""
        try:
            answer = run("sbatch", "--test-only", both=True, given=text).strip()
        except Refused as error:
            limit = limits.which(str(error))
            raise SubmitRefused(f"sbatch --test-only: {error}{f' ({limit})' if limit else ''}") from None
        return parse.would_start(answer)
