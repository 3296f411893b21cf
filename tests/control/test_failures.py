"""The files of a failed run become a class, a hint and the nodes to exclude; the logs are as launchers print them."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from hpcjobs.base import sweepdir
from hpcjobs.base.contract import ErrorCode
from hpcjobs.base.records import ExitRecord, Failure, JobState, RankRecord, RunState
from hpcjobs.cli.show_runs import reason
from hpcjobs.collect import causes, evidence
from hpcjobs.collect.failure_classes import FAILURE_CLASSES
from hpcjobs.collect.failures import cancelled_by_slurm, classify
from hpcjobs.engine.state import RunStatus
from tests.control.failure_kinds import KINDS
from tests.control.failure_lines import HOROVOD_SHUT_DOWN, LINES, OVER_MEMORY

SRUN_INTERRUPTED = """\
srun: cluster configuration lacks support for cpu binding
slurmstepd-n1: error: *** STEP 3.0 ON n1 CANCELLED AT 2026-11-25T12:54:25 ***
hpcjobs: SIGTERM: ended after step 199, a checkpoint of step 199 is written
srun: error: n1: task 0: Exited with exit code 75
srun: launch/slurm: _step_signal: Terminating StepId=3.0
"""
MPIRUN_INTERRUPTED = """\
hpcjobs: SIGUSR1: ended after step 172, a checkpoint of step 172 is written
--------------------------------------------------------------------------
Primary job  terminated normally, but 1 process returned
a non-zero exit code. Per user-direction, the job has been aborted.
--------------------------------------------------------------------------
"""
SRUN_KILLED = """\
An MPI communication peer process has unexpectedly disconnected.  This
usually indicates a failure in the peer process (e.g., a crash or
srun: error: n2: task 1: Killed
srun: launch/slurm: _step_signal: Terminating StepId=4.0
slurmstepd-n1: error: *** STEP 4.0 ON n1 CANCELLED AT 2026-11-25T12:54:25 ***
hpcjobs: SIGTERM, and no progress for 8 s at step 231
srun: error: n1: task 0: Killed
"""
MPIRUN_KILLED = """\
Primary job  terminated normally, but 1 process returned
a non-zero exit code. Per user-direction, the job has been aborted.
mpirun noticed that process rank 1 with PID 7837 on node n2 exited on signal 9 (Killed).
"""


def why(attempt: Path, rc: int, log: str, *aborts: dict) -> Failure:
    """The failure of an attempt that left these files."""
    (attempt / "job.log").write_text(log)
    for abort in aborts:
        (attempt / f"abort-r{abort['rank']:03d}.json").write_text(json.dumps(abort))
    ended = ExitRecord("g0002-r01", "a001", "7_0", rc, max(0, rc - 128), "n[1-2]", 102.0, 110.0)
    return classify(None, ended, sweepdir.read_aborts(attempt), evidence.why(attempt / "job.log"))


def gave_up(code: str, message: str, rank: int = 1, time: float = 105.0) -> dict:
    return {"code": code, "message": message, "rank": rank, "host": f"n{rank + 1}", "time": time}


@pytest.mark.parametrize(
    ("code", "message", "hint"),
    [
        (ErrorCode.NAN_LOSS, "the loss is nan at step 7", "lower lr.base"),
        (ErrorCode.HOST_MEMORY, "out of memory on the host", "ask for more memory"),
        (ErrorCode.DEVICE_MEMORY, "out of memory: OOM when allocating tensor", "smaller batch, batch.passes=2, or train.precision=mixed_float16"),
        (ErrorCode.DEVICE_MISSING, "run.yaml says device gpu, but TensorFlow sees none", "the profile's GPU request and the node's driver"),
        (ErrorCode.HOROVOD_BUILD, "this Horovod was built without NCCL", "HOROVOD_GPU_OPERATIONS=NCCL"),
        (ErrorCode.STALLED, "no progress for 600 s at step 7: no sign of life from rank 0 on n1", "stacks-rNNN.txt; train.stall_s"),
    ],
)  # fmt: skip
def test_a_rank_that_gave_up_names_the_class_and_status_shows_the_hint(
    code: str, message: str, hint: str, tmp_path: Path
) -> None:
    log = f"hpcjobs: error: {code}: {message}\nsrun: error: n2: task 1: Exited with exit code 1\n"
    failure = why(tmp_path, 1, log, gave_up(code, message))
    assert failure.kind == code
    shown = reason(RunStatus("g0002-r01", RunState.FAILED, failure=failure))
    shown_failure, _, advice = shown.partition(" -- ")
    assert shown_failure == f"{code}: {message} (rank 1 on n2)"
    assert hint in advice


@pytest.mark.parametrize(("log", "name"), [(SRUN_INTERRUPTED, "SIGTERM"), (MPIRUN_INTERRUPTED, "SIGUSR1")])
def test_an_interrupted_run_says_which_checkpoint(log: str, name: str, tmp_path: Path) -> None:
    failure = why(tmp_path, 75, log)
    assert failure.kind == "interrupted"
    assert failure.evidence.startswith(f"hpcjobs: {name}: ended after step ")
    assert "it continues from its checkpoint" in failure.hint


@pytest.mark.parametrize(
    ("log", "line"),
    [(SRUN_KILLED, "srun: error: n2: task 1: Killed"),
     (MPIRUN_KILLED, "mpirun noticed that process rank 1 with PID 7837 on node n2 exited on signal 9 (Killed).")],
)  # fmt: skip
def test_a_killed_rank_is_named_with_its_node_and_not_those_that_ended_with_it(
    log: str, line: str, tmp_path: Path
) -> None:
    failure = why(tmp_path, 137, log)
    assert (failure.kind, failure.evidence) == ("signal", line)
    assert "job.log" in failure.hint


def test_of_two_ranks_that_gave_up_the_earlier_counts(tmp_path: Path) -> None:
    late = gave_up(ErrorCode.STALLED, "no progress for 600 s at step 7", rank=0, time=700.0)
    early = gave_up(ErrorCode.HOST_MEMORY, "out of memory on the host", rank=1, time=100.0)
    assert why(tmp_path, 1, "", late, early).kind == ErrorCode.HOST_MEMORY


def test_an_error_without_a_name_is_shown_as_it_is(tmp_path: Path) -> None:
    line = "hpcjobs: error: unexpected: ValueError: boom"
    failure = why(
        tmp_path, 1, f"Traceback (most recent call last):\n{line}\n", gave_up("unexpected", "ValueError: boom")
    )
    assert (failure.kind, failure.evidence) == ("traceback", line)


@pytest.mark.parametrize(
    ("kind", "part", "log"), [*LINES, *KINDS], ids=[f"{kind}-{part[:30]}" for kind, part, _ in [*LINES, *KINDS]]
)
def test_real_lines_name_their_class(kind: str, part: str, log: str, tmp_path: Path) -> None:
    failure = why(tmp_path, 1, "epoch 1\n" + log)
    assert (failure.kind, part in failure.evidence) == (kind, True), failure.evidence
    assert "\n" not in failure.evidence
    assert failure.hint


def test_every_class_that_a_line_can_name_has_a_hint() -> None:
    assert {cause.kind for cause in causes.CAUSES} - {"", "own", causes.LAUNCHER} <= FAILURE_CLASSES.keys()


@pytest.mark.parametrize("seed", range(20))
def test_noise_between_the_ranks_lines_changes_nothing(seed: int, tmp_path: Path) -> None:
    """Noise is binary data, colours, carriage returns, huge lines and prefixes, at any place between lines."""
    draw = random.Random(seed)
    kind, _, log = draw.choice([row for row in [*LINES, *KINDS] if row[0] != "exit_code"])
    noise = [
        bytes(draw.choices(range(256), k=50)).replace(b"\n", b"").replace(b"E", b""),
        b"\x1b[2K\r 12/40 [===>...] loss: 0.31\r",
        b"x" * 20_000,
        b"2026-11-25 14:29:19.26: I external/local_tsl/tsl/cuda/cudart_stub.cc:31] Could not find cuda drivers",
        b'[1,0]<stdout>::::MLLOG {"key": "tracked_stats"}',
        b"",
    ]
    # Noise does not break up a message of several lines.
    lines = [
        b"\x1b[31m%s\x1b[0m" % line.encode() if draw.random() < 0.5 else line.encode() + b"\r"
        for line in log.splitlines()
    ]
    lines = draw.choices(noise, k=5) + lines + draw.choices(noise, k=5)
    (tmp_path / "job.log").write_bytes(b"\n".join(lines))
    ended = ExitRecord("g0002-r01", "a001", "7_0", 1, 0, "n[1-2]", 102.0, 110.0)
    failure = classify(None, ended, [], evidence.why(tmp_path / "job.log"))
    assert failure.kind == kind


@pytest.mark.parametrize(
    "label", ["[1,3]<stderr>:", "[1,12]<stdout>: ", "3: ", "12: ", "Fri Sep 25 16:52:57 2020[1]<stderr>:"]
)
def test_a_launchers_prefix_hides_nothing(label: str, tmp_path: Path) -> None:
    for line, kind in [("ValueError: boom", "traceback"), ("hpcjobs: error: nan_loss: step 3", "nan_loss"),
                       ("ModuleNotFoundError: No module named 'x'", "import_error"), ("MemoryError", "host_memory")]:  # fmt: skip
        failure = why(tmp_path, 1, f"{label}Traceback (most recent call last):\n{label}{line}\n")
        assert failure.kind == kind
        assert line in failure.evidence


@pytest.mark.timeout(60)  # a badly written pattern would take hours
def test_a_huge_log_is_searched_quickly(tmp_path: Path) -> None:
    (tmp_path / "job.log").write_text((HOROVOD_SHUT_DOWN + "srun: error: (((((( NCCL CUDA Error: \n") * 5000)
    assert "Horovod has been shut down" in evidence.why(tmp_path / "job.log")


def test_only_slurms_own_memory_kill_turns_a_cancelled_job_into_a_failed_one(tmp_path: Path) -> None:
    (tmp_path / "job.log").write_text(OVER_MEMORY)
    line = evidence.why(tmp_path / "job.log")
    assert cancelled_by_slurm(line)
    answer = JobState(RunState.CANCELLED, "CANCELLED", reason="by 0", exit_code=0, signal=9)
    assert classify(answer, None, [], line).kind == "out_of_memory"
    assert cancelled_by_slurm("slurmstepd: error: Exceeded job memory limit")  # Slurm before 20.11
    for other in ("*** STEP 4.0 ON n1 CANCELLED AT 2026-11-25T12:54:25 ***", "MemoryError", "DUE TO TIME LIMIT", ""):
        assert not cancelled_by_slurm(other)


# --- other sources of the cause -----------------------------------------------------------------


def ended(rc: int, nodes: str = "n[1-2]") -> ExitRecord:
    return ExitRecord("g0002-r01", "a001", "7_0", rc, max(0, rc - 128), nodes, 102.0, 110.0)


def test_the_schedulers_state_comes_before_the_logs_last_line() -> None:
    failure = classify(JobState(RunState.FAILED, "DEADLINE", reason="by 0"), None, [], "step 40: loss 0.3")
    assert (failure.kind, failure.evidence) == ("deadline", "DEADLINE (by 0); the log ends with: step 40: loss 0.3")


def test_a_checkpoint_written_at_the_time_limit_is_an_interruption() -> None:
    line = "hpcjobs: SIGUSR1: ended after step 9, a checkpoint of step 9 is written"
    assert classify(JobState(RunState.FAILED, "TIMEOUT"), ended(75), [], line).kind == "interrupted"
    assert classify(JobState(RunState.FAILED, "PREEMPTED"), ended(75), [], line).kind == "preempted"


def test_a_rank_that_gave_up_is_why_the_others_reached_the_time_limit() -> None:
    aborts = [gave_up(ErrorCode.NAN_LOSS, "the loss is nan at step 7")]
    assert classify(JobState(RunState.FAILED, "TIMEOUT"), None, aborts, "DUE TO TIME LIMIT").kind == ErrorCode.NAN_LOSS


def test_a_rank_that_stalls_because_a_node_died_is_not_the_cause() -> None:
    aborts = [
        gave_up(ErrorCode.STALLED, "no progress for 600 s at step 7: no sign of life from rank 1 on n2, last at step 6")
    ]
    failure = classify(None, ended(1), aborts, "srun: error: Node failure on n2")
    assert (failure.kind, failure.nodes) == ("node_failure", ("n2",))


def test_ranks_that_fail_because_another_ended_are_skipped(tmp_path: Path) -> None:
    consequence = gave_up(
        "unexpected", "UnknownError: Horovod has been shut down. This was caused by", rank=0, time=1.0
    )
    cause = gave_up("unexpected", "OSError: [Errno 28] No space left on device", rank=1, time=2.0)
    failure = why(tmp_path, 1, "", consequence, cause)
    assert (failure.kind, failure.evidence) == (
        "disk_full",
        "OSError: [Errno 28] No space left on device (rank 1 on n2)",
    )
    assert classify(None, ended(137), [consequence], "srun: error: n2: task 1: Killed").kind == "signal"


def rank(number: int, rc: int, end: float, number_of_signal: int = 0) -> RankRecord:
    return RankRecord(number, f"n{number // 2 + 1}", rc, number_of_signal, end)


def test_a_rank_that_raised_is_named_with_its_node() -> None:
    """As rank_end.py writes it; PyTorch prints the same line with the rank alone."""
    aborts = [gave_up("unexpected", "ValueError: a bad image", rank=3, time=5.0)]
    ranks = [rank(3, 1, 5.4), rank(0, 143, 6.0, 15), rank(1, 143, 6.0, 15)]
    failure = classify(None, ended(1), aborts, "[rank3]: ValueError: a bad image", ranks)
    assert (failure.kind, failure.evidence) == ("traceback", "ValueError: a bad image (rank 3 on n4)")


@pytest.mark.parametrize(("rc", "number"), [(137, 9), (3, 0)])
def test_an_exception_after_another_ranks_own_end_is_no_cause(rc: int, number: int) -> None:
    # In words that no list of consequences has.
    aborts = [gave_up("unexpected", "RuntimeError: Timed out waiting 20000ms for send operation", rank=0, time=7.0)]
    ranks = [rank(3, rc, 5.0, number), rank(0, 1, 7.5)]
    failure = classify(None, ended(rc), aborts, "RuntimeError: Timed out waiting 20000ms for send operation", ranks)
    how = f"signal {number}" if number else f"exit code {rc}"
    assert failure.evidence.startswith(f"rank 3 on n2 ended with {how}: ")
    # A rank that a launcher ended after the exception is none.
    first = [gave_up("unexpected", "KeyError: 'labels'", rank=0, time=4.0)]
    assert classify(None, ended(1), first, "", ranks).evidence == "KeyError: 'labels' (rank 0 on n1)"


@pytest.mark.parametrize(
    ("ranks", "line", "kind", "evidence"),
    [
        # The others lose their connection at once, and their records may be the earlier ones.
        ([rank(0, 1, 7.0), rank(3, 137, 7.2, 9)], "ConnectionError: lost", "signal", "rank 3 on n2 ended with signal 9: ConnectionError: lost"),
        ([rank(0, 1, 7.0), rank(3, 3, 7.2)], "ConnectionError: lost", "exit_code", "rank 3 on n2 ended with exit code 3: ConnectionError: lost"),
        # Seconds later, it is the launcher that ends the others.
        ([rank(0, 1, 7.0), rank(3, 137, 9.0, 9)], "ValueError: boom", "traceback", "ValueError: boom (rank 0 on n1)"),
        # The launcher ended the others before they left a record: a lost connection is not that of a killed rank.
        ([rank(5, 137, 7.0, 9), rank(6, 143, 7.1, 15)], "ConnectionError: rank 4: peer went away", "signal", "rank 5 on n3 ended with signal 9: ConnectionError: rank 4: peer went away"),
        ([rank(5, 139, 7.0, 11)], "BrokenPipeError: [Errno 32] Broken pipe", "signal", "rank 5 on n3 ended with signal 11: BrokenPipeError: [Errno 32] Broken pipe"),
        # A crash at the end of Python follows from its exception.
        ([rank(5, 139, 7.0, 11)], "ValueError: boom", "traceback", "ValueError: boom (rank 5 on n3)"),
        # Who raised it is not known, unless the line says so.
        ([rank(0, 1, 7.0), rank(3, 1, 7.2)], "ValueError: boom", "traceback", "ValueError: boom (ranks 0, 3 on n1, n2 ended together)"),
        ([rank(0, 1, 7.0), rank(3, 1, 7.2)], "[rank3]: ValueError: boom", "traceback", "[rank3]: ValueError: boom (rank 3 on n2)"),
        ([rank(0, 2, 7.0), rank(1, 2, 7.2)], "error: no such option", "exit_code", "ranks 0, 1 on n1 ended with exit code 2: error: no such option"),
    ],
)  # fmt: skip
def test_of_the_ranks_that_failed_the_one_that_did_not_follow_another_is_named(
    ranks: list[RankRecord], line: str, kind: str, evidence: str
) -> None:
    found = classify(None, ended(143), (), line, ranks)
    assert (found.kind, found.evidence) == (kind, evidence)


def test_a_rank_that_wrote_its_checkpoint_and_left_is_not_the_one_that_failed() -> None:
    ranks = [rank(0, 143, 7.0, 15), rank(1, 3, 6.0), rank(2, 75, 5.0)]
    assert classify(None, ended(3), [], "", ranks).evidence == "rank 1 on n1 ended with exit code 3"


@pytest.mark.parametrize(
    ("message", "kind"),
    [("ValueError: boom", "traceback"), ("ConnectionError: rank 4: peer went away", "signal")],
)
def test_what_a_ranks_framework_wrote_down_stands_unless_it_is_a_lost_connection(message: str, kind: str) -> None:
    told = {"code": "unexpected", "message": message, "time": 6.9}
    ranks = [rank(5, 137, 7.0, 9), rank(4, 1, 7.1)]
    assert classify(None, ended(137), [told], message, ranks).kind == kind


def test_a_lost_connection_explains_no_failure_if_another_rank_raised_something_else(tmp_path: Path) -> None:
    lines = "ConnectionError: another rank has ended\nBrokenPipeError: [Errno 32] Broken pipe\n"
    assert why(tmp_path, 1, lines + "ValueError: boom\n").evidence == "ValueError: boom"
    assert why(tmp_path, 1, lines).evidence == "ConnectionError: another rank has ended"


def test_no_rank_of_a_stalled_run_is_named_because_all_are_ended() -> None:
    stalled = {"code": "stalled", "message": "no output for 9 s", "nodes": [], "time": 5}
    found = classify(None, ended(137), [stalled], "", [rank(0, 137, 7.0, 9)])
    assert (found.kind, found.evidence) == ("stalled", "no output for 9 s")


def test_a_workdir_that_the_node_lacks_has_a_class_of_its_own() -> None:
    line = "hpcjobs: error: workdir_missing: cannot enter /w: No such file or directory"
    assert classify(None, ended(1), [], line).kind == "workdir_missing"


def test_bashs_codes_for_a_command_that_it_cannot_run() -> None:
    assert classify(None, ended(127), [], "").kind == "launch"
    assert classify(None, ended(126), [], "").evidence == "exit code 126"


def test_an_exit_code_or_signal_stands_beside_a_line_that_does_not_explain_it() -> None:
    assert str(classify(None, ended(3), [], "step 40")) == "exit_code: exit code 3: step 40"
    assert str(classify(None, ended(139), [], "step 40")) == "signal: signal 11: step 40"
    # sacct shows a killed job's exit code as 0:9.
    assert classify(JobState(RunState.FAILED, "FAILED", exit_code=0, signal=9), None, [], "").kind == "signal"


def test_slurms_reasons_name_a_class_where_its_word_does_not() -> None:
    assert classify(JobState(RunState.FAILED, "FAILED", reason="JobLaunchFailure"), None, [], "").kind == "launch"
    assert classify(JobState(RunState.FAILED, "FAILED", reason="NodeDown", nodelist="n4"), None, [], "").nodes == (
        "n4",
    )


# --- nodes to exclude ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "job", "bad"),
    [
        ("srun: error: Node failure on c4140-3", "c4140-[1-4]", ("c4140-3",)),
        ("srun: error: Node failure on c4140-[2-3]", "c4140-[1-4]", ("c4140-2", "c4140-3")),
        ("Remote daemon: [[32679,0],1] on node c4140-2", "c4140-[1-2]", ()),  # a line without a class
        ("ORTE has lost communication with a remote daemon Remote daemon: [[3,0],1] on node c4140-2", "c4140-[1-2]", ("c4140-2",)),
        # The host's own name is longer than Slurm's.
        ("ORTE has lost communication with its daemon located on node: hostname: n2.site.org", "n[1-2]", ("n2",)),
        # An address or a node of another job is no use for --exclude.
        ("ORTE has lost communication with a remote daemon Remote daemon: [[3,0],1] on node 10.1.1.2", "n[1-2]", ()),
        ("srun: error: Node failure on n7", "n[1-2]", ()),
        ("srun: error: Task launch for StepId=20.0 failed on node n2: Communication connection failure", "n[1-2]", ("n2",)),
        ("n2:4242:4711 [0] enqueue.cc:99 NCCL WARN Cuda failure 'uncorrectable ECC error encountered'", "n[1-2]", ("n2",)),
        ("Nov 25 12:00:00 n2 kernel: NVRM: Xid (PCI:0000:dc:00): 79, GPU has fallen off the bus.", "n[1-2]", ("n2",)),
        # A node that is alive prints this.
        ("slurmstepd: error: *** JOB 12 ON n1 CANCELLED AT 2026 DUE TO NODE FAILURE, SEE SLURMCTLD LOG", "n[1-2]", ()),
        ("slurmstepd: error: *** JOB 12 ON n1 CANCELLED AT 2026 DUE TO NODE FAILURE, SEE SLURMCTLD LOG", "n1", ("n1",)),
        ("srun: error: n2: task 1: Killed", "n[1-2]", ()),
    ],
)  # fmt: skip
def test_the_nodes_that_the_evidence_calls_bad(line: str, job: str, bad: tuple[str, ...]) -> None:
    assert classify(None, ended(1, job), [], line).nodes == bad


def test_the_node_of_the_silent_rank_is_excluded_and_not_that_of_the_rank_that_reports_it() -> None:
    silent = gave_up(
        ErrorCode.STALLED,
        "no progress for 600 s at step 7: no sign of life from rank 0 on n1, last at step 6; rank 5 on n3, last at step 6",
        rank=1,
    )
    assert classify(None, ended(1, "n[1-3]"), [silent], "").nodes == ("n1", "n3")
    nobody = gave_up(
        ErrorCode.STALLED, "no progress for 600 s at step 7: all ranks live (step 6, step 7), none goes on"
    )
    assert classify(None, ended(1, "n[1-3]"), [nobody], "").nodes == ()


def test_the_nodes_that_a_rank_reports_count_whatever_its_message_says() -> None:
    silent = {**gave_up(ErrorCode.STALLED, "no progress: rank 0 on n2, last at step 6"), "nodes": ["n1.cluster"]}
    assert classify(None, ended(1, "n[1-3]"), [silent], "").nodes == ("n1",)


def test_a_node_that_does_not_boot_is_the_jobs_only_one() -> None:
    assert classify(JobState(RunState.FAILED, "BOOT_FAIL", nodelist="n1"), None, [], "").nodes == ("n1",)
    assert classify(JobState(RunState.FAILED, "BOOT_FAIL", nodelist="n[1-2]"), None, [], "").nodes == ()
