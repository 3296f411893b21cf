"""What is cancelled does not run, whatever arrives later; what is resumed before its end waits for it."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpcjobs.base import lock, sweepdir

from .fake_scheduler import KILLED_AFTER, KILLED_BEFORE, LATE, TAKEN
from .scenario import SweepScenario


@given(
    deeds=st.lists(st.sampled_from(["cancel", "cancel one", "resume", "killed", "end", "finish"]), max_size=12),
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_however_often_it_is_cancelled_a_run_is_never_at_work_twice(
    deeds: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The fake scheduler objects to two tasks of a run at once."""
    scenario = SweepScenario(tmp_path_factory.mktemp("s")).working().submitted()
    for deed in [*deeds, "end", "resume", "finish"]:
        if deed == "cancel":
            scenario.cancel()
        elif deed == "cancel one":
            scenario.cancel("g0002-r01")
        elif deed == "resume":
            scenario.resume()
        elif deed == "killed":
            scenario.resume_or_be_killed(KILLED_BEFORE)
        elif deed == "end":
            scenario.all_end(cancelled=True, rc=143)
        else:
            scenario.all_end(cancelled=False)
        scenario.waiting_tasks_start()
    assert scenario.all_done
    assert scenario.results == scenario.runs


# --- resumed before its end ------------------------------------------------------------------------


def test_what_was_cancelled_and_is_still_ending_is_submitted_to_start_after_it(tmp_path: Path) -> None:
    scenario = SweepScenario(tmp_path).working().submitted()
    scenario.cancel("g0002-r01")
    scenario.resume()
    first, second = scenario.tasks("g0002-r01")
    assert scenario.submitted_again == ["g0002-r01"]
    assert scenario.messages == [f"g0002: starts after the end of the cancelled tasks ({first})"]
    assert scenario.starts_after("g0002-r01") == [first]
    assert scenario.state("g0002-r01") == "pending"
    # The new one is cancelled while it waits: the third waits for the first all the same.
    scenario.cancel("g0002-r01")
    scenario.resume()
    third = scenario.tasks("g0002-r01")[-1]
    assert third not in (first, second)
    assert scenario.starts_after("g0002-r01") == [first]
    scenario.ends("g0002-r01", rc=143).waiting_tasks_start()
    assert scenario.executed.count("g0002-r01") == 2
    assert scenario.status("g0002-r01").task == third


def test_a_resume_that_was_killed_on_the_way_still_waits_for_what_was_cancelled(tmp_path: Path) -> None:
    scenario = SweepScenario(tmp_path).working().submitted()
    scenario.cancel("g0002-r01")
    scenario.killed_while_resuming(KILLED_BEFORE)
    scenario.resume()
    assert scenario.submitted_again == ["g0002-r01"]
    assert scenario.starts_after("g0002-r01") == scenario.tasks("g0002-r01")[:1]


def test_a_result_that_comes_after_the_cancel_spares_the_new_task(tmp_path: Path) -> None:
    scenario = SweepScenario(tmp_path).working().submitted()
    scenario.cancel("g0002-r01")
    scenario.resume()
    scenario.ends("g0002-r01").resume()
    assert scenario.submitted_again == []
    scenario.waiting_tasks_start()
    assert scenario.executed.count("g0002-r01") == 1
    assert scenario.state("g0002-r01") == "done"


def test_a_run_with_a_result_is_not_submitted_whatever_becomes_of_what_it_does_after_it(tmp_path: Path) -> None:
    scenario = SweepScenario(tmp_path).working().submitted()
    scenario.cancel("g0002-r02")
    scenario.leaves_a_result("g0002-r02").resume()
    assert scenario.submitted_again == []


# --- cancelled before any answer of the scheduler --------------------------------------------------


def test_what_arrives_after_a_cancel_does_not_run(tmp_path: Path) -> None:
    scenario = SweepScenario(tmp_path).killed_while_submitting(LATE)
    assert scenario.cancel() == ["g0001-r01", "g0001-r02"]
    scenario.late_jobs_arrive()
    assert scenario.executed == []
    assert scenario.state("g0001-r01") == scenario.state("g0001-r02") == "cancelled"


def test_what_was_cancelled_before_any_answer_is_not_sent_under_its_revoked_claim(tmp_path: Path) -> None:
    scenario = SweepScenario(tmp_path).killed_while_submitting(LATE)
    scenario.cancel("g0001-r01")
    scenario.cancel()
    scenario.resume(retryable=True)
    assert sorted(scenario.executed) == ["g0002-r01", "g0002-r02", "g0004-r01", "g0004-r02"]
    assert scenario.state("g0001-r01") == scenario.state("g0001-r02") == "cancelled"
    scenario.resume()
    assert "g0001-r01" in scenario.submitted_again
    scenario.late_jobs_arrive()
    assert sorted(scenario.executed) == scenario.runs
    assert scenario.all_done


def test_one_run_that_was_cancelled_before_any_answer_stays_so_when_its_array_arrives(tmp_path: Path) -> None:
    scenario = SweepScenario(tmp_path).killed_while_submitting(LATE)
    scenario.cancel("g0001-r01")
    scenario.late_jobs_arrive().resume(retryable=True)
    assert scenario.adopted == ["hpcjobs-261125120000abcd-g0001-s01"]
    assert (scenario.state("g0001-r01"), scenario.state("g0001-r02")) == ("cancelled", "done")


# --- where nothing can be written -------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("only root may mount a disk")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def no_room(disk: Path) -> None:
    with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)


def over_quota(disk: Path) -> None:
    """Only its own user's files are full: the quota of a tmpfs is new in Linux 6.6, so the error is made up."""
    raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))


@pytest.mark.parametrize("how", ["No space left on device", "Read-only file system", "Disk quota exceeded"])
def test_jobs_end_where_nothing_can_be_written(how: str, disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = SweepScenario(disk).working().submitted()
    tasks = [task for run in scenario.runs for task in scenario.tasks(run)]
    before = (scenario.where.journal.read_text(), sorted(scenario.where.runs.rglob("*")))
    if how.startswith("No space"):
        no_room(disk)
    elif how.startswith("Read-only"):
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    else:
        monkeypatch.setattr(lock, "claim_link", lambda path, data: over_quota(disk))
    assert scenario.cancel() == scenario.runs
    assert set(scenario.told_to_end) >= {task.partition("_")[0] for task in tasks}
    (line,) = scenario.messages
    assert f"o: cannot be written ({how}): the jobs are told to end, which is not recorded" in line
    assert "cancel again when it can be written" in line
    assert (scenario.where.journal.read_text(), sorted(scenario.where.runs.rglob("*"))) == before
    # With room again, the cancel is recorded.
    if how.startswith("No space"):
        (disk / "filler").unlink()
    elif how.startswith("Read-only"):
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    monkeypatch.undo()
    scenario.messages.clear()
    assert scenario.cancel() == scenario.runs
    assert scenario.messages == []
    assert '"event": "cancel"' in scenario.where.journal.read_text()


def test_a_disk_that_is_full_when_the_jobs_have_ended_is_named_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = SweepScenario(tmp_path).working().submitted()
    monkeypatch.setattr(sweepdir, "claim_link", lambda path, data: over_quota(path))
    assert scenario.cancel("g0002-r01") == ["g0002-r01"]
    assert scenario.told_to_end == scenario.tasks("g0002-r01")
    assert "Disk quota exceeded" in scenario.messages[0]


# --- what the scheduler is asked to end ------------------------------------------------------------


def test_one_run_of_a_job_that_nobody_recorded_is_cancelled(tmp_path: Path) -> None:
    scenario = SweepScenario(tmp_path).queueing().killed_while_submitting(TAKEN, KILLED_AFTER)
    assert scenario.cancel("g0002-r02") == ["g0002-r02"]
    assert scenario.told_to_end == scenario.tasks("g0002-r02")


def test_a_job_that_the_site_renamed_is_cancelled_too(tmp_path: Path) -> None:
    scenario = SweepScenario(tmp_path).working().submitted().renames_jobs()
    scenario.cancel()
    assert scenario.told_to_end == [task for run in scenario.runs for task in scenario.tasks(run)]


def test_a_cancelled_run_that_the_scheduler_does_not_know_is_over(tmp_path: Path) -> None:
    """The controller forgets an ended job after MinJobAge, which may be 2 s; of a run under way that may be late news."""
    scenario = SweepScenario(tmp_path).gpus(1).repeats(1).working().submitted().forgets_every_task()
    assert scenario.state("g0001-r01") == "running"
    assert scenario.cancel() == ["g0001-r01"]
    assert scenario.state("g0001-r01") == "cancelled"
