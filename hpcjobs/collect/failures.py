"""A state and its evidence become a class, a hint, and the nodes to leave out next time. Pure."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from hpcjobs.base.contract import EXIT_INTERRUPTED, ErrorCode
from hpcjobs.base.hostlist import expand
from hpcjobs.base.records import ExitRecord, Failure, JobState
from hpcjobs.collect import causes


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a class of failure means, and what to do about it, in one line each."""

    meaning: str
    hint: str


KINDS: Mapping[str, Kind] = {
    ErrorCode.DATA_MISSING: Kind(
        "data.dir, its dataset.json or a shard is not there",
        "make the shards with `hpcjobs data prepare`, or correct data.dir",
    ),
    ErrorCode.DATA_MISMATCH: Kind(
        "the shards are of another format, class order or size than the trainer reads",
        "the shards are of another format or class order: prepare the data anew",
    ),
    ErrorCode.DATA_TOO_SMALL: Kind(
        "fewer images than one step, or the steps asked for, take",
        "take a smaller batch, more data, or data.repeat=true",
    ),
    ErrorCode.DATA_DAMAGED: Kind(
        "a record of a shard cannot be read; the log names shard and record",
        "make the damaged shard anew with `hpcjobs data prepare`",
    ),
    ErrorCode.WEIGHTS_MISSING: Kind(
        "the file of model.weights is not on the node, or does not fit the model",
        "fetch the weights on a login node, or take model.weights=none",
    ),
    ErrorCode.DEVICE_MISSING: Kind(
        "TensorFlow sees no GPU where the profile says device: gpu",
        "check the profile's GPU request and the node's driver",
    ),
    ErrorCode.DEVICE_SHARED: Kind(
        "two ranks were given the same GPU",
        "two ranks hold one GPU: check how the site hands out GPUs to tasks",
    ),
    ErrorCode.HOST_MEMORY: Kind(
        "the node's memory does not suffice: for data.cache, or an allocation failed",
        "ask for more memory, or set data.cache=none",
    ),
    ErrorCode.DEVICE_MEMORY: Kind(
        "the GPU's memory does not suffice",
        "take a smaller batch, batch.passes=2, or train.precision=mixed_float16",
    ),
    ErrorCode.HOROVOD_BUILD: Kind(
        "Horovod is not built for what the run needs, such as NCCL",
        "build Horovod with HOROVOD_GPU_OPERATIONS=NCCL, and see `horovodrun --check-build`",
    ),
    ErrorCode.STALLED: Kind(
        "a rank made no step and no batch of evaluation for train.stall_s seconds",
        "look at the node that is named and at stacks-rNNN.txt; train.stall_s is the patience",
    ),
    ErrorCode.NAN_LOSS: Kind(
        "the loss was no finite number",
        "lower lr.base, or look at the data",
    ),
    ErrorCode.RUN_YAML: Kind(
        "run.yaml does not fit how the ranks were started",
        "the launcher started another number of ranks than the plan says",
    ),
    "timeout": Kind(
        "the job's time was over, and no checkpoint was written for it",
        "ask for more time (`time` in the profile) or fewer steps",
    ),
    "deadline": Kind(
        "Slurm's deadline for the job passed",
        "its --deadline passed before it could end: leave that out of the profile's `sbatch`",
    ),
    "out_of_memory": Kind(
        "Slurm or the kernel ended it for its memory",
        "ask for more memory (`mem_per_gpu_mib` in the profile), or set data.cache=none",
    ),
    "node_failure": Kind(
        "a node went away, or its hardware failed",
        "the node failed; try again",
    ),
    "boot_failure": Kind(
        "Slurm could not bring its nodes up",
        "its nodes did not come up; try again",
    ),
    "preempted": Kind(
        "another job took its place, and Slurm did not run it again",
        "the job was preempted; try again",
    ),
    "revoked": Kind(
        "another cluster of the federation has the job",
        "the federation started it on another cluster: look there",
    ),
    "interrupted": Kind(
        "it was told to end (time limit, SIGTERM), and wrote a checkpoint",
        "its checkpoint is written: run it again and it goes on",
    ),
    "disk_full": Kind(
        "a disk or quota is full",
        "free some disk space or quota: of the sweep's folder, or of /tmp and /dev/shm on the nodes",
    ),
    "launch": Kind(
        "the launcher or its plugin failed before Python started",
        "no rank started: check `launcher`, `mpi_plugin`, `launcher_options`, `modules` and `python` in the profile; "
        "as root, Open MPI wants OMPI_ALLOW_RUN_AS_ROOT=1 and OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1",
    ),
    "module_missing": Kind(
        "a module of the profile cannot be loaded",
        "check `modules` in the profile against `module avail` on a node",
    ),
    "import_error": Kind(
        "Python lacks a module or a shared library",
        "check `python` and `modules` in the profile: the nodes lack a library",
    ),
    "nccl_error": Kind(
        "NCCL failed, and no rank said why else",
        "see the run's job.log; `env` in the profile may name the network (NCCL_SOCKET_IFNAME, NCCL_IB_HCA)",
    ),
    "mpi_error": Kind(
        "MPI failed, and no rank said why else",
        "see the run's job.log; the launcher's MPI must be the one that Horovod was built with",
    ),
    "no_measurement": Kind(
        "exit code 0, and no timed window in the log",
        "the run ended well but timed no window: see its train.log",
    ),
    "traceback": Kind(
        "an exception of Python that is none of these",
        "see the run's job.log",
    ),
    "signal": Kind(
        "a process was ended by a signal, and nothing says why",
        "a process crashed or was killed, perhaps by a node without memory: see the run's job.log",
    ),
    "exit_code": Kind(
        "an exit code that is not 0, and nothing says why",
        "see the run's job.log",
    ),
    "lost": Kind(
        "neither Slurm nor a file of the run says what became of it",
        "the scheduler does not know the job any more and it left no exit.json: its node may have died",
    ),
}

# Final words of Slurm, and its reasons for others, that name their own class.
_WORDS = {
    "TIMEOUT": "timeout",
    "DEADLINE": "deadline",
    "OUT_OF_MEMORY": "out_of_memory",
    "NODE_FAIL": "node_failure",
    "BOOT_FAIL": "boot_failure",
    "PREEMPTED": "preempted",
    "REVOKED": "revoked",
    "NodeDown": "node_failure",
    "SystemFailure": "node_failure",
    "JobLaunchFailure": "launch",
}
# What comes over a run from outside: whatever its ranks say then is an effect.
_OUTSIDE = {"timeout", "out_of_memory", "node_failure", "preempted"}


def classify(
    answer: JobState | None, exit_record: ExitRecord | None, aborts: Sequence[Mapping[str, Any]], line: str
) -> Failure:
    """Why a run without a measurement failed.

    `aborts` are the abort-rNNN.json of its ranks, earliest first; `line` is what its log says.
    """
    job_nodes = answer.nodes if answer and answer.nodes else expand(exit_record.nodelist if exit_record else "")
    kind, evidence = _cause(answer, exit_record, _first_hand(aborts), line)
    return failure(kind, evidence, _bad(kind, evidence, job_nodes))


def failure(kind: str, evidence: str, nodes: Iterable[str] = ()) -> Failure:
    """A Failure of that class with its hint."""
    return Failure(kind, evidence, KINDS[kind].hint, tuple(nodes))


def cancelled_by_slurm(line: str) -> bool:
    """Whether a log's line says that Slurm itself cancelled the job because of its memory: that is its failure."""
    return re.search(r"exceeded (?:job |step |virtual )*memory limit", line, re.IGNORECASE) is not None


def _cause(
    answer: JobState | None, exit_record: ExitRecord | None, abort: Mapping[str, Any] | None, line: str
) -> tuple[str, str]:
    """(class, evidence)."""
    code = str(abort["code"]) if abort else ""
    if abort and code in KINDS and code != ErrorCode.STALLED:
        return code, _told(abort)
    told = causes.kind_of(line)
    interrupted = EXIT_INTERRUPTED in (exit_record and exit_record.rc, answer and answer.exit_code)
    word = next((_WORDS[said] for said in (answer.word, answer.reason) if said in _WORDS), "") if answer else ""
    # A job that still wrote its checkpoint when its time was up can go on from there.
    if answer and word and not (word == "timeout" and interrupted):
        return word, line if told == word else "; the log ends with: ".join(filter(None, (_said(answer), line)))
    if told in _OUTSIDE and not (told == "timeout" and interrupted):
        return told, line
    if abort and code in KINDS:
        return code, _told(abort)
    if interrupted:
        return "interrupted", line
    if exit_record is None and answer is None:
        return "lost", line
    if abort:
        message = _told(abort)
        return _known(causes.kind_of(message)) or "traceback", line if str(abort["message"]) in line else message
    if exit_record.rc == 0 if exit_record else answer and answer.exit_code == 0 and not answer.signal:
        return "no_measurement", line
    if _known(told):
        return told, line
    number = (exit_record.signal if exit_record else 0) or (answer.signal if answer else 0)
    if number:
        return "signal", f"signal {number}: {line}" if line else f"signal {number}"
    rc = exit_record.rc if exit_record else answer.exit_code if answer else None
    # bash's own codes: the command could not be run, or was not found.
    return "launch" if rc in (126, 127) else "exit_code", f"exit code {rc}: {line}" if line else f"exit code {rc}"


def _known(kind: str) -> str:
    return kind if kind in KINDS else ""


def _said(answer: JobState) -> str:
    return f"{answer.word} ({answer.reason})" if answer.reason else answer.word


def _told(abort: Mapping[str, Any]) -> str:
    where = f" (rank {abort['rank']} on {abort['host']})" if "rank" in abort and "host" in abort else ""
    return f"{abort.get('message', '')}{where}"


def _first_hand(aborts: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The first rank that gave up for a reason of its own."""
    for abort in aborts:
        if "code" in abort and not causes.second_hand(str(abort.get("message", ""))):
            return {"message": "", **abort}
    return None


def _bad(kind: str, evidence: str, job_nodes: Sequence[str]) -> Iterator[str]:
    """The nodes that the evidence calls bad, as the scheduler names them: none that the job did not have."""
    if kind not in ("node_failure", "boot_failure", ErrorCode.STALLED):
        return
    named = {name.partition(".")[0] for name in causes.nodes(evidence)}
    if kind != ErrorCode.STALLED and not named and len(job_nodes) == 1:
        yield job_nodes[0]
    for node in job_nodes:
        if node.partition(".")[0] in named:
            yield node
