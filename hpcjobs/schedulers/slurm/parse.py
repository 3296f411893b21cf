"""Parses the output of Slurm's commands. Pure functions. The tests have every odd line that real sites print."""

from __future__ import annotations

import datetime
import re

from hpcjobs.base.errors import SchedulerUnreachable
from hpcjobs.base.hostlist import expand_indices
from hpcjobs.base.records import JobState, RunState

# Slurm's job states, as slurm.schedmd.com/job_state_codes.html of 26.05 lists them. Only base states are ends. A flag
# stands beside a base state and is shown in its place while something goes on: COMPLETING, UPDATE_DB, EXPEDITING (Slurm
# asks whether the job runs again at once); a job whose launch or whose nodes' configuration failed is queued again and
# held, until Slurm or the user ends it. A word that is not in this table is shown as it is, and counts as neither
# success nor failure.
WORDS: dict[str, RunState] = {
    "PENDING": RunState.PENDING,
    "CONFIGURING": RunState.PENDING,
    "LAUNCH_FAILED": RunState.PENDING,
    "POWER_UP_NODE": RunState.PENDING,
    "RECONFIG_FAIL": RunState.PENDING,
    "REQUEUED": RunState.PENDING,
    "REQUEUE_FED": RunState.PENDING,
    "REQUEUE_HOLD": RunState.PENDING,
    "RESV_DEL_HOLD": RunState.PENDING,
    "SPECIAL_EXIT": RunState.PENDING,
    "RUNNING": RunState.RUNNING,
    "COMPLETING": RunState.RUNNING,
    "EXPEDITING": RunState.RUNNING,
    "RESIZING": RunState.RUNNING,
    "SIGNALING": RunState.RUNNING,
    "STAGE_OUT": RunState.RUNNING,
    "STOPPED": RunState.RUNNING,
    "SUSPENDED": RunState.RUNNING,
    "UPDATE_DB": RunState.RUNNING,
    "COMPLETED": RunState.DONE,
    "CANCELLED": RunState.CANCELLED,
    "BOOT_FAIL": RunState.FAILED,
    "DEADLINE": RunState.FAILED,
    "FAILED": RunState.FAILED,
    "NODE_FAIL": RunState.FAILED,
    "OUT_OF_MEMORY": RunState.FAILED,
    "PREEMPTED": RunState.FAILED,
    "REVOKED": RunState.FAILED,
    "TIMEOUT": RunState.FAILED,
}

_JOB_ID = re.compile(r"^(\d+)(;[\w.-]+)?$")
# 6_3 or 6_[3,5-9%2]. The bare id of an array does not name a task.
_TASKS = re.compile(r"^(\d+)_(\d+|\[[^\]]+\])$")


def job_id(text: str) -> str:
    """The job id in the output of `sbatch --parsable`: `ID` or `ID;CLUSTER`. A site's own lines around it are skipped.

    Raises SchedulerUnreachable, quoting the output, if there is no id: then it is not known whether there is a job.
    """
    for line in reversed(text.splitlines()):
        if match := _JOB_ID.match(line.strip()):
            return match[1]
    raise SchedulerUnreachable(f"sbatch printed no job id: {' '.join(text.split())!r}")


def names(text: str) -> dict[str, list[str]]:
    """The ids of arrays by job name, oldest first, from lines `JOBID[_TASK]|NAME`."""
    found: dict[str, set[str]] = {}
    for line in _whole_lines(text):
        job, bar, name = line.strip().partition("|")
        if bar and (number := job.partition("_")[0]).isdigit():
            found.setdefault(name, set()).add(number)
    return {name: sorted(jobs, key=int) for name, jobs in found.items()}


def would_start(text: str) -> str:
    """The time in `sbatch: Job 10 to start at 2026-11-25T14:25:29 using ...`, or the whole text if there is none."""
    match = re.search(r"to start at (\S+)", text)
    return match[1] if match else " ".join(text.split())


def squeue(text: str) -> dict[str, JobState]:
    """States by task id, from lines `ID_INDEX|STATE|REASON|NODES|START|LABEL`; the label may have bars, too."""
    found = {}
    for line in _whole_lines(text):
        fields = line.strip().split("|", 5)
        if len(fields) != 6:
            continue
        tasks, word, reason, nodes, start, label = fields
        state = _state(word)
        for task in _tasks(tasks):
            found[task] = JobState(
                state=state,
                word=word,
                reason="" if reason == "None" else reason,
                nodelist=nodes,
                # For a pending job this field is Slurm's estimate.
                start=None if state is RunState.PENDING else local_time(start),
                label=label,
            )
    return found


def sacct(text: str) -> dict[str, JobState]:
    """States by task id, from lines `ID_INDEX|STATE|EXIT:SIGNAL|NODES|START|END|SUBMIT|LABEL`; the label may have bars.

    For some seconds after the end of an array sacct also shows a line with the bare id and the last task's state. It is
    skipped.
    """
    found = {}
    for line in _whole_lines(text):
        fields = line.strip().split("|", 7)
        if len(fields) != 8:
            continue
        tasks, state, code, nodes, start, end, submit, label = fields
        word, _, by = state.partition(" ")  # CANCELLED by 1000
        rc, _, number = code.partition(":")
        for task in _tasks(tasks):
            found[task] = JobState(
                state=_state(word),
                word=word,
                reason=by,
                exit_code=int(rc) if rc.isdigit() else None,
                signal=int(number) if number.isdigit() else None,
                nodelist=nodes,
                start=local_time(start),
                end=local_time(end),
                label=label,
                submit=local_time(submit),
            )
    return found


def scontrol(text: str) -> dict[str, JobState]:
    """States by task id, from `scontrol --oneliner show job`. The label is the whole line."""
    found = {}
    for line in _whole_lines(text):
        # The first value of a name counts: later words may come from the user's own text (Comment, Command).
        words: dict[str, str] = {}
        for word in line.split():
            name, equals, value = word.partition("=")
            if equals:
                words.setdefault(name, value)
        index = words.get("ArrayTaskId", "")
        tasks = f"{words.get('ArrayJobId', '')}_{index if index.isdigit() else f'[{index}]'}"
        rc, _, number = words.get("ExitCode", "").partition(":")
        word, reason = words.get("JobState", ""), words.get("Reason", "")
        for task in _tasks(tasks):
            found[task] = JobState(
                state=_state(word),
                word=word,
                reason="" if reason == "None" else reason,
                exit_code=int(rc) if rc.isdigit() else None,
                signal=int(number) if number.isdigit() else None,
                nodelist=words.get("NodeList", ""),
                start=local_time(words.get("StartTime", "")),
                end=local_time(words.get("EndTime", "")),
                label=line,
            )
    return found


def energy_plugin(text: str) -> str:
    """The plugin that measures the energy of nodes (ipmi, rapl, ...), of `scontrol show config`; "" if none does."""
    match = re.search(r"^AcctGatherEnergyType\s*=\s*(?:acct_gather_energy/)?(\S+)", text, flags=re.MULTILINE)
    return "" if match is None or match[1] in ("none", "(null)") else match[1]


# Slurm writes 0 where a plugin measured nothing, and a number near 2^64 where it does not know.
_MOST_J = 10**15


def energy(text: str, mark: str) -> dict[str, int]:
    """Joules by task id, from lines `ID[.STEP]|NODES|JOULES|NAME` of jobs with `mark` in their names and their steps.

    Each step has the energy of its nodes in its time, so steps overlap: the job's is that of the longest step on all
    its nodes. mpirun's step lacks the first node, whose energy the batch step has. The sum of all, which sacct shows
    for the job, would count nodes twice. Left out if no step covers all nodes. An answer that was cut off gives none:
    the longest step may be in the missing part.
    """
    nodes: dict[str, int] = {}
    steps: dict[str, list[tuple[str, int, int]]] = {}
    for line in text.splitlines() if text.endswith("\n") else ():
        fields = line.strip().split("|", 3)
        if len(fields) != 4 or not fields[1].isdigit():
            continue
        task, _, step = fields[0].partition(".")
        if not step:
            nodes |= {task: int(fields[1])} if mark in fields[3] else {}
        elif fields[2].isdigit() and 0 < int(fields[2]) < _MOST_J:
            steps.setdefault(task, []).append((step, int(fields[1]), int(fields[2])))
    found = {}
    for task, count_of_job in nodes.items():
        those = steps.get(task, [])
        wide = [joules for _, count, joules in those if count == count_of_job]
        first = [joules for step, _, joules in those if step == "batch"]
        rest = [joules for step, count, joules in those if step != "batch" and count + 1 == count_of_job]
        if wide:
            found[task] = max(wide)
        elif first and rest:
            found[task] = first[0] + max(rest)
    return found


def _whole_lines(text: str) -> list[str]:
    """The lines, without a last one that has no end: the answer was cut, and a cut figure is a wrong one."""
    return text[: text.rfind("\n") + 1].splitlines()


def _state(word: str) -> RunState | None:
    return WORDS.get(word.rstrip("+"))


def _tasks(text: str) -> list[str]:
    match = _TASKS.match(text)
    if match is None:
        return []
    try:
        return [f"{match[1]}_{index}" for index in expand_indices(match[2])]
    except ValueError:
        return []


def local_time(text: str) -> float | None:
    """Seconds since the epoch of a time that Slurm prints in local time. None for Unknown, None or N/A."""
    try:
        # Not strptime, which takes ten times as long: of 20,000 tasks there are 40,000 times.
        return datetime.datetime.fromisoformat(text).timestamp() if len(text) == len("2026-11-30T12:00:00") else None
    except (ValueError, OverflowError):
        return None
