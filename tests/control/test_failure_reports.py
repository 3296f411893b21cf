"""Reports of failing jobs have their class and the line that says why; of chained exceptions, the one that counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcjobs.base.records import ExitRecord, Failure
from hpcjobs.collect import chained, evidence
from hpcjobs.collect.failures import classify
from tests.control.failure_reports import REPORTS

RAISED = 'Traceback (most recent call last):\n  File "/w/train.py", line 8, in main\n    step(batch)\n'
STEPS = "".join(f"step {step} loss 0.3\n" for step in range(40))
CAUSED = "\nThe above exception was the direct cause of the following exception:\n\n"
HANDLED = "\nDuring handling of the above exception, another exception occurred:\n\n"
FULL = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
LOST = "torch.distributed.DistBackendError: NCCL error in: NCCLUtils.hpp:268, remote process exited"


def why(tmp_path: Path, log: str, code: int = 1) -> Failure:
    (tmp_path / "job.log").write_text(f"hpcjobs: 4 ranks on n1\n{log}")
    ended = ExitRecord("g0002-r01", "a001", "7_0", code, 0, "n[1-2]", 102.0, 110.0)
    return classify(None, ended, [], evidence.why(tmp_path / "job.log"))


@pytest.mark.parametrize(("kind", "part", "log"), REPORTS, ids=[f"{kind}-{part[:30]}" for kind, part, _ in REPORTS])
def test_reports_have_their_class_and_the_line_that_says_why(kind: str, part: str, log: str, tmp_path: Path) -> None:
    failure = why(tmp_path, log)
    assert failure.kind == kind, failure.evidence
    assert part in failure.evidence
    assert len(failure.evidence) <= 450


@pytest.mark.parametrize(
    ("first", "link", "second", "counts"),
    [
        # `raise ... from` names the cause; an exception in an `except` ended the program.
        ("KeyError: 'lr'", CAUSED, "ValueError: a bad configuration", "KeyError: 'lr'"),
        ("KeyError: 'adan'", HANDLED, "ValueError: unknown optimizer 'adan'", "ValueError: unknown optimizer 'adan'"),
        # What has a class of its own counts wherever it stands.
        (FULL, HANDLED, "RuntimeError: cannot save the checkpoint", FULL),
        ("ImportError: no fast version", HANDLED, "KeyError: 'lr'", "KeyError: 'lr'"),
        # The loss of another rank is no cause of what came before it, and explains what comes after.
        ("ValueError: boom", HANDLED, LOST, "ValueError: boom"),
        ("ValueError: boom", HANDLED, "ConnectionResetError: [Errno 104] Connection reset by peer", "ValueError: boom"),
        (LOST, HANDLED, "RuntimeError: cannot save the checkpoint", LOST),
        # It says only that a process failed.
        ("subprocess.CalledProcessError: Command '['ninja', '-v']' returned non-zero exit status 1.", CAUSED,
         "RuntimeError: Error building extension 'fused_adam'", "RuntimeError: Error building extension 'fused_adam'"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("label", ["", "[rank3]: ", "[1,3]<stderr>:"])
def test_of_chained_exceptions_one_counts(
    first: str, link: str, second: str, counts: str, label: str, tmp_path: Path
) -> None:
    chain = f"{RAISED}{first}\n{link}{RAISED}{second}\n"
    log = "".join(f"{label}{line}\n" for line in chain.splitlines())
    assert counts in why(tmp_path, STEPS + log).evidence


def test_a_chain_of_three_ends_with_what_ended_the_program(tmp_path: Path) -> None:
    """Of urllib3 and requests: the host's name is not known, therefore no connection, therefore no file."""
    chain = f"{RAISED}socket.gaierror: [Errno -2] no name\n{CAUSED}{RAISED}NewConnectionError: no\n{HANDLED}{RAISED}KeyError: 'x'\n"
    assert why(tmp_path, chain).evidence == "KeyError: 'x'"


def test_chains_of_ranks_that_print_at_once_are_kept_apart(tmp_path: Path) -> None:
    chain = f"{RAISED}KeyError: 'adan'\n{HANDLED}{RAISED}ValueError: unknown optimizer 'adan'\n".splitlines()
    log = "".join(f"[rank{rank}]: {line}\n" for line in chain for rank in range(8))
    assert why(tmp_path, log).evidence == "[rank0]: ValueError: unknown optimizer 'adan' (8 ranks)"


def test_two_exceptions_without_a_link_are_no_chain() -> None:
    lines = [*RAISED.splitlines(), "KeyError: 'a'", *RAISED.splitlines(), "ValueError: b", HANDLED.strip()]
    assert chained.without_superseded(lines) == lines


# vllm-project/vllm issue 26161, and eole-nlp/eole issue 254, shortened
@pytest.mark.parametrize(
    ("counted", "below"),
    [
        ("1 validation error for ModelConfig", ["Value error, Expecting value: line 1 column 1 (char 0)"]),
        ("32 validation errors for TrainConfig", ["src_vocab", "Field required [type=missing, input_type=dict]"]),
    ],
)
@pytest.mark.parametrize("label", ["", "[rank3]: "])
def test_of_a_configuration_that_is_refused_the_first_key_is_told(
    counted: str, below: list[str], label: str, tmp_path: Path
) -> None:
    raised = f"pydantic_core._pydantic_core.ValidationError: {counted}"
    log = [
        *RAISED.splitlines(),
        raised,
        *below,
        "    For further information visit https://errors.pydantic.dev/2.12/v/x",
    ]
    failure = why(tmp_path, "".join(f"{label}{line}\n" for line in log))
    assert (failure.kind, failure.evidence) == ("traceback", label + ": ".join([raised, *below]))


def test_the_exception_of_a_worker_is_the_one_it_raised_itself(tmp_path: Path) -> None:
    """As PyTorch's DataLoader, torch.multiprocessing.spawn and Ray print them."""
    loader = f"{RAISED}KeyError: Caught KeyError in DataLoader worker process 0.\nOriginal {RAISED}KeyError: 'label'\n"
    assert why(tmp_path, loader).evidence == "KeyError: 'label'"
    spawned = (
        f"{RAISED}torch.multiprocessing.spawn.ProcessRaisedException: \n\n"
        f"-- Process 1 terminated with the following error:\n{RAISED}ValueError: a bad lr\n"
    )
    assert why(tmp_path, spawned).evidence == "ValueError: a bad lr"
    # ray-project/ray issue 31828
    task = "ray.exceptions.RayTaskError(RuntimeError): ray::TrainTrainable.train() (pid=1876, ip=100.97.252.234)\n"
    frame = '  File "/x/trainable.py", line 367, in train\n    raise skipped from exception_cause(skipped)\n'
    assert why(tmp_path, f"{task}{frame}RuntimeError: a bad shard\n").evidence == "RuntimeError: a bad shard"


def test_a_job_that_slurm_requeued_into_the_same_log_failed_of_what_came_last(tmp_path: Path) -> None:
    requeued = "slurmstepd: error: *** JOB 608 ON n1 CANCELLED AT 2022-08-12T02:06:12 DUE TO JOB REQUEUE ***\n"
    assert why(tmp_path, STEPS + requeued).kind == "preempted"
    assert why(tmp_path, f"{STEPS}{requeued}{STEPS}{RAISED}KeyError: 'last'\n").evidence == "KeyError: 'last'"


def test_a_long_line_shows_its_beginning_and_what_it_says(tmp_path: Path) -> None:
    said = why(
        tmp_path, f"loading {'x' * 900} ImportError of y: CUDA out of memory. Tried to allocate 2 GiB {'z' * 900}\n"
    )
    assert said.evidence.startswith("loading xxx")
    assert " ... CUDA out of memory. Tried to allocate 2 GiB zzz" in said.evidence
    assert len(said.evidence) == 400


# What programs print at the start of runs that end well.
BEFORE = """\
Lmod is automatically replacing "intel/24.0" with "gcc/15.1.0".
INFO:    squashfuse not found, will not be able to mount SIF or other squashfs files
pyxis: imported docker image: nvcr.io#nvidia/pytorch:23.08-py3
2023-01-01 10:00:00.1: W tensorflow/stream_executor/platform/default/dso_loader.cc:64] Could not load dynamic library 'libcudart.so.11.0'; dlerror: libcudart.so.11.0: cannot open shared object file: No such file or directory
2023-01-01 10:00:00.1: W tensorflow/tsl/framework/bfc_allocator.cc:296] Allocator (GPU_0_bfc) ran out of memory trying to allocate 2.57GiB with freed_by_count=0. The caller indicates that this is not a failure
n1:1:2 [0] NCCL INFO NET/Plugin: Plugin load returned 2 : libnccl-net.so: cannot open shared object file: No such file or directory : when loading libnccl-net.so
[W socket.cpp:601] [c10d] The IPv6 network addresses of (n1, 53821) cannot be retrieved (gai error: -3 - Temporary failure in name resolution).
W0731 10:49:55.044000 3247964 torch/distributed/run.py:792] Setting OMP_NUM_THREADS environment variable for each process to be 1
wandb: Network error (ConnectionError), entering retry loop.
srun: Job 5 step creation temporarily disabled, retrying (Requested nodes are busy)
slurmstepd: error: couldn't chdir to `/home/x': No such file or directory: going to /tmp instead
{'on_error': 'raise', 'oom': False, 'kill': 'never'}
"""


@pytest.mark.parametrize(("kind", "part", "log"), REPORTS, ids=[f"{kind}-{part[:30]}" for kind, part, _ in REPORTS])
def test_what_good_runs_print_at_their_start_changes_nothing(kind: str, part: str, log: str, tmp_path: Path) -> None:
    failure = why(tmp_path, f"{BEFORE}{STEPS}{log}")
    assert (failure.kind, part in failure.evidence) == (kind, True), failure.evidence


def test_what_good_runs_print_at_their_start_is_no_cause(tmp_path: Path) -> None:
    assert why(tmp_path, f"{BEFORE}{STEPS}bye\n", code=3).evidence == "exit code 3: bye"


def test_a_line_of_slurms_that_no_list_has_comes_after_the_programs_own(tmp_path: Path) -> None:
    slurms = "slurmstepd: error: Failed to send MESSAGE_TASK_EXIT: Connection refused\n"
    assert why(tmp_path, f"{slurms}train.py: error: lost my way\n").evidence.startswith(
        "exit code 1: train.py: error: lost my way; slurmstepd: error: Failed to send"
    )


HARMLESS = """\
step {0} error_rate: 0.1 loss 0.3
no errors found in shard {0}
retrying after timeout 3 s ... ok
levels: DEBUG INFO WARNING ERROR FATAL
0 errors, 0 failures, 0 killed
panic button: off
"""


@pytest.mark.timeout(300)
def test_a_hundred_thousand_harmless_lines_give_no_cause(tmp_path: Path) -> None:
    found = why(tmp_path, "".join(HARMLESS.format(number) for number in range(17_000)) + "bye\n", code=3)
    assert (found.kind, found.evidence) == ("exit_code", "exit code 3: bye")


@pytest.mark.timeout(300)  # hours, if a pattern of containers tries each length of the space after the word
@pytest.mark.parametrize("word", ["FATAL:", "pyxis:", "panic:"])
def test_words_before_much_space_are_searched_quickly(word: str, tmp_path: Path) -> None:
    assert why(tmp_path, f"{word}{' ' * 1900}x\n" * 300).kind == "exit_code"
