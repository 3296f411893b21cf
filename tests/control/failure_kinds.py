"""Reports of failing jobs by their kind, cut to the lines that matter; the source of each stands above it.

Each case is (class, a part of the line that says why, log). As in failure_lines.py, a case without a source follows
the messages of the programs named.
"""

from __future__ import annotations

RULE = "-" * 74 + "\n"

CONTAINERS = [
    # NVIDIA/pyxis issue 122
    ("launch", "nvidia-container-cli: ldcache error: process /sbin/ldconfig terminated with signal 11", """\
22: slurmstepd: error: pyxis: container start failed with error code: 1
22: slurmstepd: error: pyxis: printing enroot log file:
22: slurmstepd: error: pyxis:     /etc/enroot/hooks.d/10-shadow.sh: line 70: 3474706 Broken pipe             yes 2> /dev/null
22: slurmstepd: error: pyxis:          3474707 Segmentation fault      (core dumped) | pwck -R "${ENROOT_ROOTFS}" /etc/shadow > /dev/null 2>&1
22: slurmstepd: error: pyxis:     nvidia-container-cli: ldcache error: process /sbin/ldconfig terminated with signal 11
22: slurmstepd: error: pyxis: couldn't start container
22: slurmstepd: error: spank: required plugin spank_pyxis.so: task_init() failed with rc=-1
22: slurmstepd: error: Failed to invoke spank plugin stack
srun: error: n2: task 22: Exited with exit code 1
"""),
    # NVIDIA/pyxis issue 166
    ("launch", "etc/debian_version: permission denied", """\
slurmstepd: error: pyxis: container start failed with error code: 1
slurmstepd: error: pyxis: printing enroot log file:
slurmstepd: error: pyxis:   nvidia-container-cli: container error: file lookup failed: /proc/421042/root/fsx/enroot/data/user-1111/pyxis_x/etc/debian_version: permission denied
slurmstepd: error: pyxis:   [ERROR] /etc/enroot/hooks.d/98-nvidia.sh exited with return code 1
slurmstepd: error: pyxis: couldn't start container
slurmstepd: error: spank: required plugin spank_pyxis.so: task_init() failed with rc=-1
slurmstepd: error: Failed to invoke spank plugin stack
"""),
    # NVIDIA/pyxis issue 61: two tasks
    ("launch", "enroot-switchroot: failed to execute: /bin/bash: No such file or directory (2 ranks)", "".join(f"""\
{rank}: slurmstepd: error: pyxis: container start failed with error code: 1
{rank}: slurmstepd: error: pyxis: printing contents of log file ...
{rank}: slurmstepd: error: pyxis:     enroot-switchroot: failed to execute: /bin/bash: No such file or directory
{rank}: slurmstepd: error: pyxis: couldn't start container
{rank}: slurmstepd: error: pyxis: if the image has an unusual entrypoint, try using --no-container-entrypoint
{rank}: slurmstepd: error: spank: required plugin spank_pyxis.so: task_init() failed with rc=-1
{rank}: slurmstepd: error: Failed to invoke spank plugin stack
srun: error: hpc-pg0-{rank}: task {rank}: Exited with exit code 1
""" for rank in (0, 1))),
    # NVIDIA/pyxis issue 12
    ("launch", "mkdir: cannot create directory '/run/enroot': Permission denied", """\
slurmstepd: pyxis: importing docker image ...
slurmstepd: error: pyxis: child 12004 failed with error code: 1
slurmstepd: error: pyxis: failed to import docker image
slurmstepd: error: pyxis: printing contents of log file ...
slurmstepd: error: pyxis:     mkdir: cannot create directory '/run/enroot': Permission denied
slurmstepd: pyxis: could not remove squashfs: No such file or directory
slurmstepd: error: spank: required plugin spank_pyxis.so: task_init_privileged() failed with rc=-1
slurmstepd: error: spank_task_init_privileged failed
slurmstepd: error: write to unblock task 0 failed: Broken pipe
srun: error: vm-standard2-1-ad1-0001: task 0: Exited with exit code 1
"""),
    # NVIDIA/pyxis issue 127: enroot's log gives no reason
    ("launch", "pyxis: failed to import docker image", """\
pyxis: importing docker image: hello-world.sqsh
slurmstepd: error: pyxis: child 10028 failed with error code: 1
slurmstepd: error: pyxis: failed to import docker image
slurmstepd: error: pyxis: printing enroot log file:
slurmstepd: error: pyxis:     [INFO] Querying registry for permission grant
slurmstepd: error: pyxis:     [INFO] Authenticating with user: <anonymous>
slurmstepd: error: pyxis: couldn't start container
slurmstepd: error: spank: required plugin spank_pyxis.so: task_init() failed with rc=-1
slurmstepd: error: Failed to invoke spank plugin stack
"""),
    # NVIDIA/pyxis issues 172, 42, 37 and 78
    ("launch", 'a container with name "pyxis_nemo-25.07.gpt_oss" does not exist', 'slurmstepd: error: pyxis: error: a container with name "pyxis_nemo-25.07.gpt_oss" does not exist, and --container-image is not set\nslurmstepd: error: spank: required plugin spank_pyxis.so: task_init() failed with rc=-1\nslurmstepd: error: Failed to invoke spank plugin stack\n'),
    ("launch", "seccomp filter failed: Function not implemented", "slurmstepd: error: pyxis: seccomp filter failed: Function not implemented\nslurmstepd: error: pyxis: couldn't start container\nslurmstepd: error: Failed to invoke spank plugin stack\n"),
    ("launch", "enroot-nsenter: failed to create user namespace: Permission denied", "slurmstepd: error: pyxis: container start failed with error code: 1\nslurmstepd: error: pyxis:     enroot-nsenter: failed to create user namespace: Permission denied\nslurmstepd: error: pyxis: couldn't start container\n"),
    ("launch", "returned error code: 401 Unauthorized", "slurmstepd: error: pyxis:     [INFO] Fetching image manifest list\nslurmstepd: error: pyxis:     [ERROR] URL https://registry-1.docker.io/v2/library/x/manifests/latest returned error code: 401 Unauthorized\nslurmstepd: error: pyxis: couldn't start container\n"),
    # The form of Slurm 26.05: a time in place of slurmstepd's name.
    ("launch", "pyxis:     [ERROR] No such file or directory: /images/x.sqsh", "[2026-11-29T18:24:23.017] error: pyxis: child 4711 failed with error code: 1\n[2026-11-29T18:24:23.017] error: pyxis:     [ERROR] No such file or directory: /images/x.sqsh\n[2026-11-29T18:24:23.018] error: spank: required plugin spank_pyxis.so: task_init() failed with rc=-1\n"),
    # NVIDIA/pyxis issue 4
    ("launch", "task 0 launch failed: Plugin initialization failed", "srun: job 321 queued and waiting for resources\nsrun: job 321 has been allocated resources\nsrun: error: task 0 launch failed: Plugin initialization failed\n"),
    # apptainer/apptainer issues 949, 999 and 2121; wheaton5/souporcell issue 201; master_of_pores issue 119
    ("launch", "squashfuse_ll failed to mount", "FATAL:   container creation failed: mount hook function failure: mount image->/var/apptainer/mnt/session/rootfs error: while mounting image /proc/self/fd/3: squashfuse_ll failed to mount /var/apptainer/mnt/session/rootfs in 2s\n"),
    ("launch", "open /etc/resolv.conf: no such file or directory", "INFO:    Converting SIF file to temporary sandbox...\nFATAL:   while extracting Demuxafy.sif: root filesystem extraction failed: extract command failed: FATAL:   container creation failed: open /etc/resolv.conf: no such file or directory\n: exit status 255\n"),
    ("launch", "no loop devices available", "FATAL:   container creation failed: mount /proc/self/fd/3->/usr/local/var/singularity/mnt/session/rootfs error: while mounting image /proc/self/fd/3: failed to find loop device: could not attach image file to loop device: no loop devices available\n"),
    ("launch", "connection reset by peer", "INFO:    gocryptfs not found, will not be able to use gocryptfs\nFATAL:   container creation failed: while getting /proc/self/ns/user file descriptor: while requesting file descriptors send: read unix @->@: read: connection reset by peer\n"),
    ("launch", "could not open image /images/x.sif", "3: FATAL:   could not open image /images/x.sif: failed to retrieve path for /images/x.sif: lstat /images/x.sif: no such file or directory\nsrun: error: n1: task 3: Exited with exit code 255\n"),
    ("launch", '"python3": executable file not found in $PATH', 'WARNING: Could not find any nv files on this host!\nFATAL:   "python3": executable file not found in $PATH\n'),
    # cytomine/Cytomine-core-legacy issue 1196: the log has lost the escape character of its colours
    ("launch", "failed to mount squashfs filesystem: invalid argument", "[31mFATAL: [0m container creation failed: mount error: can't mount image /proc/self/fd/8: failed to mount squashfs filesystem: invalid argument\n"),
    ("launch", "Failed to create user namespace", "ERROR  : Failed to create user namespace: user namespace disabled\n"),
    ("launch", "could not select device driver", 'docker: Error response from daemon: could not select device driver "" with capabilities: [[gpu]].\n'),
    # An image that does not fit is the disk's.
    ("disk_full", "no space left on device", "FATAL:   While making image from oci registry: error fetching image to cache: write /tmp/build-temp/x: no space left on device\n"),
    # Warnings of containers in a run that failed of itself
    ("traceback", "ValueError: boom", "WARNING: underlay of /etc/localtime required more than 50 (83) bind mounts\nINFO:    squashfuse not found, will not be able to mount SIF or other squashfs files\nTraceback (most recent call last):\nValueError: boom\n"),
    ("traceback", "ValueError: boom", "pyxis: imported docker image: ubuntu\nValueError: boom\nslurmstepd: error: pyxis: couldn't cleanup pyxis containers for job 2\n"),
]  # fmt: skip

GPUS = [
    # XPixelGroup/BasicSR issue 737
    ("nccl_error", "[Rank 1] Watchdog caught collective operation timeout", "[rank1]:[E626 06:24:44.903881913 ProcessGroupNCCL.cpp:616] [Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=808, OpType=ALLREDUCE, NumelIn=9801523, NumelOut=9801523, Timeout(ms)=600000) ran for 600020 milliseconds before timing out.\n[rank1]:[E626 06:24:45.1 ProcessGroupNCCL.cpp:636] [Rank 1] To avoid data inconsistency, we are taking the entire process down.\n"),
    # ai2cm/ace issue 348: three ranks
    ("nccl_error", "before timing out. (3 ranks)", "".join(f"[E ProcessGroupNCCL.cpp:457] [Rank {rank}] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=1132079, OpType=ALLREDUCE, NumelIn=304640, NumelOut=304640, Timeout(ms)=1800000) ran for {ms} milliseconds before timing out.\n" for rank, ms in ((3, 1800035), (2, 1800558), (1, 1800946))) + "[E ProcessGroupNCCL.cpp:471] Some NCCL operations have failed or timed out. Due to the asynchronous nature of CUDA kernels, subsequent GPU operations might run on corrupted/incomplete data.\n"),
    # NVIDIA/nccl issues 2076 and 1247, pytorch/pytorch issue 149984: the last error may be empty
    ("nccl_error", "Call to recv from 172.16.0.2<33759> failed : Connection reset by peer", "torch.distributed.DistBackendError: NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.hpp:268, remote process exited or there was a network error, NCCL version 2.21.5\nncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely.\nLast error:\nsocketProgressOpt: Call to recv from 172.16.0.2<33759> failed : Connection reset by peer\n"),
    ("nccl_error", "Attribute busid of node nic not found", "(RayWorkerVllm pid=7602) ERROR 04-07 00:57:46 ray_utils.py:45] torch.distributed.DistBackendError: NCCL error in: /root/pytorch/torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:1333, internal error - please report this issue to the NCCL developers, NCCL version 2.18.6\n(RayWorkerVllm pid=7602) ERROR 04-07 00:57:46 ray_utils.py:45] ncclInternalError: Internal check failed.\n(RayWorkerVllm pid=7602) ERROR 04-07 00:57:46 ray_utils.py:45] Last error:\n(RayWorkerVllm pid=7602) ERROR 04-07 00:57:46 ray_utils.py:45] Attribute busid of node nic not found\n"),
    ("nccl_error", "ncclSystemError: System call (e.g. socket, malloc)", "Collective WorkNCCL(SeqNum=2, OpType=ALLREDUCE, NumelIn=1, NumelOut=1, Timeout(ms)=1000000) raised the following async exception: NCCL error: unhandled system error (run with NCCL_DEBUG=INFO for details), NCCL version 2.25.1\nncclSystemError: System call (e.g. socket, malloc) or external library call failed or device error. \nLast error:\n\nException raised from checkForNCCLErrorsInternal at /pytorch/torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:2501 (most recent call first):\nC++ CapturedTraceback:\n#4 std::_Function_handler<std::shared_ptr<c10::LazyValue<std::string > const> ()> from ??:0\n"),
    ("nccl_error", "got error: Connection reset by peer", "torch.distributed.DistBackendError: [1] is setting up NCCL communicator and retrieving ncclUniqueId from [0] via c10d key-value store by key '0', but store->get('0') got error: Connection reset by peer. This may indicate a possible application crash on rank 0 or a network set up issue.\n"),
    # karpathy/nanochat issue 554
    ("nccl_error", "watchdog got stuck for 480 seconds", "[rank6]:[E222 18:45:14.512389158 ProcessGroupNCCL.cpp:1858] [PG ID 0 PG GUID 0(default_pg) Rank 6] ProcessGroupNCCL's watchdog got stuck for 480 seconds without making progress in monitoring enqueued collectives.\n"),
    # NVIDIA/nccl issue 1235's form, with two ranks on one GPU
    ("device_shared", "Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 1b000", "torch.distributed.DistBackendError: NCCL error in: ../torch/csrc/distributed/c10d/NCCLUtils.hpp:219, invalid usage, NCCL version 2.18.1\nncclInvalidUsage: This usually reflects invalid usage of NCCL library.\nLast error:\nDuplicate GPU detected : rank 1 and rank 0 both on CUDA device 1b000\n"),
    # sgl-project/sglang issue 1693, pytorch/pytorch issue 113128: what() says why, no frame does
    ("nccl_error", "[Rank 5] Watchdog caught collective operation timeout", "terminate called after throwing an instance of 'c10::DistBackendError'\n  what():  [PG 3 Rank 5] Process group watchdog thread terminated with exception: [Rank 5] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=9141, OpType=_ALLGATHER_BASE, NumelIn=19008, NumelOut=152064, Timeout(ms)=600000) ran for 600020 milliseconds before timing out.\nException raised from checkTimeout at ../torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:609 (most recent call first):\nframe #0: c10::Error::Error(c10::SourceLocation, std::string) + 0x96 (0x7f3b6d41df86 in /usr/local/lib/python3.10/dist-packages/torch/lib/libc10.so)\nframe #4: <unknown function> + 0xd6df4 (0x7f3bca9d5df4 in /usr/lib/x86_64-linux-gnu/libstdc++.so.6)\n"),
    ("cuda_error", "CUDA error: an illegal memory access was encountered", "[rank0]:[E1107 10:11:12.1 ProcessGroupNCCL.cpp:915] [Rank 0] NCCL watchdog thread terminated with exception: CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be incorrect.\nterminate called after throwing an instance of 'std::runtime_error'\n"),
    # ultralytics/ultralytics issue 4728, DetectoRS issue 13
    ("cuda_error", "Assertion `t >= 0 && t < n_classes` failed.", "/pytorch/aten/src/ATen/native/cuda/Loss.cu:250: nll_loss_forward: block: [0,0,0], thread: [3,0,0] Assertion `t >= 0 && t < n_classes` failed.\n/pytorch/aten/src/ATen/native/cuda/Loss.cu:250: nll_loss_forward: block: [0,0,0], thread: [4,0,0] Assertion `t >= 0 && t < n_classes` failed.\nTraceback (most recent call last):\nRuntimeError: CUDA error: device-side assert triggered\n"),
    ("cuda_error", "copy_if failed to synchronize: device-side assert triggered", "RuntimeError: copy_if failed to synchronize: device-side assert triggered\nterminate called after throwing an instance of 'c10::Error'\n"),
    ("cuda_error", "CUBLAS_STATUS_EXECUTION_FAILED", "RuntimeError: CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx( handle, opa, opb, m, n, k)`\n"),
    # NVIDIA/open-gpu-kernel-modules issues 1150 and 446; the catalogue's forms
    ("node_failure", "caused by previous Xid 149", "n2 kernel: NVRM: Xid (PCI:0000:dc:00): 45, pid=1818990, name=python3, Ch 00000001 caused by previous Xid 149\nn2 kernel: NVRM: Xid (PCI:0000:ed:00): 45, pid=1818992, name=python3, Ch 0000000c caused by previous Xid 145\n"),
    ("node_failure", "119, pid=1365232, name=nvidia-smi, Timeout waiting for RPC from GSP!", "[Fri Mar  3 04:44:24 2023] NVRM: Xid (PCI:0000:61:00): 119, pid=1365232, name=nvidia-smi, Timeout waiting for RPC from GSP! Expected function 76 (GSP_RM_CONTROL) (0x20801348 0x410).\n"),
    ("node_failure", "149, NETIR_LINK_EVT  Fatal", "NVRM: Xid (PCI:0018:01:00): 149, NETIR_LINK_EVT  Fatal   XC0 i0 Link 17 (0x025001c6 0x00000000 0x00000000 0x00000000)\n"),
    ("node_failure", "145, RLW_REMAP Fatal", "n1 kernel: NVRM: Xid (PCI:0000:dc:00): 145, RLW_REMAP Fatal XC1 i0 Link -1 (0x00000024 0x00000040 0x00000000)\n"),
    ("node_failure", "to 0x2 (Node Reboot Required)", "NVRM: Xid (PCI:0000:dc:00): 154, GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)\n"),
    ("node_failure", "20034, Fatal", "nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 20034, Fatal, Link 36 LTSSM Fault Up\n"),
    ("node_failure", "Error 802: system not yet initialized", "RuntimeError: Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before calling NumCudaDevices() that might have already set an error? Error 802: system not yet initialized\n"),
    ("cuda_error", "Xid (PCI:0000:dc:00): 31", "n2 kernel: NVRM: Xid (PCI:0000:dc:00): 31, pid=1818990, name=python3, Ch 00000008, intr 00000000. MMU Fault: ENGINE GRAPHICS GPCCLIENT_T1_0 faulted @ 0x7f_2c000000\n"),
    # Events that end nothing
    ("traceback", "KeyError: 'x'", "NVRM: Xid (PCI:0000:dc:00): 63, pid=1, Row Remapper: New row marked for remapping\nNVRM: Xid (PCI:0018:01:00): 149, NETIR_LINK_EVT  Nonfatal   XC0 i0 Link 17 (0x0)\nNVRM: Xid (PCI:0000:dc:00): 154, GPU recovery action changed from 0x2 (Node Reboot Required) to 0x0 (None)\nKeyError: 'x'\n"),
    ("exit_code", "no such corpus", "n1:1:2 [0] net_ib.cc:1 NCCL WARN NET/IB : No device found.\nn1:1:2 [0] misc/ibvwrap.cc:68 NCCL WARN Failed to open libibverbs.so[.1]\nERROR: no such corpus\n"),
]  # fmt: skip

MPI = [
    # open-mpi/ompi issue 10940
    ("mpi_error", "OMPI was not built with SLURM's PMI support and therefore cannot execute.", f"""\
[n1:94018] PMIX ERROR: NOT-FOUND in file ptl_usock.c at line 175
[n1:94018] OPAL ERROR: Unreachable in file pmix3x_client.c at line 112
{RULE}The application appears to have been direct launched using "srun",
but OMPI was not built with SLURM's PMI support and therefore cannot
execute. There are several options for building PMI support under
SLURM, depending upon the SLURM version you are using:
{RULE}*** An error occurred in MPI_Init_thread
*** on a NULL communicator
*** MPI_ERRORS_ARE_FATAL (processes in this communicator will now abort,
***    and potentially your MPI job)
[n1:94018] Local abort before MPI_INIT completed completed successfully, but am not able to aggregate error messages, and not able to guarantee that all other processes were killed!
srun: error: n1: task 0: Exited with exit code 1
"""),
    # open-mpi/ompi pull request 8090
    ("mpi_error", 'failed for some reason --> Returned "Not found" (-13) instead of "Success" (0)', f"""\
{RULE}It looks like MPI runtime init failed for some reason; your parallel process is
likely to abort.  There are many reasons that a parallel process can
fail during RTE init; some of which are due to configuration or environment
problems.  This failure appears to be an internal failure; here's some
additional information (which may only be relevant to an Open MPI
developer):

  node rank
  --> Returned "Not found" (-13) instead of "Success" (0)
{RULE}"""),
    # open-mpi/ompi issues 7768 and 11669, openucx/ucx issue 4224
    ("mpi_error", "UCP worker does not support MPI_THREAD_MULTIPLE", f"[n1:14245] pml_ucx.c:285  Error: UCP worker does not support MPI_THREAD_MULTIPLE\n{RULE}No components were able to be opened in the pml framework.\n\nThis typically means that either no components of this type were\ninstalled, or none of the installed components can be loaded.\n"),
    ("mpi_error", "No components were able to be opened in the pml framework.", f"{RULE}No components were able to be opened in the pml framework.\n\nThis typically means that either no components of this type were\ninstalled, or none of the installed components can be loaded.\n\n  Host:      cn557\n  Framework: pml\n{RULE}[cn557:1724353] PML ucx cannot be selected\n"),
    ("mpi_error", "MPI_INIT has failed because at least one MPI process is unreachable from another.", f"[ndv2-1:25388] [[64574,1],8] selected pml cm, but peer [[64574,1],0] on ndv2-1 selected pml ucx\n{RULE}MPI_INIT has failed because at least one MPI process is unreachable\nfrom another.  This *usually* means that an underlying communication\nplugin -- such as a BTL or an MTL -- has either not loaded or not\nallowed itself to be used.\n{RULE}"),
    # openucx/ucx issue 8440
    ("mpi_error", "mlx5dv_devx_create_event_channel() failed: Protocol not supported", "[1660872656.762297] [node001:41717:0]      ucp_worker.c:1956 UCX  INFO    ep_cfg[3]: tag(rc_mlx5/mlx5_1:1)\n[1660872656.7] [node001:41717:0]   ib_mlx5dv_md.c:379  UCX  ERROR mlx5dv_devx_create_event_channel() failed: Protocol not supported\n"),
    # openpmix/openpmix issue 3320
    ("mpi_error", "Bad request from owl2", 'slurmstepd: error:  mpi/pmix_v5: _dmdx_req: owl1 [0]: pmixp_dmdx.c:319: Bad request from owl2: nspace "slurm.pmix.5257.0" has only 2 ranks, asked for -1\n'),
    # Intel MPI and MPICH
    ("mpi_error", "PMI server not found", "MPI startup(): PMI server not found. Please set I_MPI_PMI_LIBRARY variable if it is not a singleton case.\n"),
    ("mpi_error", "Fatal error in PMPI_Init_thread", "Abort(1090831) on node 0 (rank 0 in comm 0): Fatal error in PMPI_Init_thread: Other MPI error, error stack:\nMPIR_Init_thread(143)........: \nMPID_Init(1310)..............: \n"),
    # What PMIx prints when a rank ends, and in runs that end well
    ("traceback", "ValueError: boom", "[n1:1] PMIX ERROR: ERROR in file gds_ds12_lock_pthread.c at line 168\nValueError: boom\nslurmstepd: error:  mpi/pmix_v3: _errhandler: n1 [0]: pmixp_client_v2.c:211: Error handler invoked: status = -25, source = [slurm.pmix.1.0:1]\n"),
    ("exit_code", "no such corpus", "[n1:1] PMIX ERROR: ERROR in file gds_ds12_lock_pthread.c at line 168\nERROR: no such corpus\nsrun: error: n1: task 0: Exited with exit code 3\n"),
    ("exit_code", "no such corpus", f"{RULE}WARNING: No preset parameters were found for the device that Open MPI\ndetected:\n\n  Local host:            n1\n{RULE}ERROR: no such corpus\n"),
]  # fmt: skip

PROGRAMS = [
    # TensorFlow 2.15, XLA
    ("signal", "Check failed: mlir::succeeded(mlir::verify(*triton_module))", "F0000 00:00:1779864880.712673  279348 ir_emitter_triton.cc:1672] Check failed: mlir::succeeded(mlir::verify(*triton_module)) \n*** Check failure stack trace: ***\n    @     0x7f006690d8a4  absl::lts_20230125::log_internal::LogMessage::SendToLog()\n"),
    ("signal", "Check failed: status == xla::OkStatus()", "2023-05-05 11:11:11.1: F tensorflow/compiler/xla/stream_executor/x.cc:43] Check failed: status == xla::OkStatus() (INTERNAL: x vs. OK)\nAborted (core dumped)\n"),
    ("signal", "what(): basic_string::_M_create", "terminate called after throwing an instance of 'std::length_error'\n  what():  basic_string::_M_create\n[n1:1] *** Process received signal ***\n[n1:1] Signal: Aborted (6)\n[n1:1] [ 0] /lib/x86_64-linux-gnu/libc.so.6(+0x3c050)[0x7f83b245a050]\n"),
    ("signal", "Caught signal 11 (Segmentation fault", "[n1:41717:0:41717] Caught signal 11 (Segmentation fault: address not mapped to object at address 0x10)\n==== backtrace (tid:  41717) ====\n 3  /opt/hpcx/ucx/lib/libucp.so.0(ucp_wireup_init_lanes+0x3c9) [0x7f38ba7775f9]\n"),
    # Exceptions of the standard library whose names are in lower case
    ("traceback", "struct.error: unpack requires a buffer of 4 bytes", 'Traceback (most recent call last):\n  File "t.py", line 3, in <module>\n    struct.unpack("i", b"")\nstruct.error: unpack requires a buffer of 4 bytes\n'),
    ("traceback", "socket.gaierror: [Errno -2] Name or service not known", "2: socket.gaierror: [Errno -2] Name or service not known\n"),
    ("traceback", "_queue.Empty", 'Traceback (most recent call last):\n  File "t.py", line 3, in <module>\n    q.get(timeout=5)\n_queue.Empty\n'),
    ("traceback", "RendezvousTimeoutError", "torch.distributed.elastic.rendezvous.api.RendezvousTimeoutError\n"),
    ("traceback", "ValueError: boom", "worker-1: Traceback (most recent call last):\nworker-1: ValueError: boom\n"),
    # Slurm's words for both versions of cgroups, and the kernel's: nextflow issue 5932, PyBNF issue 118
    ("out_of_memory", "Detected 1 oom_kill event in StepId=11300781.0.", "slurmstepd: error: Detected 1 oom_kill event in StepId=11300781.0. Some of the step tasks have been OOM Killed.\nsrun: error: sdumont6156: task 0: Out Of Memory\n"),
    ("out_of_memory", "Detected 2 oom-kill event(s) in step 3756240.batch cgroup", "slurmstepd: error: Detected 2 oom-kill event(s) in step 3756240.batch cgroup.\n"),
    ("out_of_memory", "Memory cgroup out of memory: Killed process 4711 (python3)", "n1 kernel: Memory cgroup out of memory: Killed process 4711 (python3) total-vm:91GB, anon-rss:66GB\n"),
    ("traceback", "ValueError: boom", "memory.oom_control: oom_kill_disable 0 under_oom 0 oom_kill 0\nValueError: boom\n"),
    # Credentials
    ("credential", 'Munge encode failed: Failed to access "/run/munge/munge.socket.2"', 'srun: error: Munge encode failed: Failed to access "/run/munge/munge.socket.2": No such file or directory\nsrun: error: If munged is up, restart with --num-threads=10\nsrun: error: Unable to allocate resources: Invalid authentication credential\n'),
    ("credential", "Expired credential", "srun: error: Munge decode failed: Expired credential\nsrun: error: authentication: Expired credential\n"),
    ("credential", "401 Client Error: Unauthorized", "requests.exceptions.HTTPError: 401 Client Error: Unauthorized for url: https://huggingface.co/x/resolve/main/config.json\n"),
    ("credential", "api_key not configured", "wandb.errors.UsageError: api_key not configured (no-tty). call wandb.login(key=[your_api_key])\n"),
    ("credential", "Unable to locate credentials", "botocore.exceptions.NoCredentialsError: Unable to locate credentials\n"),
    # File systems and quotas
    ("file_system", "[Errno 116] Stale file handle", "[rank3]: OSError: [Errno 116] Stale file handle: '/scratch/x/train.bin'\n"),
    ("file_system", "[Errno 5] Input/output error", "OSError: [Errno 5] Input/output error\n"),
    ("file_system", "[Errno 30] Read-only file system", "OSError: [Errno 30] Read-only file system: '/home/x/.cache'\n"),
    ("file_system", "Cannot send after transport endpoint shutdown", "cat: /lustre/x: Cannot send after transport endpoint shutdown\n"),
    ("disk_full", "Disk quota exceeded", "cp: error writing '/home/x/ckpt.pt': Disk quota exceeded\n"),
    ("disk_full", "user quota exceeded", "RuntimeError: cannot write checkpoint: user quota exceeded\n"),
    # Warnings before another cause
    ("traceback", "KeyError: 'labels'", "WARNING: could not write cache /home/x: [Errno 30] Read-only file system, continuing without\nKeyError: 'labels'\n"),
    ("traceback", "KeyError: 'labels'", "UserWarning: can't initialize NVML: Cannot allocate memory\nKeyError: 'labels'\n"),
]  # fmt: skip

KINDS: list[tuple[str, str, str]] = [*CONTAINERS, *GPUS, *MPI, *PROGRAMS]
