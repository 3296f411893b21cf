"""Finds the line of a log that says why a run ended, and its class of failure. Pure.

The patterns match the messages of Slurm 20.11 to 26.05, Open MPI 4 and 5, NCCL, Horovod 0.28, TensorFlow 2.15, PyTorch
1.10 to 2.8 (torchrun, gloo, DataLoader), Apptainer, Singularity, pyxis and enroot, Lmod and Environment Modules. The
tests hold the lines as these programs printed them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from hpcjobs.base.hostlist import expand_hosts
from hpcjobs.collect import causes_container, causes_gpu, causes_mpi, causes_node, causes_program
from hpcjobs.collect.cause_lines import LAUNCHER, RANK, STEPD, TASK_END, Cause, is_harmless

# The cause is the first of these that matches a line of the log, and of its lines the first. Their order: Slurm and
# the rank that gave up, which know the reason; what happened by itself; what follows from the end of another rank
# (NCCL and MPI errors); the launcher's summary.
CAUSES: tuple[Cause, ...] = (
    *causes_node.ENDED_BY_SLURM,
    *causes_node.BROKEN_NODE,
    *causes_program.OWN,
    *causes_gpu.SHARED_MEMORY,
    *causes_program.DISK_FULL,
    *causes_container.CONTAINERS,
    *causes_program.CREDENTIAL,
    *causes_program.FILE_SYSTEM,
    *causes_program.HOST_MEMORY,
    *causes_gpu.DEVICE_MEMORY,
    *causes_gpu.DEVICE,
    *causes_program.ABORTED,
    *causes_program.EXCEPTIONS,
    *causes_program.MODULES,
    *causes_program.TICKET,
    *causes_mpi.ROOT,
    *causes_mpi.NOT_BUILT_FOR_IT,
    *causes_mpi.NOT_LAUNCHED,
    *causes_node.NOT_STARTED,
    *causes_mpi.NETWORK,
    *causes_program.SIGNAL_OF_LAUNCHER,
    *causes_gpu.TORCHRUN_SIGNAL,
    *causes_program.SIGNAL,
    *causes_program.MEMORY_WORDS,
    *causes_gpu.TORCHRUN_EXIT,
    *causes_gpu.NCCL,
    *causes_mpi.MPI,
    *causes_gpu.GLOO,
    *causes_program.LATE_EXCEPTIONS,
    *causes_node.FAULT_OF_PROGRAM,
    *causes_program.JOB_SCRIPT,
    *causes_gpu.TORCHRUN,
    *causes_program.EXITED,
    *causes_mpi.PEER_GONE,
    *causes_program.LAST,
)
# If one task exits by itself, srun then kills the others: their signals are not the cause. PyTorch's watchdog, an
# exception of NCCL that C++ does not catch and Open MPI's transports abort their process.
_EXITED = re.compile(
    rf"{TASK_END}Exited with exit code|[Cc]aught collective operation timeout|watchdog (?:thread terminated|got stuck)"
    r"|due to a collective timeout|what\(\): +[^\n]*\b(?:NCCL|oneCCL)\b|is aborting the MPI job"
    r"|\bmca_btl_tcp_\w+\] received unex",
    re.MULTILINE,
)
# A program that prints so many lines of progress after an exception went on: it did not end the program.
_PROGRESS = re.compile(
    r"\b(?:step|iter|iteration|epoch|batch)\b[^\n]{0,20}\d|\d ?(?:it/s|s/it)\b"
    r"|\b(?:images|samples|examples|tokens|img)/s",
    re.IGNORECASE,
)
_WENT_ON = 20
# What a program may report and go on without.
_SURVIVED = {
    "traceback", "host_memory", "device_memory", "shared_memory", "disk_full", "file_system", "credential",
    "cuda_error", "device_missing", "nccl_error", "mpi_error", "gloo_error", "out_of_memory",
}  # fmt: skip
# They follow from the end of another rank, or say only that a process ended: no reason to doubt an exception.
_FOLLOWS = {"nccl_error", "gloo_error", "mpi_error", LAUNCHER, ""}
_RAISED = re.compile(rf"{RANK}{causes_program.EXCEPTION}", re.MULTILINE)

# Times of lines, with the day if they have it: `[E626 06:24:44.9`, `2026-11-29 23:10:20,123`.
_TIME = re.compile(r"(?:\b[EFIW](\d{3,4}) |(\d{4}[-/]\d\d[-/]\d\d)[T ])(\d\d:\d\d:\d\d(?:[.,]\d+)?)")
# The number of the rank that a line names as its own. Under torchrun, srun's label is that of a node.
_SRUN_OR_MPIRUN = r"(?:\d{1,6}: |\[[^\s\]]{1,60}\]<std\w+>: ?)?"
_LABEL = re.compile(
    rf"[ \t]*(?:{_SRUN_OR_MPIRUN}(?:\[default\d{{1,6}}\]: ?)?\[rank(\d{{1,6}})\]:|(\d{{1,6}}): "
    r"|\[(?:[^\s\[\]@]{1,60}@)?\d+,(\d+)\]<std)|[^\n]{0,80}\[Rank (\d+)\]"
)
# torchrun's summary of a node: when its first process failed, and which rank that was.
_ROOT_CAUSE = re.compile(
    r"Root Cause(?: \(first observed failure\))?:[^\n]*\n[^\n]*\[\d+\]:[^\n]*\n"
    r"[^\n]*time *: *(?P<time>[\d:_-]+)[^\n]*\n(?:[^\n]*\bhost *:[^\n]*\n)?[^\n]*\brank *: (?P<rank>\d+) \(local_rank"
)

_NODE = r"(?P<node>[A-Za-z0-9][\w.-]*(?:\[[\d,-]+\][\w.-]*)?)"
# Slurm's `JOB 12 ON n2 CANCELLED AT ... DUE TO NODE FAILURE` is not among them: n2, which printed it, is alive.
_NODES = (
    rf"Node failure on {_NODE}",
    rf"Remote daemon *: \S+ on node {_NODE}",
    rf"hostname: +{_NODE}",
    rf"failed on node {_NODE}: ",
    rf"Node {_NODE} unexpectedly rebooted",
    rf"rank \d+ on {_NODE}, last at",  # a rank from which the other ranks' watchdogs had no sign of life
    # A node reports its own broken GPU: NCCL's `n2:4242:4711 [0]`, Open MPI's `[n2:4242]`, the kernel's `n2 kernel:`.
    rf"^{_NODE}:\d+:\d+ \[\d+\][^\n]*(?:uncorrectable|ECC|fallen off)",
    rf"^\[{_NODE}:\d+\][^\n]*(?:uncorrectable|ECC|fallen off)",
    rf"{_NODE} kernel: [^\n]*(?:Xid|fallen off)",
)
_NAMED = tuple(re.compile(pattern, re.MULTILINE) for pattern in _NODES)
_NO_ANSWER = re.compile(causes_node.NO_ANSWER)
_DOUBTFUL = re.compile(
    rf"{causes_mpi.ALSO_IN_GOOD_RUNS}|\bUCX +ERROR |\bpml_ucx\.c:\d+ +Error: |PSM\d "
    rf"|\bNCCL WARN (?!{causes_gpu.GAVE_UP})"
)
# So many lines of one class are compared by their time.
_COMPARED = 1000


def find(text: str) -> tuple[str, re.Match[str]] | None:
    """(class, match) of the line of a log that says why, or None if none does."""
    survived: tuple[str, re.Match[str]] | None = None
    for cause in CAUSES:
        match = _first(cause, text)
        if match is None or (cause.kind == "signal" and _EXITED.search(text, 0, match.start())):
            continue
        if survived is not None and (cause.kind in _FOLLOWS or cause in causes_program.LATE_EXCEPTIONS):
            continue
        if _may_survive(cause) and _went_on(text, match.end()):
            # Python may print its progress after its exception: it is then the cause if there is no other.
            if survived is None and _RAISED.match(text, _bounds(text, match)[0]):
                survived = cause.kind, match
            continue
        return cause.kind, match
    return survived


def _may_survive(cause: Cause) -> bool:
    # A job that Slurm puts back into the queue may begin again in the same log.
    return cause.kind == "preempted" or (cause.kind in _SURVIVED and cause not in causes_node.ENDED_BY_SLURM)


def _first(cause: Cause, text: str) -> re.Match[str] | None:
    """The line of this cause that was printed first.

    Of those that have a time, that is the earliest; of those of ranks, that of the rank that torchrun calls the first.
    One after which the program went on does not count if there is a later one.
    """
    found: list[re.Match[str]] = []
    for match in cause.matches(text):
        if found and _may_survive(cause) and _went_on(text, found[-1].end(), match.start()):
            found.clear()
        found.append(match)
    if len(found) < 2:
        return found[0] if found else None
    root = min(_ROOT_CAUSE.finditer(text), key=lambda each: each["time"], default=None)
    if root is not None and (of_root := [each for each in found if _label(text, each) == int(root["rank"])]):
        return of_root[0]
    times = [_TIME.search(text, *_bounds(text, each)) for each in found[:_COMPARED]]
    known = [tuple(part or "" for part in time.groups()) for time in times if time]
    return found[known.index(min(known))] if len(known) == len(times) else found[0]


def _went_on(text: str, begin: int, end: int | None = None) -> bool:
    progress = _PROGRESS.finditer(text, begin, len(text) if end is None else end)
    return sum(1 for _ in zip(range(_WENT_ON), progress, strict=False)) == _WENT_ON


def _bounds(text: str, match: re.Match[str]) -> tuple[int, int]:
    end = text.find("\n", match.start())
    return text.rfind("\n", 0, match.start()) + 1, end if end >= 0 else len(text)


def _label(text: str, match: re.Match[str]) -> int | None:
    return label(text[slice(*_bounds(text, match))])


def label(line: str) -> int | None:
    """The rank that a launcher or PyTorch says has printed this line; None if none is named."""
    match = _LABEL.match(line)
    return next((int(number) for number in match.groups() if number), None) if match else None


def class_of(line: str) -> str:
    """The class of a line: the trainer's error code if it has one, "" if it has no class."""
    found = find(line)
    if found is None:
        return ""
    kind, match = found
    if kind == "own":
        return line[match.end() :].partition(":")[0].strip()
    return "" if kind == LAUNCHER else kind


def may_follow(kind: str) -> bool:
    """Whether a failure of this class may follow from the end of another rank, whose reason stands before it."""
    return kind in _FOLLOWS - {LAUNCHER, ""}


def is_progress(line: str) -> bool:
    """Whether a line looks like one of a training that goes on."""
    return _PROGRESS.search(line) is not None


def is_no_answer(line: str) -> bool:
    """Whether srun says that it could not reach a node to start the tasks there."""
    return _NO_ANSWER.search(line) is not None


def is_doubtful(line: str) -> bool:
    """Whether runs that end well print such a line, too: a program's own error is more likely the cause."""
    return _DOUBTFUL.search(line) is not None


def is_consequence(line: str) -> bool:
    """Whether a rank's error only follows from the end of another rank."""
    return re.search(causes_program.OTHERS, line) is not None


def is_lost_connection(line: str) -> bool:
    """Whether a rank's error says that a connection broke, as it does when another rank ends."""
    return is_consequence(line) or re.search(rf"\b{causes_program.LOST}", line) is not None


def rank(line: str) -> int | None:
    """The rank that a line of PyTorch names as its own, such as `[rank3]: ValueError: ...`; None if it names none."""
    match = re.match(r"\[rank(\d{1,6})\]:", line)
    return int(match[1]) if match else None


def nodes(text: str) -> Iterator[str]:
    """The names of the nodes that a text reports as broken or silent."""
    for pattern in _NAMED:
        for match in pattern.finditer(text):
            yield from expand_hosts(match["node"])


__all__ = [
    "CAUSES",
    "LAUNCHER",
    "RANK",
    "STEPD",
    "class_of",
    "find",
    "is_consequence",
    "is_doubtful",
    "is_harmless",
    "is_lost_connection",
    "is_no_answer",
    "is_progress",
    "label",
    "may_follow",
    "nodes",
    "rank",
]
