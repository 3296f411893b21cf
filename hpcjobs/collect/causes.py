"""Finds the line of a log that says why a run ended, and its class of failure. Pure.

The patterns match the messages of Slurm 22.05, Open MPI 4.1, NCCL, Horovod 0.28, TensorFlow 2.15, PyTorch 1.10 to 2.8
(torchrun, gloo, DataLoader), Lmod and Environment Modules. The tests hold the lines as these programs printed them.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

from hpcjobs.base.contract import ERROR_PREFIX
from hpcjobs.base.hostlist import expand_hosts

# The prefixes of a rank's line: `[1,0]<stderr>:` (mpirun --tag-output), `3: ` (srun --label), that of horovodrun, with
# or without the time, `[default0]:` (torchrun) and `[rank0]: ` (PyTorch's own tracebacks).
RANK = r"^[ \t]*(?:(?:[A-Z][\w :]{0,30})?\[[\d,]+\]<std(?:out|err)> ?: ?|\d{1,6}: |\[(?:rank|default)\d{1,6}\]: ?){0,3}"

# What a rank prints because another one ended: Horovod stops all of them, and connections to it break.
_OTHERS = (
    r"(?:Horovod has been shut down|HorovodInternalError|\bnccl[A-Z]|\bNCCL |\bMPI_(?:ERR|ABORT)|gloo/transport/"
    r"|\bConnection (?:was )?(?:closed|reset) by (?:remote )?peer|failed to recv, got 0 bytes"
    r"|Watchdog caught collective operation timeout|DataLoader worker \(pid\(s\) [^)]*\) exited unexpectedly)"
)
# The same, as Python's own exceptions. (requests.exceptions.ConnectionError is about another connection.)
_LOST = r"(?:BrokenPipe|Connection)Error: "
_NOT_OF_OTHERS = rf"(?![^\n]*{_OTHERS})"
# torchrun's own exceptions only say that a process of its node failed, and how NCCL names its errors is no exception.
_NO_EXCEPTION = r"(?!Exception ignored|ImportError|ModuleNotFoundError|torch\.distributed\.elastic\.|nccl[A-Z])"
_EXCEPTION = rf"{_NO_EXCEPTION}\w[\w.]*(?:Error|Exception|Interrupt)\b"

# How srun reports the end of a task: `srun: error: n2: task 1: ` or `tasks 0-3,5: `.
_TASK_END = r"srun: error: \S+: tasks? [\d,-]+: "
_SIGNALS = r"(?:Killed|Segmentation fault|Bus error|Aborted|Illegal instruction|Floating point exception)"


def _first_failed(exitcode: str) -> str:
    """torchrun's report of the process that failed first on its node: host, rank and exit code, on lines of their own.

    Before PyTorch 1.10 it has no host.
    """
    return (
        r"Root Cause(?: \(first observed failure\))?:[^\n]*\n[^\n]*\[\d+\]:[^\n]*\n[^\n]*time *:[^\n]*\n"
        r"(?:[^\n]*?(?P<host>\bhost *: \S+)[^\n]*\n)?[^\n]*?(?P<rank>\brank *: \d+) \(local_rank: \d+\)[^\n]*\n"
        rf"[^\n]*?(?P<exitcode>\bexitcode *: {exitcode}\d+ \(pid: \d+\))"
        r"(?:[^\n]*\n[^\n]*error_file[^\n]*\n[^\n]*?(?P<signal>\bSignal \d+ \(SIG\w+\)))?"
    )


# The kind of a launcher's summary.
LAUNCHER = "launcher"


@dataclasses.dataclass(frozen=True)
class Cause:
    """The lines of one class. Lines of `kind` "" report a failure without its class; those of "own" name it.

    Those of LAUNCHER have no class either: they say that a process failed, and never why.

    A message shows what the named groups of `pattern` match, or the whole line if it has none.
    """

    kind: str
    pattern: re.Pattern[str]


def _lines(kind: str, *patterns: str) -> Cause:
    return Cause(kind, re.compile("|".join(patterns), re.MULTILINE))


# The cause is the first of these that matches a line of the log, and of its lines the first. Their order: Slurm and
# the rank that gave up, which know the reason; what happened by itself; what follows from the end of another rank
# (NCCL and MPI errors); the launcher's summary.
CAUSES: tuple[Cause, ...] = (
    _lines("node_failure", r"DUE TO NODE FAILURE", r"srun: error: Node failure on "),
    _lines("preempted", r"DUE TO PREEMPTION"),
    _lines("timeout", r"DUE TO TIME LIMIT"),
    _lines(
        "out_of_memory",
        r"exceeded (?:job |step |virtual )*memory limit",
        r"Exceeded (?:job|step) memory limit",
        r"oom[-_]kill",
        rf"{_TASK_END}Out Of Memory",
        r"Out of memory: Kill",
    ),
    _lines(
        "node_failure",
        r"(?P<a>ORTE has lost communication with a remote daemon)[\s\S]{0,200}?(?P<b>Remote daemon *: \S+ on node \S+)",
        r"(?P<c>ORTE has lost communication with its daemon located on node:)\s+(?P<d>hostname: +\S+)",
        r"lost communication with (?:a remote|its) daemon",
        r"Task launch for [^\n]{0,40} failed on node \S+: (?:Communication connection failure|Socket timed out)",
        r"Task launch for [^\n]{0,40} failed on node \S+: (?:Unable to contact|Connection refused|No route)",
        r"uncorrectable (?:ECC|NVLink) error",
        r"CUDA_ERROR_ECC_UNCORRECTABLE",
        r"GPU has fallen off the bus",
        # The hardware errors of NVIDIA's list; others (13, 31, 43, 45) are errors of the program.
        r"Xid \(PCI:[^)\n]*\): (?:48|62|64|74|79|92|94|95|119|120)\b",
    ),
    _lines("own", rf"{re.escape(ERROR_PREFIX)} (?=[a-z_]+: )(?!unexpected)"),
    _lines("interrupted", r"^hpcjobs: SIG[A-Z0-9]+: ended after step"),
    _lines(
        "shared_memory",
        r"DataLoader worker \(pid \d+\) is killed by signal: Bus error",
        r"Unexpected bus error encountered in worker",
        r"insufficient shared memory \(shm\)",
        r"unable to (?:write to|allocate|open|resize|mmap)[^\n]{1,60}/torch_\d[^\n]*No space left",
        r"failed to extend /dev/shm/",
    ),
    _lines("signal", r"DataLoader worker \(pid \d+\) is killed by signal: (?!Terminated)"),
    _lines(
        "disk_full",
        r"No space left on device",
        r"[Dd]isk quota exceeded",
        r"\[Errno (?:28|122)\]",
        r"not enough space for /",
    ),
    _lines(
        "host_memory",
        r"(?<!OutOf)MemoryError\b",
        r"std::bad_alloc",
        r"Cannot allocate memory",
        r"OOM when allocating [^\n]*(?:device:CPU|allocator (?:mkl)?cpu)",
    ),
    _lines(
        "device_memory",
        r"OOM when allocating",
        r"RESOURCE_EXHAUSTED: (?:Out of memory|Failed to allocate)",
        r"ResourceExhaustedError: [^\n]*(?:[Oo]ut of memory|[Ff]ailed to allocate)",
        r"CU(?:DNN|BLAS|FFT)_(?:STATUS_)?ALLOC_FAILED",
        r"Error: [^\n]*CUDA_ERROR_OUT_OF_MEMORY",
        r"Dst tensor is not initialized",
        r"(?:CUDA|Cuda|cuda)\w* (?:error|failure|failed)[^\n]{0,20}out of memory",
        r"CUDA out of memory",
        r"OutOfMemoryError: \w+ out of memory",
    ),
    _lines(
        "device_missing",
        r"RuntimeError: No CUDA GPUs are available",
        r"Found no NVIDIA driver on your system",
        r"The NVIDIA driver on your system is too old",
        r"Error: CUDA error: (?:no CUDA-capable device is detected|invalid device ordinal)",
    ),
    _lines(
        "cuda_error",
        r"\bCUDA error: (?!out of memory)",
        r"\bcuDNN error: CUDNN_STATUS_",
        r"\bCUDA_ERROR_(?:ILLEGAL|MISALIGNED|LAUNCH|ASSERT|INVALID_PC|HARDWARE)",
    ),
    _lines(
        "traceback",
        rf"{re.escape(ERROR_PREFIX)} unexpected: {_NOT_OF_OTHERS}",
        rf"{RANK}(?!{_LOST}){_EXCEPTION}{_NOT_OF_OTHERS}",
    ),
    _lines(
        "module_missing",
        r"Lmod has detected the following error:[^\n]*(?:\n[^\n]+)?",
        r"ModuleCmd_\w+\.c\(\d+\):ERROR:",
        r"Unable to locate a modulefile for",
        r"\bmodule: command not found",
        r"/lmod: No such file or directory",
    ),
    _lines(
        "import_error",
        RANK + r"(?:ImportError|ModuleNotFoundError)\b",
        r"error while loading shared libraries:",
        r"symbol lookup error:",
        r"No module named ",
    ),
    _lines("run_as_root", r"(?:mpirun|orterun|mpiexec|prterun) has detected an attempt to run as root"),
    _lines(
        "launch",
        r"srun: error: Unable to (?:confirm allocation|create step|allocate resources)",
        r"srun: error: (?:Couldn't (?:find the|load) specified plugin|cannot find mpi plugin|Invalid MPI type)",
        r"srun: error: (?:Task launch for|Application launch failed)",
        r"(?P<a>There are not enough slots available in the system to satisfy the \d+)\s+(?P<b>slots)",
        r"(?P<c>requested more processes than the ppr for)[\s\S]{0,120}?(?P<d>PPR: +\S+)",
        r"(?P<e>we found no available cpus on)[\s\S]{0,40}?(?P<f>Node: +\S+)",
        r"(?P<g>mpirun was unable to find the specified executable file)[\s\S]{0,500}?(?P<h>Executable: +[^\n]+)",
        r"was unable to (?:start|launch) the specified application",
        r"ORTE was unable to reliably start one or more daemons",
        r"ORTE daemon has unexpectedly failed",
        r"unable to locate a\s+usable \"srun\" command",
        r"slurmstepd\S*: error: (?:execve\(\)|Failed to invoke)",
        r"\b(?:srun|mpirun|mpiexec|horovodrun|orted|orterun|apptainer|singularity): (?:command )?not found",
        r"slurm_script: line \d+: [^\n]{1,200}: (?:command not found|No such file or directory|Permission denied)",
    ),
    _lines(
        "signal",
        rf"{_TASK_END}{_SIGNALS}",
        r"exited on signal \d+",
        _first_failed("-(?!15 )"),
        r"\bexitcode *: -\d+ \(pid: \d+\) Signal \d+ ",  # the same as one line
        rf"line \d+: +\d+ {_SIGNALS}",
    ),
    _lines("signal", r"Signal: [A-Z][a-z ]+ \(\d+\)", r"Segmentation fault", r"Fatal Python error", r"\bKilled$"),
    # TensorFlow tries again with less memory: this line alone need not be the end.
    _lines("device_memory", r"CUDA_ERROR_OUT_OF_MEMORY"),
    _lines("out_of_memory", r"[Oo]ut [Oo]f [Mm]emory", r"\bOOM\b"),
    # Exit code 1 may be that of a rank whose exception only follows from the end of another.
    _lines(LAUNCHER, _first_failed("(?!1 )")),
    _lines(
        "nccl_error",
        r"(?P<a>NCCL error in: )[^\n]*\n[^\n]*?(?P<b>\bnccl[A-Z]\w+: )[^\n]*\n[^\n]*Last error: *\n"
        r"(?:\[rank\d+\]: ?)?(?P<c>[^\n]*)",
        r"Watchdog caught collective operation timeout",
    ),
    _lines("nccl_error", r"\bNCCL WARN (?![^\n]*[Cc]onnection closed by (?:remote )?peer)"),
    _lines(
        "nccl_error",
        r"\bnccl[A-Z]\w* failed",
        r"\bNCCL (?:error|async error|WARN)",
        r"NCCL operations have failed or timed out",
    ),
    _lines(
        "mpi_error",
        r"(?P<a>MPI_ABORT was invoked on rank \d+ in communicator \S+)[^\n]*\n[^\n]*(?P<b>with errorcode -?\d+)",
        r"MPI_ABORT was invoked",
        r"\bMPI_ERR_\w+",
        r"\*\*\* An error occurred in ",
        r"MPI_INIT has failed",
        r"It looks like \w+ failed for some reason",
        r"PMIX ERROR",
        r"Open MPI failed to (?:TCP )?\w+",
        r"\bUCX +ERROR",
    ),
    _lines("gloo_error", r"gloo/transport/[^\n]*", r"Gloo connectFullMesh failed"),
    _lines("traceback", RANK + _EXCEPTION, rf"{re.escape(ERROR_PREFIX)} unexpected: "),
    _lines("", re.escape(ERROR_PREFIX)),  # an error of the job script has no class
    _lines(LAUNCHER, _first_failed("-?")),
    _lines(LAUNCHER, r"failed \(exitcode: -?\d+\) local_rank: \d+ \(pid: \d+\) of binary"),
    _lines(LAUNCHER, rf"{_TASK_END}Exited with exit code"),
    _lines(
        LAUNCHER, r"(?P<a>exited with non-zero status)[\s\S]{0,120}?(?P<b>Process name: \S+)\s+(?P<c>Exit code: +\d+)"
    ),
    _lines(
        "mpi_error",
        r"(?P<a>An MPI communication peer process has unexpectedly disconnected)[\s\S]{0,800}?(?P<b>Peer host: +\S+)",
        r"peer process has unexpectedly disconnected",
    ),
    _lines(LAUNCHER, r"Primary job +terminated"),
    _lines("", r"(?:slurmstepd\S*|srun|mpirun|sbatch): error:"),
    _lines("", r"command not found|No such file or directory|Permission denied"),
)
# If one task exits by itself, srun then kills the others: their signals are not the cause. PyTorch's watchdog aborts
# its process.
_EXITED = re.compile(rf"{_TASK_END}Exited with exit code|Watchdog caught collective operation timeout", re.MULTILINE)

_NODE = r"(?P<node>[A-Za-z0-9][\w.-]*(?:\[[\d,-]+\][\w.-]*)?)"
# Slurm's `JOB 12 ON n2 CANCELLED AT ... DUE TO NODE FAILURE` is not among them: n2, which printed it, is alive.
_NODES = (
    rf"Node failure on {_NODE}",
    rf"Remote daemon *: \S+ on node {_NODE}",
    rf"hostname: +{_NODE}",
    rf"failed on node {_NODE}: ",
    rf"rank \d+ on {_NODE}, last at",  # a rank from which the other ranks' watchdogs had no sign of life
    # A node reports its own broken GPU: NCCL's `n2:4242:4711 [0]`, Open MPI's `[n2:4242]`, the kernel's `n2 kernel:`.
    rf"^{_NODE}:\d+:\d+ \[\d+\][^\n]*(?:uncorrectable|ECC|fallen off)",
    rf"^\[{_NODE}:\d+\][^\n]*(?:uncorrectable|ECC|fallen off)",
    rf"{_NODE} kernel: [^\n]*(?:Xid|fallen off)",
)
_NAMED = tuple(re.compile(pattern, re.MULTILINE) for pattern in _NODES)


def find(text: str) -> tuple[str, re.Match[str]] | None:
    """(class, match) of the line of a log that says why, or None if none does."""
    for cause in CAUSES:
        match = cause.pattern.search(text)
        if match and not (cause.kind == "signal" and _EXITED.search(text, 0, match.start())):
            return cause.kind, match
    return None


def class_of(line: str) -> str:
    """The class of a line: the trainer's error code if it has one, "" if it has no class."""
    found = find(line)
    if found is None:
        return ""
    kind, match = found
    if kind == "own":
        return line[match.end() :].partition(":")[0].strip()
    return "" if kind == LAUNCHER else kind


def is_consequence(line: str) -> bool:
    """Whether a rank's error only follows from the end of another rank."""
    return re.search(_OTHERS, line) is not None


def is_lost_connection(line: str) -> bool:
    """Whether a rank's error says that a connection broke, as it does when another rank ends."""
    return is_consequence(line) or re.search(rf"\b{_LOST}", line) is not None


def rank(line: str) -> int | None:
    """The rank that a line of PyTorch names as its own, such as `[rank3]: ValueError: ...`; None if it names none."""
    match = re.match(r"\[rank(\d{1,6})\]:", line)
    return int(match[1]) if match else None


def nodes(text: str) -> Iterator[str]:
    """The names of the nodes that a text reports as broken or silent."""
    for pattern in _NAMED:
        for match in pattern.finditer(text):
            yield from expand_hosts(match["node"])
