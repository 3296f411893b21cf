"""The lock, with real processes that hold it, are killed, and race for it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpcjobs.base import lock, sweepdir
from hpcjobs.base.lock import Locked, held
from hpcjobs.base.sweepdir import SweepDir
from hpcjobs.engine.journal import locked
from tests.running import PATIENCE_S, until

HOLDER = """
import sys, time
from pathlib import Path
from hpcjobs.base.lock import held
with held(Path(sys.argv[1]), "the thing"):
    print("held", flush=True)
    time.sleep(1000)
"""
# Takes the lock if it can, and fails if another process holds it at the same time.
RACER = """
import os, sys, time
from pathlib import Path
from hpcjobs.base.lock import Locked, held
lock = Path(sys.argv[1])
(lock.parent / f"ready-{os.getpid()}").touch()
while not (lock.parent / "go").exists():
    time.sleep(0.001)
try:
    with held(lock, "the thing"):
        os.close(os.open(lock.parent / "inside", os.O_CREAT | os.O_EXCL))
        time.sleep(0.05)
        os.unlink(lock.parent / "inside")
        print("in")
except Locked:
    print("out")
"""


def start(program: str, lock: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", program, str(lock)], stdout=subprocess.PIPE, text=True)


def left_by_a_killed_holder(lock: Path) -> None:
    holder = start(HOLDER, lock)
    assert holder.stdout
    assert holder.stdout.readline() == "held\n"
    message = rf"the thing: process {holder.pid} on .* is working on it since 20"
    with pytest.raises(Locked, match=message), held(lock, "the thing"):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert lock.exists()


def test_a_killed_holders_lock_is_taken_over(tmp_path: Path):
    left_by_a_killed_holder(tmp_path / "lock")
    with held(tmp_path / "lock", "the thing"):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    assert not (tmp_path / "lock").exists()


def test_of_many_that_race_for_a_dead_lock_one_at_a_time_is_inside(tmp_path: Path):
    left_by_a_killed_holder(tmp_path / "lock")
    racers = [start(RACER, tmp_path / "lock") for _ in range(8)]
    until(lambda: len(list(tmp_path.glob("ready-*"))) == len(racers))
    (tmp_path / "go").touch()
    output = [racer.communicate(timeout=PATIENCE_S)[0] for racer in racers]
    assert all(racer.returncode == 0 for racer in racers)
    assert "in\n" in output
    assert not (tmp_path / "lock").exists()


def test_a_lock_of_another_host_counts_until_it_is_not_touched_for_long(tmp_path: Path):
    lock = tmp_path / "lock"
    lock.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": 1, "since": 0, "id": "x"}))
    with pytest.raises(Locked, match="process 1 on elsewhere"), held(lock, "the thing"):
        pass
    long_ago = time.time() - 121
    os.utime(lock, (long_ago, long_ago))
    with held(lock, "the thing"):
        pass


def test_a_holder_touches_its_lock_again_and_again_even_after_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lock, "_HEARTBEAT_S", 0.01)
    with held(tmp_path / "lock", "the thing"):
        os.utime(tmp_path / "lock", (0, 0))
        until(lambda: (tmp_path / "lock").stat().st_mtime > 0)
        (tmp_path / "lock").rename(tmp_path / "away")
        time.sleep(0.1)
        os.utime(tmp_path / "away", (0, 0))
        (tmp_path / "away").rename(tmp_path / "lock")
        until(lambda: (tmp_path / "lock").stat().st_mtime > 0)


def test_a_later_process_with_the_same_pid_is_not_the_holder(tmp_path: Path):
    lock = tmp_path / "lock"
    with held(lock, "the thing"):
        ours = json.loads(lock.read_text())
    lock.write_text(json.dumps({**ours, "started": ours["started"] - 1}))
    with held(lock, "the thing"):
        pass


def test_a_lock_that_cannot_be_read_is_not_removed(tmp_path: Path):
    (tmp_path / "lock").touch()
    with pytest.raises(Locked, match=r"cannot be read; if nobody works there, remove it"), held(tmp_path / "lock", "x"):
        pass
    assert (tmp_path / "lock").exists()


def test_a_lock_that_another_process_took_over_is_not_removed(tmp_path: Path):
    with held(tmp_path / "lock", "x"):
        (tmp_path / "lock").write_text('{"id": "theirs"}')
    assert (tmp_path / "lock").read_text() == '{"id": "theirs"}'


def test_a_process_that_lost_its_lock_gets_an_error_before_it_writes(tmp_path: Path):
    where = SweepDir(tmp_path)
    with locked(where) as journal:
        journal.append("submitting", group="g0001", submission=1, indices=[0])
        (tmp_path / "lock").write_text('{"id": "theirs", "pid": 7, "host": "elsewhere"}')
        with pytest.raises(Locked, match="process 7 on elsewhere took the lock over"):
            journal.append("submitted")
    assert [event["event"] for event in sweepdir.read_journal(where)] == ["submitting"]
