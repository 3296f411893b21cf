"""A study that was moved goes on from its new place; a copy is read, and never acts on the original's jobs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hpcjobs.base.errors import InputError
from hpcjobs.base.sweepdir import SweepDir, read_journal
from hpcjobs.schedulers import factory
from tests.control import sweeps


@pytest.fixture
def first(tmp_path: Path) -> Path:
    return sweeps.ended(tmp_path / "first", (1, 2), failed=2, says="RuntimeError: boom\n")


def test_a_copy_reports_and_neither_resumes_nor_cancels(first: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = first.with_name("copy")
    shutil.copytree(first, copy)
    study, fake, _ = sweeps.opened(copy, monkeypatch)
    assert [str(run.state) for run in study.status()] == ["done", "failed"]
    assert (copy / "report/scaling-report.csv") in study.report().files
    before = {path: path.stat().st_mtime_ns for path in first.rglob("*")}
    for act in (study.resume, study.cancel):
        with pytest.raises(InputError, match="copy of the study in") as error:
            act()
        assert str(first) in str(error.value)
        assert f"`hpcjobs sweep --from {copy}`" in str(error.value)
    assert not fake.jobs
    assert not fake.cancels
    assert {path: path.stat().st_mtime_ns for path in first.rglob("*")} == before


def test_a_study_that_was_moved_goes_on_with_scripts_of_its_new_place(
    first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = first.with_name("new")
    first.rename(new)
    study, fake, told = sweeps.opened(new, monkeypatch)
    assert study.resume().runs == ("g0002-r01",)
    (script,) = [job.script for job in fake.jobs.values() if job.group == "g0002"]
    assert script == new / "scripts/g0002.sbatch"
    assert str(first) not in script.read_text()
    assert str(new) in script.read_text()
    assert told == [f"the study was moved from {first}: its scripts are written anew"]
    assert [event["to"] for event in read_journal(SweepDir(new)) if event["event"] == "moved"] == [str(new)]
    # Moved back, or again: each time from the place where it was last. While its runs are under way there, it was
    # hardly moved: this machine has another name for the same folder.
    told.clear()
    new.rename(first)
    study, _, told = sweeps.opened(first, monkeypatch)
    monkeypatch.setattr(factory, "make", lambda *args, **more: fake)
    with pytest.raises(InputError, match=rf"1 of its runs are under way in {new}, a name that \S+ does not have"):
        study.resume()
    assert study.cancel() == ["g0002-r01"]
    assert study.resume().runs == ("g0002-r01",)
    assert told == [f"the study was moved from {new}: its scripts are written anew"]


def test_another_study_in_the_old_place_is_not_the_original(first: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new = first.with_name("new")
    first.rename(new)
    first.mkdir()
    study, _, told = sweeps.opened(new, monkeypatch)
    study.resume()
    assert told == [f"the study was moved from {first}: its scripts are written anew"]


def test_the_same_folder_under_another_name_is_no_copy(first: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A link stands for a mount: what is compared is the folder that a path leads to.
    alias = first.with_name("alias")
    alias.symlink_to(first)
    where = SweepDir(first)
    text = where.sweep_yaml.read_text().replace(f"begun_in: {first}", f"begun_in: {alias}")
    assert str(alias) in text
    where.sweep_yaml.write_text(text)
    study, _, told = sweeps.opened(first, monkeypatch)
    assert study.resume().runs == ("g0002-r01",)
    assert told == []


def test_without_its_journal_nothing_is_submitted_beside_what_has_begun(
    first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first / "runs/g0001-r01/claim-s001").write_text('{"job": "1_0", "submission": 1}\n')
    (first / "journal.jsonl").unlink()
    study, fake, _ = sweeps.opened(first, monkeypatch)
    with pytest.raises(InputError, match=r"journal\.jsonl is missing, and a job has made .*claim-s001"):
        study.resume()
    assert not fake.jobs
