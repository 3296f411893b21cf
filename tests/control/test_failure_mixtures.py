"""Logs in which one line is the cause and others only look like it: warnings, other ranks, launchers, what was survived.

Public reports name their repository and number; the rest is made up from lines that such programs print.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.control.test_failures import why

EXITED = "srun: error: n1: task 0: Exited with exit code 1\n"
RAISED = 'Traceback (most recent call last):\n  File "train.py", line 60, in main\n    x = batch["labels"]\n'
STEPS = "".join(f"step {step} loss {3 / step:.3f} 1200 images/s\n" for step in range(1, 60))
RULE = "-" * 74 + "\n"
LOST = (
    "[rank0]: torch.distributed.DistBackendError: NCCL error in: /c10d/NCCLUtils.hpp:268, remote process exited or there "
    "was a network error, NCCL version 2.21.5\n[rank0]: ncclRemoteError: A call failed possibly due to a network error.\n"
    "[rank0]: Last error:\n[rank0]: socketProgressOpt: Call to recv from 172.16.0.2<33759> failed : Connection reset\n"
)
NO_LOCKED_MEMORY = (
    "[1668693503.473099] [n1:1188443:0]  ib_log.c:246  UCX  ERROR mlx5_0: ibv_create_cq() failed: Cannot allocate "
    "memory. Please set max locked memory (ulimit -l) to 'unlimited' (current: 64 kbytes)\n"
)

REPORTS = [
    # apptainer/singularity issue 4017: with --debug, and the last FATAL only says that another one failed
    ("launch", "container creation failed: mount /tmp failed",
     "DEBUG   [U=0,P=37]         CreateContainer()             Mounting /tmp at /opt/session/tmp\n"
     "FATAL   [U=0,P=37]         Master()                      container creation failed: mount /tmp failed: invalid argument\n"
     "FATAL   [U=0,P=1]          run()                         While performing build: while running engine: exit status 255\n"),
    # openucx/ucx issues 8746 and 5199, open-mpi/ompi issues 6300 and 10601
    ("mpi_error", "ibv_create_cq() failed: Cannot allocate memory", NO_LOCKED_MEMORY + EXITED),
    ("mpi_error", "ibv_create_cq(cqe=4096) failed",
     "[1548304905.378218] [mpi11:4770 :0]       ib_iface.c:690  UCX  ERROR ibv_create_cq(cqe=4096) failed: Cannot allocate memory\n"
     "[mpi11:04770] pml_ucx.c:212 Error: Failed to create UCP worker\n"),
    ("mpi_error", "Transport retry count exceeded on mlx5_0:1/IB",
     "[master:19546:0:19546] ib_mlx5_log.c:139  Transport retry count exceeded on mlx5_0:1/IB (synd 0x15 vend 0x81 hw_synd 0/0)\n"
     "[master:19546:0:19546] ib_mlx5_log.c:139  DCI QP 0xa9f wqe[0]: SEND s-e [rqpn 0xa66 rlid 703] [inl len 18]\n"
     "==== backtrace (tid:2330856) ====\n 0  /usr/local/ucx/lib/libucs.so.0(ucs_handle_error+0x294) [0x7fada58370a4]\n"
     "[master:19546] *** Process received signal ***\n[master:19546] Signal: Aborted (6)\n"
     "mpirun noticed that process rank 3 with PID 0 on node master exited on signal 6 (Aborted).\n"),
    ("mpi_error", "PSM2 was unable to open an endpoint.",
     RULE + "PSM2 was unable to open an endpoint. Please make sure that the network link is\n"
     "active on the node and the hardware is functioning.\n\n  Error: Failure in initializing endpoint\n" + RULE + EXITED),
    # ofiwg/libfabric issue 6710, openpmix/prrte issue 540
    ("mpi_error", "Open MPI failed an OFI Libfabric library call (fi_endpoint).",
     RULE + "Open MPI failed an OFI Libfabric library call (fi_endpoint).  This is highly\nunusual; your job may behave "
     "unpredictably (and/or abort) after this.\n  Local host: n1\n" + RULE + EXITED),
    ("launch", "PRRTE daemon has unexpectedly failed after launch and before communicating back to mpirun.",
     RULE + "An PRRTE daemon has unexpectedly failed after launch and before\ncommunicating back to mpirun. This could be "
     "caused by a number\nof factors, including an inability to create a connection back\n" + RULE),
    # horovod/horovod issue 3952
    ("signal", "*** Received signal 7 ***",
     "Tue Jun 27 22:49:58 2023[1,3]<stderr>:*** Received signal 7 ***\n"
     "Tue Jun 27 22:49:58 2023[1,3]<stderr>:*** BEGIN MANGLED STACK TRACE ***\n"),
    # huggingface/transformers issue 29177, Kent0n-Li/ChatDoctor issue 15
    ("credential", "OSError: You are trying to access a gated repo.",
     RAISED + "OSError: You are trying to access a gated repo.\nMake sure to have access to it.\n401 Client Error. (Request ID: R)\n"),
    ("credential", "api_key not configured", "wandb: ERROR api_key not configured (no-tty). call wandb.login(key=[...])\n" + EXITED),
    # hunto/DIST_KD issue 10: torchrun's own frame of asterisks
    ("traceback", "RuntimeError: The server socket has failed to listen on any local network address. The server socket",
     "*****************************************\nSetting OMP_NUM_THREADS environment variable for each process to be 1\n"
     "*****************************************\n" + RAISED + "RuntimeError: The server socket has failed to listen on any "
     "local network address. The server socket has failed to bind to [::]:25641 (errno: 98 - Address already in use).\n"),
    # TheAtticusProject/cuad issue 9, mlcommons/training_results_v0.5 issue 9, milabench pull request 397
    ("nccl_error", "NCCL Error 1: unhandled cuda error", "terminate called after throwing an instance of 'std::runtime_error'\n  what():  NCCL Error 1: unhandled cuda error\n" + EXITED),
    ("device_missing", "invalid device ordinal", "RuntimeError: cuda runtime error (10) : invalid device ordinal at torch/csrc/cuda/Module.cpp:34\n"),
    ("cuda_error", "HSA_STATUS_ERROR_EXCEPTION", ":0:rocdevice.cpp            :3586: 92087492418 us:  Callback: Queue 0x772c aborting with error : HSA_STATUS_ERROR_EXCEPTION: a hardware exception. code: 0x1016\n" + EXITED),
    # shihao1895/MemoryVLA issue 20, lyu-yx/ACUMEN issue 4
    ("signal", "failed (exitcode: -9)",
     "[m-0] [2026-03-30 19:24:35,966] torch.distributed.elastic.multiprocessing.api: [WARNING] Sending process 73 the closing signal SIGTERM\n"
     "[m-0] [2026-03-30 19:24:42,731] torch.distributed.elastic.multiprocessing.api: [ERROR] failed (exitcode: -9) for binary located at /usr/bin/python\n"),
    ("signal", "terminated with signal SIGKILL", RAISED + "torch.multiprocessing.spawn.ProcessExitedException: process 0 terminated with signal SIGKILL\n"),
    # hautreux/auks issue 61, open-mpi/ompi issue 12473
    ("credential", "unable to read credential cache", "auks_api: auks cred extraction failed : krb5 cred : unable to read credential cache\n" + EXITED),
    ("launch", "ORTE does not know how to route a message to the specified daemon located on the indicated node:",
     RULE + "ORTE does not know how to route a message to the specified daemon\nlocated on the indicated node:\n\n  my node:   n1\n" + RULE),
    # Paddle, PyTorch: the message begins below the exception
    ("device_memory", "Out of memory error on GPU 0. Cannot allocate 2.0GB", "ResourceExhaustedError: \n\nOut of memory error on GPU 0. Cannot allocate 2.0GB memory on GPU 0.\n"),
    ("traceback", 'state_dict for Net: Missing key(s) in state_dict: "fc.weight".',
     RAISED + 'RuntimeError: Error(s) in loading state_dict for Net:\n\tMissing key(s) in state_dict: "fc.weight".\n'),
    # a watchdog of PyTorch aborts its process: the signal only follows
    ("nccl_error", "watchdog got stuck for 600 seconds",
     "[rank1]:[F1129 10:00:00.100000 ProcessGroupNCCL.cpp:1154] [PG 0 Rank 1] ProcessGroupNCCL's watchdog got stuck for 600 seconds\n"
     "srun: error: n1: task 1: Aborted (core dumped)\n"),
    ("nccl_error", "NCCL error: remote process exited",
     "terminate called after throwing an instance of 'c10::DistBackendError'\n  what():  [PG 0 Rank 1] Process group watchdog thread "
     "terminated with exception: NCCL error: remote process exited or there was a network error\n"
     "E1129 23:10:20.353000 875 torch/distributed/elastic/multiprocessing/api.py:1002] failed (exitcode: -6) local_rank: 1 (pid: 883)\n"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "part", "log"), REPORTS, ids=[part[:40] for _, part, _ in REPORTS])
def test_public_reports(kind: str, part: str, log: str, tmp_path: Path) -> None:
    failure = why(tmp_path, 1, "epoch 1\n" + log)
    assert failure.kind == kind, failure.evidence
    assert part in failure.evidence


@pytest.mark.parametrize("rule", ["-" * 74, "-" * 80, "=" * 60, "*" * 41])
def test_a_ruler_above_an_exception_does_not_cut_its_message(rule: str, tmp_path: Path) -> None:
    line = "RuntimeError: Expected one device for all of the tensors. Found two of them. Set one."
    assert why(tmp_path, 1, f"{rule}\n  parameters: 3\n{rule}\n{RAISED}{line}\n{EXITED}").evidence == line


@pytest.mark.parametrize(
    "survived",
    [
        NO_LOCKED_MEMORY,
        "n1:4:4 [0] NCCL WARN Cuda failure 'invalid device function'\n",
        "CUDA out of memory at batch size 512, trying batch size 256\n",
        f"{RAISED}torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\n",
        "wandb: could not write the cache: [Errno 28] No space left on device\n",
        "[Errno 116] Stale file handle: '/data/a.jpg', left out\n",
    ],
)
def test_what_a_program_survived_is_not_why_it_ended(survived: str, tmp_path: Path) -> None:
    ended = why(tmp_path, 1, f"{survived}{STEPS}{RAISED}KeyError: 'labels'\n{EXITED}")
    assert (ended.kind, ended.evidence) == ("traceback", "KeyError: 'labels'")


def test_what_a_program_survived_and_that_is_no_exception_does_not_count_at_all(tmp_path: Path) -> None:
    ended = why(tmp_path, 3, f"{NO_LOCKED_MEMORY}{STEPS}train.py: error: lost my way\n{EXITED}")
    assert ended.kind == "exit_code"
    assert "lost my way" in ended.evidence


@pytest.mark.parametrize(
    "line", ["kill on OOM: False", "args: Namespace(on_oom='retry', nccl_timeout=1800)", "WARNING: guards out of memory", "Out of memory handling: off"]
)  # fmt: skip
def test_words_of_memory_in_a_configuration_are_no_failure(line: str, tmp_path: Path) -> None:
    assert why(tmp_path, 3, f"{line}\nstep 40\n{EXITED}").kind == "exit_code"


def test_nccls_own_failed_transfer_comes_before_what_other_ranks_see_of_it(tmp_path: Path) -> None:
    own = "n1:4:5 [1] NCCL WARN NET/IB : Got completion from peer 10.0.0.1<47861> with status=12 opcode=0 len=0\n"
    ended = why(tmp_path, 1, STEPS + own + LOST + EXITED)
    assert (ended.kind, "status=12" in ended.evidence) == ("nccl_error", True)


@pytest.mark.parametrize(
    "label", ["[rank{0}]: ", "{0}: ", "[1,{0}]<stderr>:", "[default{0}]:[rank{0}]: ", "7: [default1]:[rank{0}]: "]
)
def test_one_exception_of_64_ranks_is_told_once(label: str, tmp_path: Path) -> None:
    lines = [label.format(rank) + line for line in [*RAISED.splitlines(), "KeyError: 'labels'"] for rank in range(64)]
    evidence = why(tmp_path, 1, STEPS + "\n".join(lines) + "\n" + EXITED).evidence
    assert evidence.endswith("KeyError: 'labels' (64 ranks)")


def test_an_exception_in_a_group_is_shown_without_its_bars(tmp_path: Path) -> None:
    log = (
        "  + Exception Group Traceback (most recent call last):\n"
        "  | ExceptionGroup: unhandled errors in a TaskGroup (1 sub-exception)\n"
        "  +-+---------------- 1 ----------------\n    | Traceback (most recent call last):\n    | ValueError: inner\n"
        "    +------------------------------------\n"
    )
    assert why(tmp_path, 1, log).evidence == "ValueError: inner"


def test_a_rank_that_a_signal_ended_by_torchruns_summary_without_the_signals_name(tmp_path: Path) -> None:
    summary = (
        "Root Cause (first observed failure):\n[0]:\n  time      : 2026-11-29_23:10:20\n  host      : n1\n"
        "  rank      : 5 (local_rank: 1)\n  exitcode  : -11 (pid: 883)\n  error_file: <N/A>\n"
    )
    assert why(tmp_path, 1, STEPS + summary).kind == "signal"


def test_the_rank_that_failed_is_found_before_what_hundreds_of_others_print_of_it(tmp_path: Path) -> None:
    """Their lines have frames, are longer than what is read at first, and the log does not begin with a whole line."""
    frames = "".join(
        f"frame #{number}: c10d::watchdogHandler() + 0xc80 (0x7fe1 in libtorch_cuda.so)\n" for number in range(40)
    )
    others = "".join(LOST.replace("[rank0]", f"[rank{rank}]") + frames for rank in range(400))
    assert len(others) > 1_000_000
    ended = why(tmp_path, 1, f"[rank700]: ValueError: boom\n{others}{EXITED}")
    assert (ended.kind, ended.evidence) == ("traceback", "[rank700]: ValueError: boom")
    # Nobody else said anything.
    ended = why(tmp_path, 1, others + EXITED)
    assert (ended.kind, ended.evidence.startswith("NCCL error in: ncclRemoteError: ")) == ("nccl_error", True)


@pytest.mark.timeout(120)  # minutes, if what is read further back is not thinned
def test_a_flood_of_lines_that_differ_in_numbers_is_searched_quickly(tmp_path: Path) -> None:
    flood = "".join(
        f"n{number % 4}:{number}:{number} [{number % 8}] misc/socket.cc:538 NCCL WARN Net : Connection closed by remote peer n{number}<47861>\n"
        for number in range(100_000)
    )
    ended = why(tmp_path, 1, flood + EXITED)
    assert (ended.kind, ended.evidence.startswith("n")) == ("nccl_error", True)


HARMLESS = [
    "[1668693503.47300] [n1:1188440:0]  ucp_context.c:1234 UCX  WARN  network device 'mlx5_0:1' is not available\n" * 8,
    "n1:4:5 [0] misc/socket.cc:538 NCCL WARN Net : Connection closed by remote peer n2<47861>\n" * 40,
    "/usr/lib/x.py:33: UserWarning: CUDA initialization: CUDA unknown error - this may be due to an environment\n",
    "n2 kernel: NVRM: Xid (PCI:0000:dc:00): 63, Row Remapper: New row marked for remapping\n",
    "n3 kernel: NVRM: Xid (PCI:0000:01:00): 144, SAW_MVB Nonfatal XC0 i0 Link 0 (0x00000001)\n",  # leptonai/gpud 1160
    RULE + "WARNING: There was an error initializing an OpenFabrics device.\n\n  Local host:   n1\n" + RULE,
    'Lmod has detected the following error: The following module(s) are unknown: "git"\n',
    "slurmstepd: error: Unable to create TMPDIR [/scratch/1]: Permission denied\nslurmstepd: error: Setting TMPDIR to /tmp\n",
    "WARNING: Could not find any nv files on this host!\n",
]


@pytest.mark.parametrize("harmless", HARMLESS, ids=range(len(HARMLESS)))
@pytest.mark.parametrize("first", [True, False])
def test_a_harmless_line_before_or_after_an_exception_is_not_the_cause(
    harmless: str, first: bool, tmp_path: Path
) -> None:
    raised = f"{RAISED}ValueError: boom\n"
    ended = why(tmp_path, 1, (harmless + STEPS + raised if first else STEPS + raised + harmless) + EXITED)
    assert (ended.kind, ended.evidence) == ("traceback", "ValueError: boom")


SHOWS = (
    '{0}Traceback (most recent call last):\n{0}  File "train.py", line 40, in main\n'
    '{0}    raise RuntimeError("CUDA out of memory" if oom else "bad labels")\n{0}          ^^^^^^^^^^^^^^^^^\n'
)


@pytest.mark.parametrize("prefix", ["", "[rank3]: ", "3: "])
def test_a_line_of_the_program_that_a_traceback_shows_is_no_message(tmp_path: Path, prefix: str) -> None:
    failure = why(tmp_path, 1, SHOWS.format(prefix) + f"{prefix}RuntimeError: bad labels\n")
    assert (failure.kind, failure.evidence) == ("traceback", f"{prefix}RuntimeError: bad labels")
