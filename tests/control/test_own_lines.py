"""Where only the launcher says that a process failed, the evidence is what the command itself said last."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcjobs.base.records import ExitRecord
from hpcjobs.collect import evidence
from hpcjobs.collect.failures import classify
from hpcjobs.trainers.command import CommandTrainer
from tests.control.failure_lines import GLOO_CLOSED, PRIMARY_JOB, TORCHRUN_EXITED

SRUN_SAYS = """\
srun: error: c4140-1: tasks 0-3: Exited with exit code 2
srun: launch/slurm: _step_signal: Terminating StepId=16.3
slurmstepd-c4140-2: error: *** STEP 16.3 ON c4140-2 CANCELLED AT 2026-11-25T14:29:38 ***
srun: error: c4140-2: task 4: Terminated
"""
MPIRUN_SAYS = f"""\
{PRIMARY_JOB}{"-" * 74}
mpirun detected that one or more processes exited with non-zero status, thus causing
the job to be terminated. The first process to do so was:

  Process name: [[28868,1],0]
  Exit code:    2
{"-" * 74}
"""
WORDS = [
    ("python3: can't open file '/tmp/x/sdg.py': [Errno 2] No such file or directory\n", "python3: can't open file '/tmp/x/sdg.py': [Errno 2] No such file or directory"),
    ("usage: sgd.py [-h] [--lr LR]\nsgd.py: error: unrecognized arguments: --nope=1\n", "sgd.py: error: unrecognized arguments: --nope=1"),
    ("reading the config\nconfig key lr is missing\n", "config key lr is missing"),
    ("ERROR: dataset /data/x not found\ngoodbye\n", "ERROR: dataset /data/x not found"),
    ("/s/scripts/rank.sh: line 203: exec: pyton3: not found\n", "/s/scripts/rank.sh: line 203: exec: pyton3: not found"),
    # An error is a figure of the training, too.
    ("step 9: validation error: 0.31\nthe table of words is empty\n", "the table of words is empty"),
    ("-----\nno such dataset: x\n-----\n", "no such dataset: x"),
]  # fmt: skip


@pytest.mark.parametrize("says", [SRUN_SAYS, MPIRUN_SAYS, ""], ids=["srun", "mpirun", "none"])
@pytest.mark.parametrize(("text", "words"), WORDS, ids=[words[:20] for _, words in WORDS])
def test_the_commands_own_words_are_the_evidence_not_the_launchers(
    text: str, words: str, says: str, tmp_path: Path
) -> None:
    (tmp_path / "job.log").write_text(f"hpcjobs: 4 ranks on n1\n{text}{says}")
    assert evidence.why(tmp_path / "job.log", ends_known=True) == words
    # Without records of the ranks, the launcher alone says which rank it was.
    both = evidence.why(tmp_path / "job.log")
    assert both.startswith(words)
    assert any(name in both for name in ("c4140-1: tasks 0-3", "[[28868,1],0]")) == bool(says)


def test_of_lines_that_several_ranks_print_the_last_that_a_rank_prints_first_counts(tmp_path: Path) -> None:
    (tmp_path / "job.log").write_text("reading\nno key lr\nno key lr\nreading\nreading\n" + SRUN_SAYS)
    assert evidence.why(tmp_path / "job.log", ends_known=True) == "no key lr"


def test_an_error_long_before_the_end_is_not_the_last_word(tmp_path: Path) -> None:
    steps = "".join(f"step {step}\n" for step in range(100))
    (tmp_path / "job.log").write_text(f"ERROR: no cache, it is made anew\n{steps}" + SRUN_SAYS)
    assert evidence.why(tmp_path / "job.log", ends_known=True) == "step 99"


def test_a_command_that_said_nothing_leaves_the_launchers_line(tmp_path: Path) -> None:
    (tmp_path / "job.log").write_text(SRUN_SAYS)
    assert evidence.why(tmp_path / "job.log") == "srun: error: c4140-1: tasks 0-3: Exited with exit code 2"


def test_what_follows_from_the_end_of_another_rank_is_nobodys_last_word(tmp_path: Path) -> None:
    (tmp_path / "job.log").write_text("no key lr\n" + GLOO_CLOSED + TORCHRUN_EXITED)
    assert evidence.why(tmp_path / "job.log", ends_known=True) == "no key lr"


@pytest.mark.timeout(60)  # a search that looks ahead from each line would take minutes
def test_a_huge_log_without_a_cause_is_searched_quickly(tmp_path: Path) -> None:
    block = f'Traceback (most recent call last):\n  File "x.py", line 3\n{"-" * 74}\n'
    (tmp_path / "job.log").write_text(block * 5000 + "no key lr\n" + SRUN_SAYS)
    assert evidence.why(tmp_path / "job.log", ends_known=True) == "no key lr"


@pytest.mark.parametrize("hints", [{}, CommandTrainer().hints()], ids=["chexnet", "command"])
def test_only_a_line_about_root_has_the_hint_about_root(hints: dict[str, str], tmp_path: Path) -> None:
    root = f"{'-' * 74}\nmpirun has detected an attempt to run as root.\n\nWe reiterate our advice against doing so\n"
    for log, rc, kind in [(root, 1, "run_as_root"), ("rank.sh: line 203: exec: pyton3: not found\n", 127, "launch")]:
        (tmp_path / "job.log").write_text(log)
        ended = ExitRecord("g0002-r01", "a001", "7_0", rc, 0, "n1", 102.0, 110.0)
        found = classify(None, ended, [], evidence.why(tmp_path / "job.log"))
        assert found.kind == kind
        assert ("OMPI_ALLOW_RUN_AS_ROOT" in hints.get(kind, found.hint)) == (kind == "run_as_root")
