"""What a program, Python, the system's libraries and its file systems print when a run fails."""

from __future__ import annotations

import re

from hpcjobs.base.contract import ERROR_PREFIX
from hpcjobs.collect.cause_lines import LAUNCHER, RANK, STEPD, TASK_END, errors, go_ends_itself, lines

# What a rank prints because another one ended: Horovod stops all of them, and connections to it break.
OTHERS = (
    r"(?:Horovod has been shut down|HorovodInternalError|\bnccl[A-Z]|\b(?:NCCL:?|oneCCL:) "
    r"|\bMPI_(?:ERR|ABORT)|gloo/transport/"
    r"|\bConnection (?:was )?(?:closed|reset) by (?:remote )?peer|failed to recv, got 0 bytes|\bDistBackendError\b"
    r"|[Cc]aught collective operation timeout|taking the entire process down"
    r"|DataLoader worker \(pid\(s\) [^)]*\) exited unexpectedly)"
)
# The same, as Python's own exceptions. (requests.exceptions.ConnectionError is about another connection.)
LOST = (
    r"(?:BrokenPipe|Connection|ConnectionReset|ConnectionAborted)Error: "
    r"|(?:\w+\.)*Rendezvous(?:Closed|Connection)Error\b"
)
_NOT_OF_OTHERS = rf"(?![^\n]*{OTHERS})"
# What the dynamic linker says, as the message of an exception of ctypes, too.
_NO_LIBRARY = r"(?:: cannot open shared object file|: version `[^'\n]+' not found \(required by|: undefined symbol: )"
_PADDLES_SIGNAL = r"is detected by the operating system\b"
# A launcher in Python on the end of a process that it started: the old torch.distributed.launch and DeepSpeed.
_PROCESS_FAILED = r"subprocess\.CalledProcessError: Command [^\n]{0,80}\bpython[^\n]* returned non-zero exit status"
# torchrun's own exceptions only say that a process of its node failed, and how NCCL names its errors is no exception.
_NO_EXCEPTION = (
    r"(?!Exception ignored|ImportError|ModuleNotFoundError|torch\.distributed\.elastic\.(?!rendezvous)|nccl[A-Z]"
    rf"|\w[\w.]*Error: [^\n]*(?:{_NO_LIBRARY}|died with <Signals\.SIG|{_PADDLES_SIGNAL})|{_PROCESS_FAILED})"
)
# Most exceptions end in Error; some of the standard library and of others are named otherwise, and then have a module.
EXCEPTION = (
    rf"{_NO_EXCEPTION}(?:\w[\w.]*(?:Error|Exception|Interrupt)\b"
    r"|[A-Za-z_][\w.]*\.(?:error|timeout|gaierror|herror|Empty|Full|BrokenProcessPool|\w*(?:Failure|Timeout|Expired"
    r"|NotFound|Exit|Failed))(?=: |$)"
    r"|(?:[a-z_]\w*\.)+(?:exceptions|errors)\.\w+(?=: |$)|Stop(?:Async)?Iteration(?=: |$))"
)
# pdsh, with which DeepSpeed starts its nodes, begins lines with the node's name.
_HOST = r"(?:[A-Za-z][\w.-]{0,40}\d[\w.-]{0,20}: )?"
# Python 3.11 prints the exceptions of an ExceptionGroup, and what caused them, behind such bars.
_GROUP = r"(?:[ |]*\| )?"

_SIGNALS = r"(?:Killed|Segmentation fault|Bus error|Aborted|Illegal instruction|Floating point exception)"

OWN = (
    lines("own", rf"{re.escape(ERROR_PREFIX)} (?=[a-z_]+: )(?!unexpected)"),
    lines("interrupted", r"^hpcjobs: SIG[A-Z0-9]+: ended after step"),
)
DISK_FULL = (
    errors(
        "disk_full",
        r"[Nn]o space left on device",
        r"\b(?:[Dd]isk|[Ff]ile|[Uu]ser|[Gg]roup|[Bb]lock|[Ii]node|[Ss]torage) quota (?:limit )?exceeded",
        r"\[Errno (?:28|122)\]",
        r"not enough space for /",
    ),
)
CREDENTIAL = (
    errors(
        "credential",
        # Munge, and what Slurm says of its credentials
        r"[Mm]unge (?:en|de)code failed",
        r"error: [^\n]*(?:(?:Invalid|Expired|Rewound|Replayed) credential|[Jj]ob credential (?:expired|revoked))",
        r"Protocol authentication error",
        r"\bPermission denied \((?:publickey|gssapi|password|keyboard)",
        r"\[Errno 12[67]\]|\bKey has expired|\bRequired key not available",  # of a file system that asks for a ticket
        r"\b[Aa]pi[_ ]key not configured|^401 Client Error\b|\btrying to access a gated repo\b",
        rf"{RANK}{_HOST}(?:\w+\.)*\w*(?:NoCredentials|CredentialRetrieval|TokenRetrieval|Authentication|GatedRepo|"
        r"LocalTokenNotFound|DefaultCredentials)Error\b",
        rf"{RANK}{_HOST}{EXCEPTION}[^\n]*(?:\b401\b[^\n]*Unauthorized|Unauthorized[^\n]*\b401\b|ExpiredToken\b|"
        r"\b403\b[^\n]*Forbidden|InvalidAccessKeyId|[Ii]nvalid (?:user )?token|[Uu]nable to locate credentials)",
        rf"{RANK}{_HOST}(?:\w+\.)*CommError: [^\n]*[Pp]ermission denied",  # Weights & Biases
    ),
)
# Tickets that were not renewed do not end a run whose files do not ask for them.
TICKET = (
    errors(
        "credential",
        r"(?:No|[Mm]atching) (?:Kerberos )?credentials? (?:cache found|were supplied|found)",
        r"unable to read credentials? cache",
        rf"{RANK}(?:kinit|aklog): ",
    ),
)
# Network libraries have the same words for their transfers.
_NO_NETWORK = r"^(?![^\n]*(?:\bMPID?I?R?_\w+\(\d+\)|\bUCX +[A-Z]+ |\bNCCL WARN |\bibv_|\blibfabric:|\bCQ\b))[^\n]*"
FILE_SYSTEM = (
    errors(
        "file_system",
        r"\b[Ss]tale (?:NFS )?file handle",
        r"\[Errno (?:5|30|108|116|117|121)\]",
        rf"{_NO_NETWORK}\b(?:[Ii]nput/output|Remote I/O) error",
        r"\bRead-only file system",
        r"Cannot send after transport endpoint shutdown",
        r"Transport endpoint is not connected: ?['\"/]",
        r"\bStructure needs cleaning",
        r"\bPytorchStreamWriter failed writing file",
        r"unable to lock file, errno",  # HDF5
        r"\bLustreError: [^\n]*(?:evicted|-5\b|-108\b)",
    ),
)
# Network libraries say so where the limit of locked memory is too low.
_NO_LOCKED_MEMORY = r"^(?![^\n]*(?:\bUCX +[A-Z]+ |\bNCCL WARN |\bibv_|\blibfabric:|\bsend CQ\b))[^\n]*"
HOST_MEMORY = (
    errors(
        "host_memory",
        r"(?<!OutOf)MemoryError\b",
        r"std::bad_alloc",
        r"\bray\.exceptions\.OutOfMemoryError\b",
        rf"{_NO_LOCKED_MEMORY}Cannot allocate memory",
        r"DefaultCPUAllocator: (?:can't|not enough)",
        r"OOM when allocating [^\n]*(?:device:CPU|allocator (?:mkl)?cpu)",
    ),
)
# The program ended itself. absl and glog begin such a line with F and the date, TensorFlow with F and the file.
_FATAL = (
    r"(?:\bF\d{4} [\d:. ]+\d+ (?!ProcessGroupNCCL)[\w./-]+:\d+\] "
    r"|: F (?:[\w.-]+/)+[\w.-]+:\d+\] |^F (?:[\w.-]+/)+[\w.-]+:\d+\] )"
    r"(?![^\n]*(?:another task|distributed service|coordination service))"  # JAX: the end of another process
)
ABORTED = (
    lines(
        "signal",
        _FATAL,
        r"(?P<terminate>terminate called after throwing an instance of '[^'\n]+')\s+"
        rf"(?P<what>what\(\): +{_NOT_OF_OTHERS}[^\n]*)",
        r"\bAssertion [`'][^\n]{1,300}['`] failed\b",
        r"\bLLVM ERROR: ",
        r"\bAssertion failed in file \S+ at line \d+: ",  # MPICH
        go_ends_itself(),
        r"(?P<rust>\bthread '[^'\n]*'[^\n]{0,20} panicked at [^\n]*?):?(?:\n(?P<why>(?!note: )[^\n]*))?$",
        r"\b(?:double free or corruption|free\(\): invalid|malloc\(\): |corrupted (?:size|double-linked))",
        r"\bmunmap_chunk\(\): invalid pointer",
        r"\bOpenBLAS blas_thread_init: pthread_create failed",
        r"\*\*\* (?:stack smashing|buffer overflow) detected",
    ),
)
EXCEPTIONS = (
    lines(
        "traceback",
        rf"{re.escape(ERROR_PREFIX)} unexpected: {_NOT_OF_OTHERS}",
        rf"{RANK}{_GROUP}(?!{LOST}){_HOST}{EXCEPTION}{_NOT_OF_OTHERS}",
    ),
)
LATE_EXCEPTIONS = (lines("traceback", RANK + EXCEPTION, rf"{re.escape(ERROR_PREFIX)} unexpected: "),)
MODULES = (
    lines(
        "module_missing",
        r"Lmod has detected the following error:[^\n]*(?:\n[^\n]+)?",
        r"ModuleCmd_\w+\.c\(\d+\):ERROR:",
        r"Unable to locate a modulefile for",
        r"\b(?:module|ml): command not found",
        r"/lmod: No such file or directory",
    ),
    lines(
        "import_error",
        r"Original error was: \S",  # of NumPy, below its advice
    ),
    lines(
        "import_error",
        RANK + r"(?:ImportError|ModuleNotFoundError)\b",
        r"error while loading shared libraries:",
        rf"{RANK}\w[\w.]*Error: [^\n]*{_NO_LIBRARY}",
        r"\bCould not load library \S+ Error: ",  # cuDNN
        r"(?:symbol lookup|relocation) error:",
        r"version `[^'\n]+' not found \(required by",
        r"No module named ",
    ),
)
SIGNAL_OF_LAUNCHER = (
    lines(
        "signal",
        rf"{TASK_END}{_SIGNALS}",
        r"exited on signal \d+|\brank \d+ died from signal (?!15\b)\d+",  # Open MPI; PALS of HPE
        r"KILLED BY SIGNAL: \d+|EXIT STRING: [\w ]+\(signal \d+\)",
        rf"line \d+: +\d+ {_SIGNALS}",
    ),
)
SIGNAL = (
    lines(
        "signal",
        r"Caught signal \d+ \(\w+",  # UCX
        r"\bforrtl: (?:severe|error) \(\d+\): (?![^\n]*SIGTERM)SIG[A-Z]+",  # Intel's Fortran
        # TensorFlow, absl, glog
        r"\*\*\* (?:Received signal (?!15\b)\d+|SIG(?!TERM)[A-Z]+ (?:received at time=|\(@0x))",
        r"Signal: [A-Z][a-z ]+ \(\d+\)",
        r"Segmentation fault|\bsegmentation fault (?: |\(core dumped\))|(?:Illegal|illegal hardware) instruction",
        r"\bA worker died or was killed while executing a task",  # Ray
        rf"\bFatalError: (?![^\n]*Termination signal)[^\n]*{_PADDLES_SIGNAL}",
        r"\bdied with <Signals\.SIG(?!TERM)\w+: \d+>",  # Python's subprocess
        r"Fatal Python error",
        r"\bKilled(?= \(\d+ ranks\)$|$)",
    ),
)
# TensorFlow tries again with less memory: this line alone need not be the end.
MEMORY_WORDS = (
    lines("device_memory", r"CUDA_ERROR_OUT_OF_MEMORY"),
    errors(
        "out_of_memory",
        r"[Oo]ut [Oo]f [Mm]emory(?=[.!]?$|[^\n]*\b(?:[Ee]rror|[Kk]illed|[Tt]erminated|[Aa]bort\w*)\b)",
        r"\b(?:[Ee]rror|[Kk]illed|[Tt]erminated|FATAL|[Ff]atal)\b[^\n]{0,80}\b(?:[Oo]ut [Oo]f [Mm]emory|OOM)\b",
        r"\bOOM[- ]?[Kk]ill(?:ed|er)\b",
    ),
)
JOB_SCRIPT = (lines("", re.escape(ERROR_PREFIX)),)  # an error of the job script has no class
EXITED = (
    lines(LAUNCHER, rf"{TASK_END}Exited with exit code"),
    lines(
        LAUNCHER, r"(?P<a>exited with non-zero status)[\s\S]{0,120}?(?P<b>Process name: \S+)\s+(?P<c>Exit code: +\d+)"
    ),
)
LAST = (
    lines(LAUNCHER, r"Primary job +terminated", r"BAD TERMINATION OF ONE OF YOUR APPLICATION PROCESSES"),
    lines(LAUNCHER, r"\bexits with return code = \d", _PROCESS_FAILED),  # DeepSpeed
    errors(LAUNCHER, rf"(?:{STEPD}|(?:srun|mpirun|sbatch): error:)(?![^\n]*\bTMPDIR\b)"),
    lines("", r"\bforrtl: severe \(\d+\): "),
    errors("", r"command not found|No such file or directory|Permission denied"),
)
