"""What is shown of runs from one look to the next."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcjobs.engine import follow, submit
from hpcjobs.files import write_json
from hpcjobs.records import JobState, RunState

from .test_resume import new, quietly


def test_a_task_that_failed_before_its_attempt_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep, scheduler = new(tmp_path / "o", monkeypatch)
    scheduler.kills = ["", "late"]
    for run in ("g0001-r01", "g0001-r02"):  # their tasks find the claim taken and do nothing here
        write_json(sweep.where.claim(run, 1), {"job": "1_0"})
    with pytest.raises(BaseException, match="late"):
        submit.submit_all(sweep, {}, quietly)
    scheduler.states["1_0"] = JobState(RunState.FAILED, "FAILED", exit_code=1)
    said = "hpcjobs: error: disk_full: cannot write x: No space left on device"
    (sweep.where.slurm / "1_0.out").write_text(f"{said}\n")
    run = follow.snapshot(sweep)[0]
    assert run.failure is not None
    assert (run.state, run.failure.kind, run.failure.evidence) == (RunState.FAILED, "disk_full", said)
