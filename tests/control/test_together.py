"""Two people, two login nodes and a cron job work on one study."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import time
from pathlib import Path

import pytest

from hpcjobs.base.lock import Locked
from tests.control import sweeps


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return sweeps.ended(tmp_path / "study", (1, 2), failed=2, says="RuntimeError: boom\n")


def test_what_another_login_node_works_on_is_read_and_not_touched(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, fake, _ = sweeps.opened(folder, monkeypatch)
    holder = {"host": "login2", "pid": 7, "started": 1, "since": 0, "id": "theirs"}
    (folder / "lock").write_text(json.dumps(holder))
    for command in (study.resume, study.cancel):
        with pytest.raises(
            Locked, match=r"study: process 7 on login2 is working on it since 1970-01-01 .* wait for it"
        ):
            command()
    assert not fake.jobs
    assert not fake.cancels
    assert [str(run.state) for run in study.status()] == ["done", "failed"]
    assert study.report().rows  # of a cron job
    # The other node is gone: it has not touched its lock for two minutes.
    before = time.time() - 121
    os.utime(folder / "lock", (before, before))
    assert study.resume().runs == ("g0002-r01",)


def test_a_group_that_shares_a_study_may_write_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with umask 002 and the setgid bit of the folder."""
    if os.getuid():
        pytest.skip("only root gives a folder to another group")
    group = 54321
    os.chown(tmp_path, -1, group)
    tmp_path.chmod(0o2775)
    before = os.umask(0o002)
    try:
        folder = sweeps.ended(tmp_path / "study", (1, 2), failed=2, says="RuntimeError: boom\n")
        study, _, _ = sweeps.opened(folder, monkeypatch)
        assert study.resume().runs
        study.report()
    finally:
        os.umask(before)
    for path in folder.rglob("*"):
        found = path.stat()
        assert found.st_gid == group, path
        # A script that changes is written under another name, which takes the right to write to its folder.
        if path.is_dir() or "scripts" not in path.parts:
            assert found.st_mode & stat.S_IWGRP, path


def test_a_study_under_another_mount_is_the_same_study(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = folder.with_name("home2")
    other.mkdir()
    if subprocess.run(["mount", "--bind", folder, other], capture_output=True).returncode:
        pytest.skip("only root binds a folder to another name")
    try:
        study, fake, told = sweeps.opened(other, monkeypatch)
        assert study.resume().runs == ("g0002-r01",)
        assert told == []
        # The nodes have the name under which it was begun.
        assert str(folder) in next(iter(fake.jobs.values())).script.read_text()
    finally:
        subprocess.run(["umount", "--lazy", other], check=True)
