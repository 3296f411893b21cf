"""What CUDA, NCCL, gloo and PyTorch print when a run fails, torchrun's summary among it."""

from __future__ import annotations

from hpcjobs.collect.cause_lines import LAUNCHER, RANK, errors, lines


def first_failed(exitcode: str) -> str:
    """torchrun's report of the process that failed first on its node: host, rank and exit code, on lines of their own.

    Before PyTorch 1.10 it has no host.
    """
    return (
        r"Root Cause(?: \(first observed failure\))?:[^\n]*\n[^\n]*\[\d+\]:[^\n]*\n[^\n]*time *:[^\n]*\n"
        r"(?:[^\n]*?(?P<host>\bhost *: \S+)[^\n]*\n)?[^\n]*?(?P<rank>\brank *: \d+) \(local_rank: \d+\)[^\n]*\n"
        rf"[^\n]*?(?P<exitcode>\bexitcode *: {exitcode}\d+ \(pid: \d+\))"
        r"(?:[^\n]*\n[^\n]*error_file[^\n]*\n[^\n]*?(?P<signal>\bSignal \d+ \(SIG\w+\)))?"
    )


SHARED_MEMORY = (
    errors(
        "shared_memory",
        r"DataLoader worker \(pid \d+\) is killed by signal: Bus error",
        r"Unexpected bus error encountered in worker",
        r"insufficient shared memory \(shm\)",
        r"unable to (?:write to|allocate|open|resize|mmap)[^\n]{1,60}/torch_\d[^\n]*No space left",
        r"failed to extend /dev/shm/",
        r"\bNCCL WARN Call to posix_fallocate failed|Error while creating shared memory segment",
    ),
    lines(
        "signal",
        r"DataLoader worker \(pid \d+\) is killed by signal: (?!Terminated)",
        r"\bProcessExitedException: process \d+ terminated with signal (?!SIGTERM)",
    ),
)
DEVICE_MEMORY = (
    lines(
        "device_memory",
        r"OOM when allocating",
        r"(?:RESOURCE_EXHAUSTED|Resource exhausted): (?:Out of memory|Failed to allocate)",
        r"XlaRuntimeError: INTERNAL: Failed to allocate \d+ bytes",
        r"ResourceExhaustedError: [^\n]*(?:[Oo]ut of memory|[Ff]ailed to allocate)",
        r"CU(?:DNN|BLAS|FFT)_(?:STATUS_)?ALLOC_FAILED",
        r"Error: [^\n]*CUDA_ERROR_OUT_OF_MEMORY",
        r"Dst tensor is not initialized",
        r"(?:CUDA|Cuda|cuda|HIP)\w* (?:error|failure|failed)[^\n]{0,30}out of memory",
        r"\b(?:CUDA|HIP|XPU|NPU|HPU|MUSA|MPS backend) out of memory",
        r"[Oo]ut of memory error on GPU \d",  # Paddle
        r"\bcuda runtime error \(\d+\) : out of memory",
        r"\berror == cudaSuccess \(2 vs\. 0\)",  # Caffe
        r"\b(?:torch|cupy)[\w.]*\.OutOfMemoryError\b",
        r"\bcudaErrorMemoryAllocation\b|\bhipErrorOutOfMemory\b|\bZE_RESULT_ERROR_OUT_OF_DEVICE_MEMORY\b",
        r"\bCUDA RT call [^\n]* failed with out of memory|\b(?:cuda|hip)Malloc\w*\([^\n]*\bout of memory\b",
    ),
)
DEVICE = (
    errors(
        "device_missing",
        r"RuntimeError: No CUDA GPUs are available",
        r"Found no NVIDIA driver on your system",
        r"The NVIDIA driver on your system is too old",
        r"Error: (?:CUDA|HIP|cuda runtime) error(?: \(\d+\) )?: "
        r"(?:no \S+-capable device is detected|invalid device ordinal)",
        r"Error: Unable to initialize backend '(?:cuda|rocm|gpu)'",  # JAX
        r"CUDA (?:failure|RT call) [^\n]*(?:'|failed with )(?:no CUDA-capable device|invalid device ordinal)",
        r"(?:HIP error: |HIP failure [^\n]*')hipError(?:NoDevice|InvalidDevice)\b",
        r"Error: [^\n]*(?:CUDA driver version is insufficient|CUDA unknown error|CUDA driver initialization failed)",
        r"Error: Unexpected error from cudaGetDeviceCount\(\)(?![^\n]*out of memory)",
        r"Error: Torch not compiled with CUDA enabled|Error: Attempting to deserialize object on (?:a )?CUDA device",
        r"NVIDIA-SMI has failed because|Driver/library version mismatch|^No devices were found",
    ),
    lines("device_shared", r"Duplicate GPU detected"),
    lines(
        "cuda_error",
        # The kernel's own words on its assertion come before the exception that only tells of one.
        r"\bblock: \[[\d,]+\], thread: \[[\d,]+\] Assertion [^\n]*failed",
        r"\b(?:CUDA|HIP) error: (?!out of memory)",
        r"(?:\bcuDNN error|Error): CUDNN_STATUS_",
        r"\bCUDA_ERROR_(?:ILLEGAL|MISALIGNED|LAUNCH|ASSERT|INVALID_PC|HARDWARE)",
        r"\b(?:cuda|hip)Error(?:Illegal|Assert|LaunchFailure|MisalignedAddress|HardwareStackError)\w*",
        r"\b(?:an illegal memory access was encountered|device-side assert triggered)",
        r"\b(?:Test (?:CUDA|HIP) failure|Cuda failure|Failed: Cuda error)\b|\bCUDA RT call [^\n]* failed with ",
        r"\bCU(?:BLAS|SOLVER|SPARSE|FFT)_STATUS_(?:EXECUTION_FAILED|INTERNAL_ERROR|NOT_INITIALIZED|ARCH_MISMATCH)",
        r"\bcuda runtime error \(\d+\)|\berror == cudaSuccess \(\d+ vs\. 0\)",
        r"\bMemory access fault by GPU node|\bHSA_STATUS_ERROR|\bhipErrorNoBinaryForGpu",
    ),
)

# An exception of NCCL, with NCCL's name of it and the last error that NCCL saw, which may be empty.
_LAST_ERROR = (
    r"[^\n]*Last error: *\n(?:\[rank\d+\]: ?|\d{1,6}: |\[\d+,\d+\]<stderr>: ?)?"
    r"(?P<last>(?!Exception raised|terminate called|frame #|C\+\+|Traceback|\[rank)[^\n]*)"
)
# NCCL warns of these, and goes on without.
_NCCL_GOES_ON = (
    r"(?![^\n]*(?:[Cc]onnection closed by (?:remote )?peer|Failed to open lib|No device found|iommu=pt|NUMA auto balanc"
    r"|plugin|Could not find|MNNVL|[Ii]gnor|[Ff]all(?:ing)? ?back|not supported|disabl))"
)
# The network gave up on this rank's own transfer: what other ranks see follows from it.
GAVE_UP = r"[^\n]*(?:Got completion [^\n]*with (?:error|status)|\bibv_\w+ failed|Request completed with error)"
NCCL = (
    lines(
        "nccl_error",
        rf"\bNCCL WARN {GAVE_UP}",
        rf"(?P<a>NCCL error in: )[^\n]*\n[^\n]*?(?P<b>\bnccl[A-Z]\w+: )[^\n]*\n{_LAST_ERROR}",
        r"[Cc]aught collective operation timeout",
        r"(?P<is>\b\w+Error: \[\d+\] is setting up NCCL communicator)[^\n]*?(?P<got>got error: [^\n]*)",
        r"\bNCCL communicator was aborted",
    ),
    lines("nccl_error", rf"\bNCCL WARN {_NCCL_GOES_ON}"),
    lines(
        "nccl_error",
        r"\bNCCL error(?: in)?: [^\n]*\n[^\n]*?(?P<name>\bnccl[A-Z]\w+: [^\n]*)",
        r"\bNCCL error in: ",
        r"\bnccl(?:Remote|System|Internal|UnhandledCuda|InvalidUsage|InvalidArgument)\w*: ",
        r"\bnccl[A-Z]\w* failed",
        r"\|CCL_ERROR\| |\boneCCL: [^\n]*EXCEPTION: ",  # Intel's library
        r"\bNCCL (?:[Ee]rror|async error|failure)|\bNCCL operation [^\n]{1,200} failed",
        r"\bunhandled (?:cuda|system) error",
        r"\bDistBackendError: ",
        r"NCCL operations have failed or timed out|Received a dump signal due to a collective timeout",
        r"watchdog (?:thread terminated with exception|got stuck|thread got stuck)",
        r"\bNCCL WARN [^\n]*[Cc]onnection closed by (?:remote )?peer",
    ),
)
GLOO = (lines("gloo_error", r"gloo/transport/[^\n]*", r"Gloo connectFullMesh failed"),)

TORCHRUN_SIGNAL = (
    lines(
        "signal",
        first_failed("-(?!15 )"),
        r"^(?:host *: \S+ )?rank *: \d+ exitcode *: -(?!15 )\d+ \(pid: \d+\)",  # the same as one line
        r"\bexits with return code = -(?!15\b)\d+",  # DeepSpeed
    ),
    lines("signal", r"\bfailed \(exitcode: -(?!15\))\d+\)"),
)
# Exit code 1 may be that of a rank whose exception only follows from the end of another.
TORCHRUN_EXIT = (lines(LAUNCHER, first_failed("(?!1 )")),)
TORCHRUN = (
    lines(LAUNCHER, first_failed("-?")),
    lines(LAUNCHER, r"failed \(exitcode: -?\d+\) local_rank: \d+ \(pid: \d+\) of binary"),
    lines(LAUNCHER, rf"{RANK}\[rank: \d+\] Child process with PID \d+ terminated with code"),
)
