"""What a dead run left becomes a class, a hint and whether to try again; the logs are as launchers print them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hpcjobs import rundir
from hpcjobs.cli.show import reason
from hpcjobs.contract import ErrorCode
from hpcjobs.engine.state import RunStatus
from hpcjobs.failures import classify
from hpcjobs.logs import evidence
from hpcjobs.records import ExitRecord, Failure, RunState

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
    """Of an attempt that left these files."""
    (attempt / "job.log").write_text(log)
    for abort in aborts:
        (attempt / f"abort-r{abort['rank']:03d}.json").write_text(json.dumps(abort))
    ended = ExitRecord("g0002-r01", "a001", "7_0", rc, max(0, rc - 128), "n[1-2]", 102.0, 110.0)
    return classify(None, ended, rundir.read_aborts(attempt), evidence.why(attempt / "job.log"))


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
    assert (failure.kind, failure.retryable) == (code, False)
    shown = reason(RunStatus("g0002-r01", RunState.FAILED, failure=failure))
    told, _, advice = shown.partition(" -- ")
    assert told == f"{code}: {message} (rank 1 on n2)"
    assert hint in advice


@pytest.mark.parametrize(("log", "name"), [(SRUN_INTERRUPTED, "SIGTERM"), (MPIRUN_INTERRUPTED, "SIGUSR1")])
def test_an_interrupted_run_says_which_checkpoint_and_is_worth_another_try(log: str, name: str, tmp_path: Path) -> None:
    failure = why(tmp_path, 75, log)
    assert (failure.kind, failure.retryable) == ("interrupted", True)
    assert failure.evidence.startswith(f"hpcjobs: {name}: ended after step ")
    assert "it goes on" in failure.hint


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
