"""The classes of failure: what each means, and what to do about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from hpcjobs.base.contract import ErrorCode


@dataclasses.dataclass(frozen=True)
class FailureClass:
    """What a class of failure means, and what to do about it, in one line each."""

    meaning: str
    hint: str


FAILURE_CLASSES: Mapping[str, FailureClass] = {
    ErrorCode.DATA_MISSING: FailureClass(
        "data.dir, its dataset.json or a shard does not exist",
        "make the shards with `hpcjobs data prepare`, or correct data.dir",
    ),
    ErrorCode.DATA_MISMATCH: FailureClass(
        "the shards have another format, class order or image size than the trainer reads",
        "prepare the data again with `hpcjobs data prepare`",
    ),
    ErrorCode.DATA_TOO_SMALL: FailureClass(
        "the data have fewer images than one step, or all steps, of the run need",
        "use a smaller batch, more data, or data.repeat=true",
    ),
    ErrorCode.DATA_DAMAGED: FailureClass(
        "a record of a shard cannot be read; the log names the shard and the record",
        "make the damaged shard again with `hpcjobs data prepare`",
    ),
    ErrorCode.WEIGHTS_MISSING: FailureClass(
        "the file of model.weights is not on the node, or does not fit the model",
        "fetch the weights on a login node, or set model.weights=none",
    ),
    ErrorCode.DEVICE_MISSING: FailureClass(
        "the framework finds no GPU, or not the one that it asks for",
        "check the profile's GPU request and the node's driver",
    ),
    ErrorCode.DEVICE_SHARED: FailureClass(
        "two ranks were given the same GPU",
        "check how the site binds GPUs to tasks",
    ),
    ErrorCode.HOST_MEMORY: FailureClass(
        "the node has too little memory: for data.cache, or for an allocation that failed",
        "ask for more memory, or set data.cache=none",
    ),
    ErrorCode.DEVICE_MEMORY: FailureClass(
        "the GPU has too little memory",
        "use a smaller batch, batch.passes=2, or train.precision=mixed_float16",
    ),
    ErrorCode.HOROVOD_BUILD: FailureClass(
        "Horovod was built without something that the run needs, such as NCCL",
        "build Horovod with HOROVOD_GPU_OPERATIONS=NCCL; `horovodrun --check-build` shows what it has",
    ),
    ErrorCode.STALLED: FailureClass(
        "a rank finished no step and no batch of an evaluation for train.stall_s seconds",
        "look at the node that is named and at stacks-rNNN.txt; train.stall_s sets how long ranks wait",
    ),
    ErrorCode.NAN_LOSS: FailureClass(
        "the loss was infinite or not a number",
        "lower lr.base, or check the data with `hpcjobs data verify`",
    ),
    ErrorCode.RUN_YAML: FailureClass(
        "run.yaml does not match the ranks that were started",
        "the launcher started another number of ranks than run.yaml plans: check `launcher` and `launcher_options`",
    ),
    "timeout": FailureClass(
        "the job reached its time limit and wrote no checkpoint",
        "ask for more time (`time` in the profile) or fewer steps",
    ),
    "reservation_ended": FailureClass(
        "the reservation of the job ended before it did; Slurm gives no warning of that",
        "resume with a longer reservation, or ask for a `time` that ends before it",
    ),
    "deadline": FailureClass(
        "the job's --deadline passed before it ended",
        "remove --deadline from the profile's `sbatch`",
    ),
    "out_of_memory": FailureClass(
        "Slurm or the kernel killed it because it used too much memory",
        "ask for more memory (`mem_per_gpu_mib` in the profile), or set data.cache=none",
    ),
    "node_failure": FailureClass(
        "a node failed or was lost, or a part of its hardware failed",
        "the node failed; try again",
    ),
    "boot_failure": FailureClass(
        "Slurm could not boot the job's nodes",
        "the nodes did not boot; try again",
    ),
    "preempted": FailureClass(
        "another job took its nodes, or Slurm put it back into its queue",
        "the job was preempted; try again",
    ),
    "revoked": FailureClass(
        "another cluster of the federation started the job",
        "look for the job on the other clusters of the federation",
    ),
    "interrupted": FailureClass(
        "a signal asked it to end (time limit, SIGTERM), and it wrote a checkpoint",
        "run it again: it continues from its checkpoint",
    ),
    "disk_full": FailureClass(
        "a disk or a quota is full",
        "free disk space or quota: in the sweep's folder, or in /tmp and /dev/shm on the nodes",
    ),
    "file_system": FailureClass(
        "a file system failed: a stale handle, an input or output error, or it is mounted read-only",
        "look at the file system that the line names, on the run's nodes; `exclude` in the profile leaves a node out",
    ),
    "credential": FailureClass(
        "a credential is missing, wrong or expired, or gives no access: of Munge, of ssh, of a file system, or of a "
        "service that the command asks",
        "renew the credential that the line names, such as a token or a Kerberos ticket; with Munge's, "
        "the clocks and the key of the nodes must agree",
    ),
    "launch": FailureClass(
        "the launcher, its plugin or the container failed before Python started",
        "no rank started: check `launcher`, `mpi_plugin`, `launcher_options`, `container`, `modules` and `python` in "
        "the profile",
    ),
    "run_as_root": FailureClass(
        "Open MPI starts nothing as root",
        "submit as another user, or set OMPI_ALLOW_RUN_AS_ROOT=1 and OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 in `env` of the "
        "profile",
    ),
    "module_missing": FailureClass(
        "an environment module of the profile cannot be loaded",
        "compare `modules` in the profile with `module avail` on a node",
    ),
    "workdir_missing": FailureClass(
        "a node of the run cannot enter the command's workdir",
        "give a workdir that compute nodes see, and mount it into the container if there is one",
    ),
    "import_error": FailureClass(
        "Python cannot find a module or a shared library",
        "check `python` and `modules` in the profile: a library is missing on the nodes",
    ),
    "nccl_error": FailureClass(
        "NCCL (or Intel's oneCCL) failed, and no rank gave another reason",
        "see the run's job.log; `env` in the profile can name the network (NCCL_SOCKET_IFNAME, NCCL_IB_HCA)",
    ),
    "gloo_error": FailureClass(
        "PyTorch's gloo lost another rank or found no way to it, and no rank gave another reason",
        "see the run's job.log; `env` in the profile can name the network (GLOO_SOCKET_IFNAME)",
    ),
    "cuda_error": FailureClass(
        "CUDA, HIP or cuDNN reported an error of the program or of a GPU",
        "see the run's job.log; CUDA_LAUNCH_BLOCKING=1 in `env` makes it name the operation",
    ),
    "shared_memory": FailureClass(
        "the processes that load data ran out of shared memory (/dev/shm)",
        "give the node or the container a larger /dev/shm, or load data with fewer workers",
    ),
    "mpi_error": FailureClass(
        "MPI did not start or failed, and no rank gave another reason",
        "see the run's job.log; the launcher must belong to the MPI that Horovod was built with",
    ),
    "no_measurement": FailureClass(
        "the exit code is 0, but the log has no timed window",
        "the run ended well but timed no window: see its train.log",
    ),
    "traceback": FailureClass(
        "a Python exception of no other class",
        "see the run's job.log",
    ),
    "signal": FailureClass(
        "a signal ended a process, or it aborted itself, and no line of the log gives another reason",
        "if the line names a check, an assertion or a panic, the program or a library of it ended itself: see the "
        "run's job.log; if a process was only killed, the node may have had no memory left",
    ),
    "exit_code": FailureClass(
        "the exit code is not 0, and no line of the log gives a reason",
        "see the run's job.log",
    ),
    "lost": FailureClass(
        "neither Slurm nor a file of the run says how it ended",
        "the scheduler no longer knows the job, and it left no exit.json: its node may have failed",
    ),
}
