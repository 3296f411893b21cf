"""What launchers, libraries and Slurm print when a run fails, as they printed it.

Each case is (class, a part of the line that says why, log). Where a log is not from runs on the virtual cluster
(Slurm 22.05.8, Open MPI 4.1.4, Horovod 0.28.1, TensorFlow 2.15.1), its source stands above it.
"""

from __future__ import annotations

TIME_LIMIT = """\
srun: Job step aborted: Waiting up to 12 seconds for job step to finish.
slurmstepd-c4140-1: error: *** JOB 6 ON c4140-1 CANCELLED AT 2026-11-25T14:23:21 DUE TO TIME LIMIT ***
srun: got SIGCONT
slurmstepd-c4140-1: error: *** STEP 6.0 ON c4140-1 CANCELLED AT 2026-11-25T14:23:21 DUE TO TIME LIMIT ***
srun: forcing job termination
srun: error: c4140-1: task 0: Terminated
"""
# A reservation of 40 s with a job of 10 min.
RESERVATION = """\
slurmstepd-c4140-1: error: *** JOB 19 ON c4140-1 CANCELLED AT 2026-11-30T14:06:45 DUE TO TIME LIMIT ***
slurmstepd-c4140-1: error: *** REASON: Reservation day, which this job was running under, has ended ***
Terminated
"""
# Memory control groups of version 1 (task/cgroup, ConstrainRAMSpace=yes): of a step of srun, and of mpirun in the script.
CGROUP_STEP = """\
srun: error: c4140-1: task 0: Out Of Memory
srun: launch/slurm: _step_signal: Terminating StepId=8.0
slurmstepd-c4140-1: error: Detected 1 oom-kill event(s) in StepId=8.0. Some of your processes may have been killed by the cgroup out-of-memory handler.
"""
CGROUP_BATCH = """\
mpirun noticed that process rank 0 with PID 729 on node c4140-1 exited on signal 9 (Killed).
slurmstepd-c4140-1: error: Detected 1 oom-kill event(s) in StepId=10.batch. Some of your processes may have been killed by the cgroup out-of-memory handler.
"""
OVER_MEMORY = """\
slurmstepd-c4140-1: error: StepId=2.0 exceeded memory limit (642895872 > 209715200), being killed
slurmstepd-c4140-1: error: Exceeded job memory limit
slurmstepd-c4140-1: error: *** STEP 2.0 ON c4140-1 CANCELLED AT 2026-11-25T14:22:04 ***
srun: Job step aborted: Waiting up to 12 seconds for job step to finish.
srun: error: c4140-1: task 0: Killed
"""
PEER_GONE = """\
--------------------------------------------------------------------------
An MPI communication peer process has unexpectedly disconnected.  This
usually indicates a failure in the peer process (e.g., a crash or
otherwise exiting without calling MPI_FINALIZE first).

Although this local MPI process will likely now behave unpredictably
(it may even hang or crash), the root cause of this problem is the
failure of the peer -- that is what you need to investigate.  For
example, there may be a core file that you can examine.  More
generally: such peer hangups are frequently caused by application bugs
or other external events.

  Local host: c4140-2
  Local PID:  21492
  Peer host:  c4140-3
--------------------------------------------------------------------------
"""
PRIMARY_JOB = """\
--------------------------------------------------------------------------
Primary job  terminated normally, but 1 process returned
a non-zero exit code. Per user-direction, the job has been aborted.
--------------------------------------------------------------------------
"""
SRUN_ENDS_ALL = """\
srun: error: c4140-3: task 1: Exited with exit code 1
srun: launch/slurm: _step_signal: Terminating StepId=16.3
slurmstepd-c4140-2: error: *** STEP 16.3 ON c4140-2 CANCELLED AT 2026-11-25T14:29:38 ***
srun: error: c4140-2: task 0: Killed
"""
HOROVOD_SHUT_DOWN = """\
Traceback (most recent call last):
  File "/tmp/hvd.py", line 14, in <module>
    hvd.allreduce(tf.ones(4),name=f"a{i}")
tensorflow.python.framework.errors_impl.UnknownError: {{function_node __wrapped__HorovodAllreduce_device_/job:localhost/replica:0/task:0/device:CPU:0}} Horovod has been shut down. This was caused by an exception on one of the ranks or an attempt to allreduce, allgather or broadcast a tensor after one of the ranks finished execution.
"""
TF_TRIES_AGAIN = """\
2021-08-31 08:43:31.591671: I tensorflow/stream_executor/cuda/cuda_driver.cc:789] failed to allocate 3.81G (4087755776 bytes) from device: CUDA_ERROR_OUT_OF_MEMORY: out of memory
"""
MPIRUN_SEGV = """\
[c4140-2:16553] *** Process received signal ***
[c4140-2:16553] Signal: Segmentation fault (11)
[c4140-2:16553] Failing at address: 0x40a9
[c4140-2:16553] [ 0] /lib/x86_64-linux-gnu/libc.so.6(+0x3c050)[0x7f83b245a050]
[c4140-2:16553] *** End of error message ***
"""

# The next ones are from PyTorch 2.13 on two ranks with gloo, started by torchrun; shortened.
GLOO_CLOSED = """\
[rank0]: Traceback (most recent call last):
[rank0]:   File "/tmp/t.py", line 8, in main
[rank0]:     t=torch.ones(4); dist.all_reduce(t)
[rank0]:                      ^^^^^^^^^^^^^^^^^^
[rank0]: RuntimeError: [/__w/pytorch/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:28591. This is typically caused by a remote worker crashing. Check the logs of the remote worker before reporting an error.
"""
TORCHRUN = """\
W1129 23:10:20.340000 875 torch/distributed/elastic/multiprocessing/api.py:1028] Sending process 882 closing signal SIGTERM
E1129 23:10:20.353000 875 torch/distributed/elastic/multiprocessing/api.py:1002] failed (exitcode: {code}) local_rank: 1 (pid: 883) of binary: /usr/bin/python
Traceback (most recent call last):
  File "/usr/lib/python3/site-packages/torch/distributed/launcher/api.py", line 317, in launch_agent
    raise ChildFailedError(
torch.distributed.elastic.multiprocessing.errors.ChildFailedError: 
=====================================================
t.py FAILED
-----------------------------------------------------
Failures:
[1]:
  time      : 2026-11-29_23:10:20
  host      : n1
  rank      : 0 (local_rank: 0)
  exitcode  : -15 (pid: 882)  (SIGTERM)
  error_file: <N/A>
  traceback : Signal 15 (SIGTERM) received by PID 882
-----------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-11-29_23:10:20
  host      : n1
  rank      : 1 (local_rank: 1)
  exitcode  : {code} (pid: 883) {name}
  error_file: <N/A>
  traceback : {why}
=====================================================
"""
TORCHRUN_KILLED = TORCHRUN.format(code=-9, name=" (SIGKILL)", why="Signal 9 (SIGKILL) received by PID 883")
_SEE = "To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html"
TORCHRUN_FAILED = TORCHRUN.format(code=1, name="", why=_SEE)
TORCHRUN_EXITED = TORCHRUN.format(code=3, name="", why=_SEE)
WATCHDOG = """\
[rank1]:[E626 06:24:44.903881913 ProcessGroupNCCL.cpp:616] [Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=808, OpType=ALLREDUCE, NumelIn=9801523, NumelOut=9801523, Timeout(ms)=600000) ran for 600020 milliseconds before timing out.
[rank1]:[E626 06:24:44.906457629 ProcessGroupNCCL.cpp:1785] [PG ID 0 PG GUID 0(default_pg) Rank 1] Exception (either an error or timeout) detected by watchdog at work: 808, last enqueued NCCL work: 811, last completed NCCL work: 807.
[rank1]:[E626 06:24:45.1 ProcessGroupNCCL.cpp:636] [Rank 1] To avoid data inconsistency, we are taking the entire process down.
"""
NCCL_REMOTE = """\
[rank3]: Traceback (most recent call last):
[rank3]: torch.distributed.DistBackendError: NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.hpp:268, remote process exited or there was a network error, NCCL version 2.21.5
[rank3]: ncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely.
[rank3]: Last error:
[rank3]: socketProgressOpt: Call to recv from 172.16.0.2<33759> failed : Connection reset by peer
"""

LINES: list[tuple[str, str, str]] = [
    ("timeout", "JOB 6 ON c4140-1 CANCELLED AT 2026-11-25T14:23:21 DUE TO TIME LIMIT", TIME_LIMIT),
    ("reservation_ended", "REASON: Reservation day, which this job was running under, has ended", RESERVATION),
    ("out_of_memory", "srun: error: c4140-1: task 0: Out Of Memory", CGROUP_STEP),
    ("out_of_memory", "oom-kill event(s) in StepId=10.batch", CGROUP_BATCH),
    # the texts of slurmstepd 22.05; a node that fails prints nothing
    ("node_failure", "DUE TO NODE FAILURE", "slurmstepd: error: *** JOB 12 ON c4140-2 CANCELLED AT 2026-11-25T14:22:04 DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS ***\n"),
    ("node_failure", "srun: error: Node failure on c4140-3", "srun: error: Node failure on c4140-3\nsrun: Job step aborted: Waiting up to 12 seconds for job step to finish.\nsrun: error: c4140-2: task 0: Killed\n"),
    # open-mpi/ompi issue 11830
    ("node_failure", "ORTE has lost communication with a remote daemon Remote daemon: [[32679,0],1] on node queue-1",
     "ORTE has lost communication with a remote daemon.\n\n  HNP daemon   : [[32679,0],0] on node ip-172-31-45-184\n  Remote daemon: [[32679,0],1] on node queue-1\n\nThis is usually due to either a failure of the TCP network\n"),
    # aws/aws-parallelcluster issues 301 and 4179
    ("node_failure", "daemon located on node: hostname: ip-10-15-20-17.ec2.internal", " ORTE has lost communication with its daemon located on node:\n\n   hostname:  ip-10-15-20-17.ec2.internal\n\n This is usually due to\n"),
    ("node_failure", "failed on node compute-33: Socket timed out", "srun: error: Task launch for StepId=20.0 failed on node compute-33: Socket timed out on send/recv operation\nsrun: error: Application launch failed: Socket timed out on send/recv operation\n"),
    # nagadit/DeepFaceLab_Linux issue 89; the kernel's by NVIDIA's list of Xid errors
    ("node_failure", "CUDA_ERROR_ECC_UNCORRECTABLE", "Internal: failed call to cuDevicePrimaryCtxRetain: CUDA_ERROR_ECC_UNCORRECTABLE: uncorrectable ECC error encountered\nRuntimeError: it is over\n"),
    ("node_failure", "fallen off the bus", "Nov 25 12:00:00 c4140-3 kernel: NVRM: Xid (PCI:0000:dc:00): 79, pid=1818990, GPU has fallen off the bus.\n"),
    ("traceback", "ValueError: boom", "Nov 25 12:00:00 c4140-3 kernel: NVRM: Xid (PCI:0000:dc:00): 31, pid=1818990, name=python3\nValueError: boom\n"),
    # SystemsGenetics/GEMmaker pull request 242
    ("preempted", "DUE TO PREEMPTION", "slurmstepd: error: *** JOB 32391783 ON cn119 CANCELLED AT 2021-06-18T13:05:36 DUE TO PREEMPTION ***\n"),
    ("out_of_memory", "StepId=2.0 exceeded memory limit (642895872 > 209715200), being killed", OVER_MEMORY),
    # hafs-community/HAFS issue 101, chrisknewman/tusas issue 149, ArjunaCluster/ArjunaUsers issue 52
    ("out_of_memory", "Detected 1 oom-kill event(s)", "slurmstepd: error: Detected 1 oom-kill event(s) in step 3495064.0 cgroup. Some of your processes may have been killed by the cgroup out-of-memory handler.\nsrun: error: Orion-01-01: task 4: Out Of Memory\nsrun: Terminating job step 3495064.0\n"),
    ("out_of_memory", "nid001277: tasks 1-3: Out Of Memory", "srun: error: nid001277: tasks 1-3: Out Of Memory\nsrun: Terminating StepId=440575.0\nslurmstepd: error: *** STEP 440575.0 ON nid001277 CANCELLED AT 2023-12-05T07:16:01 ***\n"),
    ("out_of_memory", "oom-kill", "/var/spool/slurmd/job00191/slurm_script: line 28:  8156 Killed                  python3 main.py --prop hform\nslurmstepd: error: Detected 1 oom-kill event(s) in StepId=191.batch cgroup. Some of your processes may have been killed by the cgroup out-of-memory handler.\n"),
    ("host_memory", "MemoryError", "MemoryError\n" + HOROVOD_SHUT_DOWN + SRUN_ENDS_ALL),
    ("host_memory", "Unable to allocate 29.8 GiB", "numpy.core._exceptions._ArrayMemoryError: Unable to allocate 29.8 GiB for an array with shape (4000000000,) and data type float64\n"),
    ("host_memory", "std::bad_alloc", "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc\n" + MPIRUN_SEGV.replace("Segmentation fault (11)", "Aborted (6)")),
    ("host_memory", "OOM when allocating", "tensorflow.python.framework.errors_impl.ResourceExhaustedError: {{function_node __wrapped__Fill_device_/job:localhost/replica:0/task:0/device:CPU:0}} OOM when allocating tensor with shape[1048576,1048576,100] and type float on /job:localhost/replica:0/task:0/device:CPU:0 by allocator mklcpu [Op:Fill] name: \n" + HOROVOD_SHUT_DOWN),
    # horovod/horovod issue 1152
    ("device_memory", "OOM when allocating tensor with shape[2,1023,50257]", "[1,1]<stderr>:2019-06-17 17:13:42.247944: W tensorflow/core/framework/op_kernel.cc:1273] OP_REQUIRES failed at strided_slice_op.cc:139 : Resource exhausted: OOM when allocating tensor with shape[2,1023,50257] and type float on /job:localhost/replica:0/task:0/device:GPU:0 by allocator GPU_0_bfc\n[1,1]<stderr>:Traceback (most recent call last):\n[1,0]<stderr>:" + HOROVOD_SHUT_DOWN.splitlines()[-1] + "\n"),
    # TensorFlow's XLA; NCCL's message if TensorFlow has filled the GPU
    ("device_memory", "RESOURCE_EXHAUSTED: Out of memory", "2023-05-05 11:11:11.1: E tensorflow/compiler/xla/stream_executor] RESOURCE_EXHAUSTED: Out of memory while trying to allocate 13421772800 bytes.\n"),
    ("device_memory", "Cuda failure 'out of memory'", "c4140-1:4242:4711 [0] include/alloc.h:48 NCCL WARN Cuda failure 'out of memory'\n"),
    ("device_memory", "CUDA_ERROR_OUT_OF_MEMORY", TF_TRIES_AGAIN + "tensorflow.python.framework.errors_impl.UnknownError: ncclCommInitRank failed: unhandled cuda error\n"),
    # dpgen issue 528: TensorFlow asks for less memory and continues
    ("traceback", "ValueError: boom", TF_TRIES_AGAIN + "ValueError: boom\n"),
    ("disk_full", "[Errno 28] No space left on device", "OSError: [Errno 28] No space left on device\n" + HOROVOD_SHUT_DOWN),
    ("disk_full", "[Errno 28] Unable to synchronously create file", "OSError: [Errno 28] Unable to synchronously create file (file write failed: time = Wed Nov 25 14:29:18 2026\n, filename = '/tmp/z.h5', file descriptor = 3, errno = 28, error message = 'No space left on device')\n"),
    # keras-team/keras-tuner issue 390, open-mmlab/mmdetection issue 12069: TensorFlow also calls that exhausted
    ("disk_full", "disk quota exceeded", "tensorflow.python.framework.errors_impl.ResourceExhaustedError: disk quota exceeded [Op:SaveV2]\n"),
    ("disk_full", "Disk quota exceeded", "OSError: [Errno 122] Disk quota exceeded\n"),
    ("disk_full", "No space left", "hpcjobs: error: unexpected: OSError: [Errno 28] No space left on device: '/x/checkpoints'\n"),
    ("interrupted", "hpcjobs: SIGTERM: ended after step 199", "slurmstepd-n1: error: *** STEP 3.0 ON n1 CANCELLED AT 2026-11-25T12:54:25 ***\nhpcjobs: SIGTERM: ended after step 199, a checkpoint of step 199 is written\nsrun: error: n1: task 0: Exited with exit code 75\n"),
    ("nan_loss", "the loss is nan at step 7", "[1,1]<stderr>:hpcjobs: error: nan_loss: the loss is nan at step 7\n" + HOROVOD_SHUT_DOWN + PRIMARY_JOB),
    # NOAA-EMC/rrfs-workflow issue 962, c3nl_cluster issue 52 (broken into lines), trixie issue 17, docs of Modules 4
    ("module_missing", '"libfabric/1.20.1"', 'Lmod has detected the following error: The following module(s) are unknown: "libfabric/1.20.1"\n\nPlease check the spelling or version number. Also try "module spider ..."\nslurm_script: line 44: mpirun: command not found\n'),
    ("module_missing", 'unknown: "fsl/5.0.10"', 'Lmod has detected the following error:  The following module(s) are\nunknown: "fsl/5.0.10"\n\nPlease check the spelling\n'),
    ("module_missing", "ERROR:105: Unable to locate a modulefile for 'conda'", "ModuleCmd_Load.c(213):ERROR:105: Unable to locate a modulefile for 'conda'\nModuleNotFoundError: No module named 'tensorflow'\n"),
    ("module_missing", "Unable to locate a modulefile for 'cuda/12'", "ERROR: Unable to locate a modulefile for 'cuda/12'\nsrun: error: c4140-3: task 1: Exited with exit code 1\n"),
    ("module_missing", "module: command not found", "/var/spool/slurmd/job00004/slurm_script: line 61: module: command not found\nValue: 3\n"),
    ("traceback", "ValueError: boom", 'Lmod has detected the following error: The following module(s) are unknown: "git"\nValueError: boom\n'),
    ("import_error", "No module named 'tensorflow'", "3: ModuleNotFoundError: No module named 'tensorflow'\nsrun: error: c4140-3: task 3: Exited with exit code 1\n"),
    ("import_error", "No module named hpcjobs", "/usr/bin/python3: No module named hpcjobs\n" + PRIMARY_JOB),
    # tensorflow/tensorflow issue 5343; ld.so
    ("import_error", "libcudart.so.8.0", "ImportError: libcudart.so.8.0: cannot open shared object file: No such file or directory\n"),
    ("import_error", "libmpi.so.40", "orted: error while loading shared libraries: libmpi.so.40: cannot open shared object file: No such file or directory\n"),
    ("launch", "execve(): no-such-command", "slurmstepd-c4140-1: error: execve(): no-such-command: No such file or directory\nsrun: error: c4140-1: task 0: Exited with exit code 2\n"),
    ("launch", "line 2: no-such-command: command not found", "/tmp/spool/c4140-1/job00004/slurm_script: line 2: no-such-command: command not found\n"),
    ("launch", "unable to find the specified executable file Executable: no-such-command", "--------------------------------------------------------------------------\nmpirun was unable to find the specified executable file, and therefore\ndid not launch the job.  This error was first reported for process\nrank 0; it may have occurred for other processes as well.\n\nNOTE: A common cause for this error is misspelling a mpirun command\n      line parameter option (remember that mpirun interprets the first\n      unrecognized command line token as the executable).\n\nNode:       c4140-1\nExecutable: no-such-command\n--------------------------------------------------------------------------\n"),
    ("launch", "mpi/pmix_v9", "srun: error: Couldn't find the specified plugin name for mpi/pmix_v9 looking at all files\nsrun: error: cannot find mpi plugin for mpi/pmix_v9\nsrun: error: MPI: Cannot create context for mpi/pmix_v9\nsrun: error: Invalid MPI type 'pmix_v9', --mpi=list for acceptable types\n"),
    # pyiron/executorlib pull request 761
    ("launch", "Couldn't load specified plugin name for mpi/pmix", "srun: error:  mpi/pmix_v5: init: (null) [0]: mpi_pmix.c:193: pmi/pmix: can not load PMIx library\nsrun: error: Couldn't load specified plugin name for mpi/pmix: Plugin init() callback failed\n"),
    ("launch", "PPR: 1:node", "Your job has requested more processes than the ppr for\nthis topology can support:\n\n  App: true\n  Number of procs:  100\n  PPR: 1:node\n\nPlease revise the conflict and try again.\n"),
    ("launch", "There are not enough slots available in the system to satisfy the 100 slots", "There are not enough slots available in the system to satisfy the 100\nslots that were requested by the application:\n\n  true\n\nEither request fewer slots\n"),
    ("launch", "we found no available cpus on Node: c4140-1", "While computing bindings, we found no available cpus on\nthe following node:\n\n  Node:  c4140-1\n\nPlease check your allocation.\n"),
    ("launch", "More processors requested than permitted", "srun: error: Unable to create step for job 4: More processors requested than permitted\n"),
    ("launch", "Invalid job id specified", "srun: error: Unable to confirm allocation for job 99999: Invalid job id specified\nsrun: Check SLURM_JOB_ID environment variable. Expired or invalid job 99999\n"),
    # snakemake-executor-plugin-slurm issue 225: not the fault of a node
    ("launch", "Unable to layout tasks", "srun: error: Task launch for StepId=125452.4 failed on node n1: Unable to layout tasks on given cpus\nsrun: error: Application launch failed: Unable to layout tasks on given cpus\n"),
    # covizu issue 350
    ("launch", "ORTE was unable to reliably start", "ORTE was unable to reliably start one or more daemons.\nThis usually is caused by:\n"),
    ("signal", "srun: error: c4140-3: task 1: Killed", PEER_GONE + "srun: error: c4140-3: task 1: Killed\nsrun: launch/slurm: _step_signal: Terminating StepId=16.1\nslurmstepd-c4140-2: error: *** STEP 16.1 ON c4140-2 CANCELLED AT 2026-11-25T14:29:27 ***\nsrun: error: c4140-2: task 0: Terminated\n"),
    ("signal", "on node c4140-3 exited on signal 9 (Killed)", PEER_GONE + PRIMARY_JOB + "mpirun noticed that process rank 1 with PID 21493 on node c4140-3 exited on signal 9 (Killed).\n"),
    ("signal", "task 1: Segmentation fault (core dumped)", MPIRUN_SEGV.replace("[c4140", "1: [c4140") + "srun: error: c4140-2: task 1: Segmentation fault (core dumped)\n"),
    ("signal", "Signal: Segmentation fault (11)", MPIRUN_SEGV + PRIMARY_JOB),
    ("signal", "line 28:  8156 Killed", "/var/spool/slurmd/job00191/slurm_script: line 28:  8156 Killed                  python3 main.py\n"),
    # NVIDIA/nccl issues 795 and 1232, horovod/horovod issues 666 and 1651
    ("nccl_error", "Call to recv from 10.200.84.247<58355> failed : Broken pipe", "st-1:183006:183181 [1] misc/socket.cc:538 NCCL WARN Net : Connection closed by remote peer st-22<47861>\nst-22:183006:183220 [1] misc/socket.cc:518 NCCL WARN Net : Call to recv from 10.200.84.247<58355> failed : Broken pipe\n"),
    ("nccl_error", "Connection closed by remote peer node2<42830>", "[0] node0:13571:13571 [0] misc/socket.cc:49 NCCL WARN socketProgress: Connection closed by remote peer node2<42830>\n" + HOROVOD_SHUT_DOWN),
    ("nccl_error", "ncclCommInitRank failed: unhandled system error", "tensorflow.python.framework.errors_impl.UnknownError:  ncclCommInitRank failed: unhandled system error\n\t [[node HorovodBroadcast_conv1_bn_moving_mean_0 (defined at <string>:234) ]] [Op:__inference_benchmark_step_15833]\nsrun: error: jwc09n018: task 1: Exited with exit code 1\nsrun: error: jwc09n012: task 0: Killed\n"),
    ("nccl_error", "ncclAllReduce failed", "hpcjobs: error: unexpected: UnknownError: ncclAllReduce failed: unhandled cuda error\n" + SRUN_ENDS_ALL),
    ("mpi_error", "MPI_ABORT was invoked on rank 1 in communicator MPI_COMM_WORLD with errorcode 3", "MPI_ABORT was invoked on rank 1 in communicator MPI_COMM_WORLD\nwith errorcode 3.\n\nNOTE: invoking MPI_ABORT causes Open MPI to kill all MPI processes.\n"),
    ("mpi_error", "with errorcode 3", "1: MPI_ABORT was invoked on rank 1 in communicator MPI_COMM_WORLD\n1: with errorcode 3.\nsrun: error: c4140-2: task 1: Exited with exit code 3\nsrun: error: c4140-1: task 0: Killed\n"),
    ("mpi_error", "MPI_ERR_TRUNCATE: message truncated", "mpi4py.MPI.Exception: MPI_ERR_TRUNCATE: message truncated\n"),
    ("mpi_error", "An error occurred in MPI_Allreduce", "[c4140-2:16553] *** An error occurred in MPI_Allreduce\n[c4140-2:16553] *** MPI_ERR_OTHER: known error not in list\n"),
    ("mpi_error", "disconnected Peer host: c4140-3", PEER_GONE),
    # NVIDIA/pyxis issue 88
    ("mpi_error", "It looks like pmix_init failed", "It looks like pmix_init failed for some reason; your parallel process is\nlikely to abort.\n"),
    ("traceback", "ValueError: boom", "ValueError: boom\n" + HOROVOD_SHUT_DOWN + SRUN_ENDS_ALL),
    ("traceback", "ValueError: boom", HOROVOD_SHUT_DOWN + "[1,1]<stderr>:ValueError: boom\n" + PRIMARY_JOB),
    ("traceback", "Horovod has been shut down", HOROVOD_SHUT_DOWN + SRUN_ENDS_ALL),
    # horovodrun's prefix, horovod/horovod issue 2097
    ("traceback", "KeyError: 'x'", "Fri Sep 25 16:52:57 2020[1]<stderr>:KeyError: 'x'\n"),
    ("exit_code", "task 1: Exited with exit code 3", PEER_GONE + "srun: error: c4140-3: task 1: Exited with exit code 3\nsrun: launch/slurm: _step_signal: Terminating StepId=16.9\nsrun: error: c4140-2: task 0: Terminated\n"),
    ("exit_code", "Process name: [[65513,1],1] Exit code: 3", PEER_GONE + PRIMARY_JOB + "mpirun detected that one or more processes exited with non-zero status, thus causing\nthe job to be terminated. The first process to do so was:\n\n  Process name: [[65513,1],1]\n  Exit code:    3\n"),
    # PyTorch: open issues of One-2-3-45 (25), echomimic_v2 (115); gfm-rag (25), evo (136); STCN (132), facebookresearch/mmf (441)
    ("device_memory", "Tried to allocate 1.69 GiB", "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.69 GiB (GPU 0; 14.56 GiB total capacity; 649.97 MiB already allocated; 1.31 GiB free; 1.01 GiB reserved in total by PyTorch) If reserved memory is >> allocated memory try setting max_split_size_mb to avoid fragmentation.\n"),
    ("device_memory", "Tried to allocate 4.22 GiB", "[rank1]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 4.22 GiB. GPU 0 has a total capacity of 15.69 GiB of which 3.71 GiB is free.\n" + GLOO_CLOSED + TORCHRUN_FAILED),
    ("device_memory", "HIP out of memory", "torch.OutOfMemoryError: HIP out of memory. Tried to allocate 4.22 GiB. GPU 0 has a total capacity of 15.69 GiB of which 3.71 GiB is free.\n"),
    ("cuda_error", "an illegal memory access was encountered", "[rank2]: torch.AcceleratorError: CUDA error: an illegal memory access was encountered\n[rank2]: CUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be incorrect.\n" + TORCHRUN_FAILED),
    ("cuda_error", "device-side assert triggered", "RuntimeError: CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be incorrect.\n"),
    ("device_missing", "No CUDA GPUs are available", "[rank0]: RuntimeError: No CUDA GPUs are available\n" + TORCHRUN_FAILED),
    ("shared_memory", "is killed by signal: Bus error", "RuntimeError: DataLoader worker (pid 46794) is killed by signal: Bus error. It is possible that dataloader's workers are out of shared memory. Please try to raise your shared memory limit.\n"),
    ("shared_memory", "insufficient shared memory (shm)", "ERROR: Unexpected bus error encountered in worker. This might be caused by insufficient shared memory (shm).\nRuntimeError: it is over\n"),
    ("signal", "is killed by signal: Killed", "RuntimeError: DataLoader worker (pid 4711) is killed by signal: Killed. \n"),
    # XPixelGroup/BasicSR issue 737, sgl-project/sglang issue 1693
    ("nccl_error", "Watchdog caught collective operation timeout: WorkNCCL(SeqNum=808", WATCHDOG),
    ("nccl_error", "Watchdog caught collective operation timeout", WATCHDOG + "srun: error: n1: task 1: Aborted (core dumped)\nsrun: error: n2: task 0: Killed\n"),
    ("nccl_error", "OpType=_ALLGATHER_BASE", "terminate called after throwing an instance of 'c10::DistBackendError'\n  what():  [PG 3 Rank 5] Process group watchdog thread terminated with exception: [Rank 5] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=9141, OpType=_ALLGATHER_BASE, NumelIn=19008, NumelOut=152064, Timeout(ms)=600000) ran for 600020 milliseconds before timing out.\nframe #4: <unknown function> + 0xd6df4 (0x7f3bca9d5df4 in /usr/lib/x86_64-linux-gnu/libstdc++.so.6)\n"),
    ("signal", "srun: error: n2: task 1: Killed", "srun: error: n2: task 1: Killed\n" + WATCHDOG),
    ("traceback", "[rank2]: KeyError: 'x'", WATCHDOG + "[rank2]: KeyError: 'x'\n"),
    # NVIDIA/nccl issues 2076 and 1928
    ("nccl_error", "ncclRemoteError: socketProgressOpt: Call to recv from 172.16.0.2<33759> failed : Connection reset by peer", NCCL_REMOTE),
    ("traceback", "[rank1]: ValueError: boom", NCCL_REMOTE + "[rank1]: ValueError: boom\n"),
    # torchrun and gloo
    ("traceback", "[rank1]: ValueError: boom", GLOO_CLOSED + "[rank1]: ValueError: boom\n" + TORCHRUN_FAILED),
    ("traceback", "ValueError: boom", "1: [default1]:[rank1]: ValueError: boom\n"),
    ("traceback", "ValueError: boom", TORCHRUN.format(code=1, name="", why='Traceback (most recent call last):\n    File "/tmp/t.py", line 11, in main\n      raise ValueError("boom")\n  ValueError: boom\n  ')),
    ("signal", "host : n1 rank : 1 exitcode : -9 (pid: 883) Signal 9 (SIGKILL)", GLOO_CLOSED + TORCHRUN_KILLED + "srun: error: n1: task 0: Exited with exit code 1\n"),
    ("exit_code", "host : n1 rank : 1 exitcode : 3 (pid: 883)", GLOO_CLOSED + TORCHRUN_EXITED),
    ("gloo_error", "Connection closed by peer [127.0.0.1]:28591", GLOO_CLOSED + TORCHRUN_FAILED),
    ("exit_code", "host : n1 rank : 1 exitcode : 1 (pid: 883)", TORCHRUN_FAILED),
    # before PyTorch 1.10: its pull request 64036
    ("traceback", "ValueError: Test", "Root Cause:\n[0]:\n  time: 2021-08-26_17:12:07\n  rank: 0 (local_rank: 0)\n  exitcode: 1 (pid: 8045)\n  error_file: /tmp/torchelastic_6cj9eppm/attempt_0/0/error.json\n  msg: \"ValueError: Test\"\nValueError: Test\n"),
    ("exit_code", "rank: 0 exitcode: 1 (pid: 8045)", "Root Cause:\n[0]:\n  time: 2021-08-26_17:12:07\n  rank: 0 (local_rank: 0)\n  exitcode: 1 (pid: 8045)\n  error_file: <N/A>\n"),
    # an error of the job script
    ("disk_full", "cannot write /x/a001/claim: No space left", "hpcjobs: error: disk_full: cannot write /x/a001/claim: No space left on device\n"),
    ("exit_code", "no run with index 3", "hpcjobs: error: no run with index 3 in g0001.runs\nstep: last words\n"),
    ("traceback", "ValueError: boom", "ValueError: boom\nhpcjobs: error: cannot write /x/a001/exit.json: Permission denied\n"),
    ("exit_code", "last words", "Exception ignored in: <function x>\nlast words\n"),
]  # fmt: skip
