"""Which lines of a log say why a run ended, and which class of failure each one is. Pure.

The wording is that of Slurm 22.05, Open MPI 4.1, NCCL, Horovod 0.28, TensorFlow 2.15, Lmod and Environment
Modules; the tests have the lines as they were printed.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

from hpcjobs.base.contract import ERROR_PREFIX
from hpcjobs.base.hostlist import expand

# What stands before a rank's line: `[1,0]<stderr>:` (mpirun --tag-output), `3: ` (srun --label), or that of
# horovodrun, with or without the time.
_RANK = r"^[ \t]*(?:(?:[A-Z][\w :]{0,30})?\[[\d,]+\]<std(?:out|err)> ?: ?|\d{1,6}: )?"

# What a rank says when another one went: Horovod stops all of them.
_OTHERS = r"(?:Horovod has been shut down|HorovodInternalError|\bnccl[A-Z]|\bNCCL |\bMPI_(?:ERR|ABORT))"
_FIRST_HAND = rf"(?![^\n]*{_OTHERS})"
_EXCEPTION = r"(?!Exception ignored)(?!ImportError|ModuleNotFoundError)\w[\w.]*(?:Error|Exception|Interrupt)\b"

# srun's verdict on a task, `srun: error: n2: task 1: ` or `tasks 0-3,5: `.
_VERDICT = r"srun: error: \S+: tasks? [\d,-]+: "
_SIGNALS = r"(?:Killed|Segmentation fault|Bus error|Aborted|Illegal instruction|Floating point exception)"


@dataclasses.dataclass(frozen=True)
class Cause:
    """Lines of one class; `kind` is empty for lines that tell of a failure, but not which.

    What the named groups of `pattern` match is shown, else the whole line.
    """

    kind: str
    pattern: re.Pattern[str]


def _cause(kind: str, *patterns: str) -> Cause:
    return Cause(kind, re.compile("|".join(patterns), re.MULTILINE))


# The first of these that a log has a line of is the cause, and of its lines the first. Who knows comes first
# (Slurm, then the rank that gave up), then what happened by itself, then what follows from another's end (the
# other ranks' NCCL and MPI errors), at last the launcher's summary.
CAUSES: tuple[Cause, ...] = (
    _cause("node_failure", r"DUE TO NODE FAILURE", r"srun: error: Node failure on "),
    _cause("preempted", r"DUE TO PREEMPTION"),
    _cause("timeout", r"DUE TO TIME LIMIT"),
    _cause(
        "out_of_memory",
        r"exceeded (?:job |step |virtual )*memory limit",
        r"Exceeded (?:job|step) memory limit",
        r"oom[-_]kill",
        rf"{_VERDICT}Out Of Memory",
        r"Out of memory: Kill",
    ),
    _cause(
        "node_failure",
        r"(?P<a>ORTE has lost communication with a remote daemon)[\s\S]{0,200}?(?P<b>Remote daemon *: \S+ on node \S+)",
        r"(?P<c>ORTE has lost communication with its daemon located on node:)\s+(?P<d>hostname: +\S+)",
        r"lost communication with (?:a remote|its) daemon",
        r"Task launch for [^\n]{0,40} failed on node \S+: (?:Communication connection failure|Socket timed out)",
        r"Task launch for [^\n]{0,40} failed on node \S+: (?:Unable to contact|Connection refused|No route)",
        r"uncorrectable (?:ECC|NVLink) error",
        r"CUDA_ERROR_ECC_UNCORRECTABLE",
        r"GPU has fallen off the bus",
        # Those of NVIDIA's list that are hardware; others (13, 31, 43, 45) are the program's own.
        r"Xid \(PCI:[^)\n]*\): (?:48|62|64|74|79|92|94|95|119|120)\b",
    ),
    _cause("own", rf"{re.escape(ERROR_PREFIX)} (?=[a-z_]+: )(?!unexpected)"),
    _cause("interrupted", r"^hpcjobs: SIG[A-Z0-9]+: ended after step"),
    _cause(
        "disk_full",
        r"No space left on device",
        r"[Dd]isk quota exceeded",
        r"\[Errno (?:28|122)\]",
        r"not enough space for /",
    ),
    _cause(
        "host_memory",
        r"(?<!OutOf)MemoryError\b",
        r"std::bad_alloc",
        r"Cannot allocate memory",
        r"OOM when allocating [^\n]*(?:device:CPU|allocator (?:mkl)?cpu)",
    ),
    _cause(
        "device_memory",
        r"OOM when allocating",
        r"RESOURCE_EXHAUSTED: (?:Out of memory|Failed to allocate)",
        r"ResourceExhaustedError: [^\n]*(?:[Oo]ut of memory|[Ff]ailed to allocate)",
        r"CU(?:DNN|BLAS|FFT)_(?:STATUS_)?ALLOC_FAILED",
        r"Error: [^\n]*CUDA_ERROR_OUT_OF_MEMORY",
        r"Dst tensor is not initialized",
        r"(?:CUDA|Cuda|cuda)\w* (?:error|failure|failed)[^\n]{0,20}out of memory",
        r"CUDA out of memory",
    ),
    _cause("traceback", rf"{re.escape(ERROR_PREFIX)} unexpected: {_FIRST_HAND}", _RANK + _EXCEPTION + _FIRST_HAND),
    _cause(
        "module_missing",
        r"Lmod has detected the following error:[^\n]*(?:\n[^\n]+)?",
        r"ModuleCmd_\w+\.c\(\d+\):ERROR:",
        r"Unable to locate a modulefile for",
        r"\bmodule: command not found",
        r"/lmod: No such file or directory",
    ),
    _cause(
        "import_error",
        _RANK + r"(?:ImportError|ModuleNotFoundError)\b",
        r"error while loading shared libraries:",
        r"symbol lookup error:",
        r"No module named ",
    ),
    _cause(
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
        r"mpirun has detected an attempt to run as root",
        r"slurmstepd\S*: error: (?:execve\(\)|Failed to invoke)",
        r"\b(?:srun|mpirun|mpiexec|horovodrun|orted|orterun|apptainer|singularity): (?:command )?not found",
        r"slurm_script: line \d+: [^\n]{1,200}: (?:command not found|No such file or directory|Permission denied)",
    ),
    _cause(
        "signal",
        rf"{_VERDICT}{_SIGNALS}",
        r"exited on signal \d+",
        rf"line \d+: +\d+ {_SIGNALS}",
    ),
    _cause("signal", r"Signal: [A-Z][a-z ]+ \(\d+\)", r"Segmentation fault", r"Fatal Python error", r"\bKilled$"),
    # TensorFlow tries again with less: alone, this need not have ended anything.
    _cause("device_memory", r"CUDA_ERROR_OUT_OF_MEMORY"),
    _cause("out_of_memory", r"[Oo]ut [Oo]f [Mm]emory", r"\bOOM\b"),
    _cause("nccl_error", r"\bNCCL WARN (?![^\n]*[Cc]onnection closed by (?:remote )?peer)"),
    _cause(
        "nccl_error",
        r"\bnccl[A-Z]\w* failed",
        r"\bNCCL (?:error|async error|WARN)",
        r"NCCL operations have failed or timed out",
    ),
    _cause(
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
    _cause("traceback", _RANK + _EXCEPTION, rf"{re.escape(ERROR_PREFIX)} unexpected: "),
    _cause("", re.escape(ERROR_PREFIX)),  # the job script's, which knows no class
    _cause("", rf"{_VERDICT}Exited with exit code"),
    _cause("", r"(?P<a>exited with non-zero status)[\s\S]{0,120}?(?P<b>Process name: \S+)\s+(?P<c>Exit code: +\d+)"),
    _cause(
        "mpi_error",
        r"(?P<a>An MPI communication peer process has unexpectedly disconnected)[\s\S]{0,800}?(?P<b>Peer host: +\S+)",
        r"peer process has unexpectedly disconnected",
    ),
    _cause("", r"Primary job +terminated"),
    _cause("", r"(?:slurmstepd\S*|srun|mpirun|sbatch): error:"),
    _cause("", r"command not found|No such file or directory|Permission denied"),
)
# A task that was killed after another had left by itself was killed for that.
_LEFT = re.compile(rf"{_VERDICT}Exited with exit code", re.MULTILINE)

_NODE = r"(?P<node>[A-Za-z0-9][\w.-]*(?:\[[\d,-]+\][\w.-]*)?)"
# Slurm's `JOB 12 ON n2 CANCELLED AT ... DUE TO NODE FAILURE` is not among them: n2 is the node that lives to tell.
_NODES = (
    rf"Node failure on {_NODE}",
    rf"Remote daemon *: \S+ on node {_NODE}",
    rf"hostname: +{_NODE}",
    rf"failed on node {_NODE}: ",
    rf"rank \d+ on {_NODE}, last at",  # a rank that the others' watchdogs found silent
    # Who prints of its broken GPU: NCCL's `n2:4242:4711 [0]`, Open MPI's `[n2:4242]`, the kernel's `n2 kernel:`.
    rf"^{_NODE}:\d+:\d+ \[\d+\][^\n]*(?:uncorrectable|ECC|fallen off)",
    rf"^\[{_NODE}:\d+\][^\n]*(?:uncorrectable|ECC|fallen off)",
    rf"{_NODE} kernel: [^\n]*(?:Xid|fallen off)",
)
_NAMED = tuple(re.compile(pattern, re.MULTILINE) for pattern in _NODES)


def find(text: str) -> tuple[str, re.Match[str]] | None:
    """(class, match) of what says why in a log, or None where nothing does."""
    for cause in CAUSES:
        match = cause.pattern.search(text)
        if match and not (cause.kind == "signal" and _LEFT.search(text, 0, match.start())):
            return cause.kind, match
    return None


def kind_of(line: str) -> str:
    """The class that a line names: empty where it names none, the trainer's own code where it has one."""
    found = find(line)
    if found is None:
        return ""
    kind, match = found
    return line[match.end() :].partition(":")[0].strip() if kind == "own" else kind


def second_hand(line: str) -> bool:
    """Whether a rank's error tells of the end of another one."""
    return re.search(_OTHERS, line) is not None


def nodes(text: str) -> Iterator[str]:
    """Names of the nodes that a text calls broken or silent."""
    for pattern in _NAMED:
        for match in pattern.finditer(text):
            yield from expand(match["node"])
