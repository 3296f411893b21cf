"""Of many lines the first in time is the evidence, told once; no ruler, no frame, no half sentence, no old exception."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcjobs.base.records import ExitRecord, Failure
from hpcjobs.collect import evidence
from hpcjobs.collect.failures import classify

RAISED = 'Traceback (most recent call last):\n  File "/w/train.py", line 8, in main\n    step(batch)\n'
STEPS = "".join(f"step {step} loss 0.3\n" for step in range(40))
RULE = "-" * 74 + "\n"


def of_rank(rank: int, text: str) -> str:
    """What PyTorch makes of a traceback of this rank."""
    return "".join(f"[rank{rank}]: {line}\n" for line in text.splitlines())


def first_was(rank: int, host: str, time: str) -> str:
    """The end of torchrun's summary of a node."""
    return (
        "Root Cause (first observed failure):\n[0]:\n"
        f"  time      : 2026-11-29_{time}\n  host      : {host}\n  rank      : {rank} (local_rank: {rank})\n"
        "  exitcode  : 1 (pid: 883)\n  error_file: <N/A>\n" + "=" * 60 + "\n"
    )


def why(tmp_path: Path, log: str, nodes: str = "n[1-2]") -> Failure:
    (tmp_path / "job.log").write_text(f"hpcjobs: 4 ranks on n1\n{log}")
    ended = ExitRecord("g0002-r01", "a001", "7_0", 1, 0, nodes, 102.0, 110.0)
    return classify(None, ended, [], evidence.why(tmp_path / "job.log"))


def test_the_exception_of_the_rank_that_torchrun_calls_the_first_counts(tmp_path: Path) -> None:
    """Of several nodes' summaries, the earliest."""
    log = of_rank(0, f"{RAISED}RuntimeError: the store is gone\n") + of_rank(3, f"{RAISED}KeyError: 'lr'\n")
    summaries = first_was(0, "n1", "23:10:21") + first_was(3, "n2", "23:10:20")
    assert why(tmp_path, log + summaries).evidence == "[rank3]: KeyError: 'lr'"
    assert why(tmp_path, log).evidence == "[rank0]: RuntimeError: the store is gone"


def test_of_lines_with_a_time_the_earliest_counts_not_the_uppermost(tmp_path: Path) -> None:
    said = "ProcessGroupNCCL.cpp:616] [Rank {0}] Watchdog caught collective operation timeout: WorkNCCL(SeqNum={1})\n"
    log = "[rank1]:[E626 06:24:45.9 " + said.format(1, 808) + "[rank3]:[E626 06:24:44.1 " + said.format(3, 807)
    assert why(tmp_path, log).evidence.startswith("[rank3]:[E626 06:24:44.1 ")


@pytest.mark.parametrize("label", ["[rank{0}]: ", "{0}: ", "[1,{0}]<stderr>:", "[prterun-n1-77@1,{0}]<stderr>: "])
def test_what_all_ranks_say_is_told_once_with_their_number(label: str, tmp_path: Path) -> None:
    text = f"{RAISED}FileNotFoundError: [Errno 2] No such file or directory: '/data/x'\n"
    log = "".join(label.format(rank) + line + "\n" for rank in range(8) for line in text.splitlines())
    found = why(tmp_path, log)
    assert found.kind == "traceback"
    assert (
        found.evidence
        == label.format(0) + "FileNotFoundError: [Errno 2] No such file or directory: '/data/x' (8 ranks)"
    )


def test_how_many_ranks_is_not_told_where_the_lines_do_not_name_them(tmp_path: Path) -> None:
    assert why(tmp_path, f"{RAISED}ValueError: boom\n" * 8).evidence == "ValueError: boom"


def test_an_exception_after_which_the_program_went_on_did_not_end_it(tmp_path: Path) -> None:
    logged = f"{RAISED}ValueError: a bad image is left out\n{STEPS}"
    assert why(tmp_path, f"{logged}{RAISED}KeyError: 'last'\n").evidence == "KeyError: 'last'"
    assert why(tmp_path, f"{logged}srun: error: n2: task 1: Killed\n").kind == "signal"
    # What Python had kept of its output may come after its exception.
    exited = "srun: error: n2: task 1: Exited with exit code 1\n"
    assert why(tmp_path, logged + exited).evidence == "ValueError: a bad image is left out"


def test_a_sentence_that_ranks_print_in_turn_is_joined(tmp_path: Path) -> None:
    lines = [
        RULE.strip(),
        'The application appears to have been direct launched using "srun",',
        "but OMPI was not built with SLURM's PMI support and therefore cannot",
        "execute. There are several options for building PMI support under",
    ]
    log = "".join(f"{rank}: {line}\n" for line in lines for rank in (0, 1))
    assert why(tmp_path, log).evidence == (
        'The application appears to have been direct launched using "srun", but OMPI was not built with SLURM\'s PMI '
        "support and therefore cannot execute. (2 ranks)"
    )


def test_a_message_of_open_mpi_that_no_list_has_is_told_as_a_sentence(tmp_path: Path) -> None:
    message = (
        "The widget was unable to find a gadget that this process could\nuse on the node, so it gave up. Please call.\n"
    )
    found = why(tmp_path, f"{RULE}{message}\n  Host: n1\n{RULE}")
    assert found.kind == "exit_code"
    assert found.evidence.endswith(
        "The widget was unable to find a gadget that this process could use on the node, so it gave up."
    )


def test_neither_a_ruler_nor_a_stack_frame_is_evidence(tmp_path: Path) -> None:
    frames = """\
epoch 1 is done
    @     0x7f006690d8a4  absl::SendToLog()
#0  0x00007f83b245a050 in raise () from /lib64/libc.so.6
frame #4: <unknown function> + 0xd6df4 (0x7f3bca9d5df4 in /usr/lib/x86_64-linux-gnu/libstdc++.so.6)
 3  /opt/hpcx/ucx/lib/libucp.so.0(ucp_wireup_init_lanes+0x3c9) [0x7f38ba7775f9]
*** End of error message ***
=================================
"""
    assert (
        why(tmp_path, frames.replace("*** End of error message ***\n", "")).evidence == "exit code 1: epoch 1 is done"
    )


def test_a_fatal_line_comes_before_the_launchers_summary(tmp_path: Path) -> None:
    summary = f"{RULE}Primary job  terminated normally, but 1 process returned\na non-zero exit code.\n{RULE}"
    bad = "=" * 40 + "\n=   BAD TERMINATION OF ONE OF YOUR APPLICATION PROCESSES\n=   EXIT CODE: 3\n" + "=" * 40 + "\n"
    for says in (summary, bad, "srun: error: n1: task 0: Exited with exit code 3\n"):
        found = why(tmp_path, f"2026-11-29 10:00:00 FATAL trainer: no corpus at /x\n{says}")
        assert found.evidence.startswith("exit code 1: 2026-11-29 10:00:00 FATAL trainer: no corpus at /x; ")


def test_a_launch_that_fails_on_all_nodes_is_no_failure_of_a_node(tmp_path: Path) -> None:
    line = "srun: error: Task launch for StepId=20.0 failed on node {}: Socket timed out on send/recv operation\n"
    both = why(tmp_path, line.format("n1") + line.format("n2"))
    assert (both.kind, both.nodes) == ("launch", ())
    one = why(tmp_path, line.format("n2"))
    assert (one.kind, one.nodes) == ("node_failure", ("n2",))
