"""A state and its evidence become a class, a hint, and whether to try again. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from hpcjobs.contract import EXIT_INTERRUPTED, ErrorCode
from hpcjobs.records import ExitRecord, Failure, JobState

# What to do about each class, in one line.
HINTS: Mapping[str, str] = {
    ErrorCode.DATA_MISSING: "make the shards with `hpcjobs data prepare`, or correct data.dir",
    ErrorCode.DATA_MISMATCH: "the shards are of another format or class order: prepare the data anew",
    ErrorCode.DATA_TOO_SMALL: "take a smaller batch, more data, or data.repeat=true",
    ErrorCode.DATA_DAMAGED: "make the damaged shard anew with `hpcjobs data prepare`",
    ErrorCode.WEIGHTS_MISSING: "fetch the weights on a login node, or take model.weights=none",
    ErrorCode.DEVICE_MISSING: "check the profile's GPU request and the node's driver",
    ErrorCode.DEVICE_SHARED: "two ranks hold one GPU: check how the site hands out GPUs to tasks",
    ErrorCode.HOST_MEMORY: "ask for more memory, or set data.cache=none",
    ErrorCode.DEVICE_MEMORY: "take a smaller batch, batch.passes=2, or train.precision=mixed_float16",
    ErrorCode.HOROVOD_BUILD: "build Horovod with HOROVOD_GPU_OPERATIONS=NCCL, and see `horovodrun --check-build`",
    ErrorCode.STALLED: "look at the node that is named and at stacks-rNNN.txt; train.stall_s is the patience",
    ErrorCode.NAN_LOSS: "lower lr.base, or look at the data",
    ErrorCode.RUN_YAML: "the launcher started another number of ranks than the plan says",
    "timeout": "ask for more time (`time` in the profile) or fewer steps",
    "out_of_memory": "take a smaller batch, or ask for more memory per GPU",
    "node_failure": "the node failed; try again",
    "preempted": "the job was preempted; try again",
    "interrupted": "its checkpoint is written: run it again and it goes on",
    "no_measurement": "the run ended well but timed no window: see its train.log",
    "traceback": "see the run's job.log",
    "signal": "a process was killed from outside: see the run's job.log",
    "exit_code": "see the run's job.log",
    "lost": "the scheduler does not know the job any more and it left no exit.json: its node may have died",
}
_RETRYABLE = {"node_failure", "preempted", "interrupted", "lost"}

# Final words of Slurm that name their own class.
_WORDS = {
    "TIMEOUT": "timeout",
    "DEADLINE": "timeout",
    "OUT_OF_MEMORY": "out_of_memory",
    "NODE_FAIL": "node_failure",
    "BOOT_FAIL": "node_failure",
    "PREEMPTED": "preempted",
}

# Words of a log line that name their own class, whatever the exit code.
_LINES = {
    "timeout": re.compile(r"DUE TO TIME LIMIT"),
    "node_failure": re.compile(r"DUE TO NODE FAILURE"),
    "preempted": re.compile(r"DUE TO PREEMPTION"),
    "out_of_memory": re.compile(r"oom[-_]kill|out of memory|\boom\b|memoryerror|memory limit", re.IGNORECASE),
}


def classify(
    answer: JobState | None, exit_record: ExitRecord | None, aborts: Sequence[Mapping[str, Any]], line: str
) -> Failure:
    """Why a run without a measurement failed.

    `aborts` are the abort-rNNN.json of its ranks, earliest first; `line` is what its log says.
    """
    if answer is not None and answer.word in _WORDS:
        return failure(_WORDS[answer.word], line or answer.word)
    if aborts and aborts[0].get("code") in HINTS:
        first = aborts[0]
        where = f" (rank {first['rank']} on {first['host']})" if "rank" in first and "host" in first else ""
        return failure(str(first["code"]), f"{first.get('message', '')}{where}")
    for kind, pattern in _LINES.items():
        if pattern.search(line):
            return failure(kind, line)
    if EXIT_INTERRUPTED in (exit_record and exit_record.rc, answer and answer.exit_code):
        return failure("interrupted", line)
    if exit_record is None and answer is None:
        return failure("lost", line)
    if (exit_record is not None and exit_record.rc == 0) or (
        exit_record is None and answer is not None and answer.exit_code == 0
    ):
        return failure("no_measurement", line)
    if "Error" in line or "Exception" in line:
        return failure("traceback", line)
    if (
        "on signal" in line
        or (exit_record is not None and exit_record.signal)
        or (answer is not None and answer.signal)
    ):
        number = (exit_record.signal if exit_record else 0) or (answer.signal if answer else 0)
        return failure("signal", line or f"signal {number}")
    code = exit_record.rc if exit_record else answer.exit_code if answer else None
    return failure("exit_code", line or f"exit code {code}")


def failure(kind: str, evidence: str) -> Failure:
    """A Failure of that class with its hint."""
    return Failure(kind, evidence, HINTS[kind], kind in _RETRYABLE)


def cancelled_by_slurm(line: str) -> bool:
    """Whether a log's line says that Slurm itself cancelled the job because of its memory: that is its failure."""
    return re.search(r"exceeded (job |virtual |step )*memory limit", line, re.IGNORECASE) is not None
