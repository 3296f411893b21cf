"""A sweep's folder: when a new one may be made, what a killed one left, claims and the journal."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from hpcjobs.base import sweepdir
from hpcjobs.base.errors import InputError
from hpcjobs.base.files import write_json
from hpcjobs.base.lock import process
from hpcjobs.base.sweepdir import SweepDir
from hpcjobs.engine.folder import UNFINISHED, begin
from hpcjobs.engine.journal import locked
from tests.control.sweeps import append

DEAD = {"host": socket.gethostname(), "pid": 2**22, "started": 1}


def left(folder: Path, writer: dict) -> None:
    """What a process leaves that was killed while it wrote a sweep."""
    (folder / "runs" / "g0001-r01").mkdir(parents=True)
    write_json(folder / UNFINISHED, writer)


def test_what_a_killed_process_left_makes_room_for_a_new_sweep(tmp_path: Path) -> None:
    left(tmp_path / "o", DEAD)
    begin(tmp_path / "o")
    assert os.listdir(tmp_path / "o") == [UNFINISHED]


@pytest.mark.parametrize("writer", [process(), {**DEAD, "host": "elsewhere"}])
def test_what_a_living_process_writes_is_not_touched(tmp_path: Path, writer: dict) -> None:
    left(tmp_path / "o", writer)
    with pytest.raises(InputError, match=rf"process {writer['pid']} on {writer['host']} is writing a sweep"):
        begin(tmp_path / "o")
    assert (tmp_path / "o" / "runs" / "g0001-r01").is_dir()


def test_a_mark_does_not_give_away_what_is_not_ours(tmp_path: Path) -> None:
    left(tmp_path / "o", DEAD)
    (tmp_path / "o" / "thesis.tex").touch()
    with pytest.raises(InputError, match="exists and is not an empty folder"):
        begin(tmp_path / "o")
    assert (tmp_path / "o" / "runs" / "g0001-r01").is_dir()


def test_a_link_in_it_is_removed_and_not_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    left(tmp_path / "o", DEAD)
    (tmp_path / "o" / "slurm").symlink_to(tmp_path / "precious")
    begin(tmp_path / "o")
    assert (tmp_path / "precious" / "file").exists()


def test_a_claim_is_revoked_once_and_not_over_a_jobs(tmp_path: Path) -> None:
    where = SweepDir(tmp_path)
    where.run("g0001-r01").mkdir(parents=True)
    assert sweepdir.revoke_claim(where, "g0001-r01", 1, "cancel")
    assert not sweepdir.revoke_claim(where, "g0001-r01", 1, "cancel")
    where.claim("g0001-r01", 2).write_text('{"job": "7_0"}')
    assert not sweepdir.revoke_claim(where, "g0001-r01", 2, "cancel")
    assert where.claim("g0001-r01", 2).read_text() == '{"job": "7_0"}'
    assert sorted(os.listdir(where.run("g0001-r01"))) == ["claim-s001", "claim-s002"]


def test_a_journal_that_is_a_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine\n")
    (tmp_path / "o").mkdir()
    where = SweepDir(tmp_path / "o")
    where.journal.symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic links"):
        append(where, "submitting")
    assert (tmp_path / "victim").read_text() == "mine\n"


def test_a_line_that_could_not_be_written_whole_leaves_the_journal_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a disk that is full, which may show as late as fsync()."""
    where = SweepDir(tmp_path)
    append(where, "cancel", runs=["a"])
    before = where.journal.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with locked(where) as journal:
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            journal.append("cancel", runs=["b"])
    assert where.journal.read_bytes() == before


def test_a_refusal_in_any_words_stands_in_the_journal(tmp_path: Path) -> None:
    where = SweepDir(tmp_path)
    append(where, "refused", group="g0001", submission=1, indices=[0], said="non\u2028merci\x85")
    assert [event["said"] for event in sweepdir.read_journal(where)] == ["non\u2028merci\x85"]


def test_a_journal_cut_short_loses_one_line_and_no_later_one(tmp_path: Path) -> None:
    where = SweepDir(tmp_path)
    append(where, "submitting", group="g0001", submission=1, indices=[0])
    with where.journal.open("a") as file:
        file.write('{"time": 1, "event": "submi')
    append(where, "submitted", group="g0001", submission=1, indices=[0], job="7")
    assert [event["event"] for event in sweepdir.read_journal(where)] == ["submitting", "submitted"]
