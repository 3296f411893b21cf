"""The runner of the local scheduler is killed with SIGKILL at any of its lines: no task is lost or started twice."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from hpcjobs.base.records import RunState
from hpcjobs.schedulers.local.local_scheduler import LocalScheduler
from tests.control.localsite import Site

PROGRAM = Path(__file__).parent.parent / "killed_runner.py"
# What a task does: it says that it has begun, and leaves a process behind for a moment.
SCRIPT = "echo $SLURM_ARRAY_TASK_ID >>log; sleep 0.1 & exit 0"


def killed_at(line: int, folder: Path) -> tuple[Site, str]:
    """A site whose first runner was killed at that line, and its job of three tasks, which run one at a time."""
    folder.mkdir()
    site, begun = Site(folder), list[subprocess.Popen[bytes]]()

    def start(self: LocalScheduler, log: int) -> None:
        words = [sys.executable, str(PROGRAM), str(self.queue.folder), str(line), str(folder / "count")]
        begun.append(subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalScheduler, "_start_runner", start)
        job = site.submit(SCRIPT, [0, 1, 2])
    begun[0].wait(300)
    return site, job


@pytest.mark.timeout(7200)
def test_a_runner_that_is_killed_at_any_line_loses_no_task_and_starts_none_twice(tmp_path: Path, soak: bool) -> None:
    site, job = killed_at(1 << 60, tmp_path / "whole")
    assert site.lines("state/log") == ["0", "1", "2"]
    total = int((tmp_path / "whole/count").read_text())
    for line in random.Random(21).sample(range(1, total + 1), 400 if soak else 8):
        site, job = killed_at(line, tmp_path / str(line))
        # The next submission starts another runner, which comes to the end of both jobs.
        second = site.submit("true", [0], "second")
        assert site.wait(f"{second}_0").state is RunState.DONE, line
        begun = site.lines("state/log")
        assert len(set(begun)) == len(begun), f"twice, killed at {line}: {begun}"
        states = {index: site.wait(f"{job}_{index}") for index in range(3)}
        for index, state in states.items():
            # One that was about to start, or to end, is lost: `resume` asks its files, and submits it again if need be.
            assert state.state in (RunState.DONE, RunState.LOST), (line, index, state)
            assert str(index) in begun or state.word == "NO_RUNNER", (line, index, state)
        assert sum(state.state is RunState.LOST for state in states.values()) <= 1, (line, states)
