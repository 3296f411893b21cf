"""Submission and resume on a real Slurm: wherever a command is killed, no run is lost and none is executed twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.running import until

from .conftest import Slurm
from .quick import Quick, quick

pytestmark = pytest.mark.slurm

REPEATS = 3
SEED = 20261125


def sweep_that_dies(site: Quick, rng: random.Random, out: str) -> str:
    """Start a sweep and kill it at some point. Returns that point."""
    words = site.words("--repeats", str(REPEATS), out=out)
    if rng.random() < 0.3:
        seconds = rng.uniform(0.1, 1.5)
        process = site.start(*words)
        time.sleep(seconds)
        process.kill()
        process.wait()
        return "at any time"
    how = rng.choice(["before", "during", "after", "late"])
    call = rng.choice([0, 1])
    site.die(*["go"] * call, how)
    process = site.start(*words)
    assert process.wait(60) == -signal.SIGKILL
    return f"{how} call {call + 1}"


def resume_or_sweep_again(site: Quick, out: str) -> None:
    """Do what a user does: resume, or sweep again if there is no sweep in the folder."""
    site.die()
    if (site.folder / out / "sweep.yaml").exists():
        site.do("resume", out)
    else:
        site.do(*site.words("--repeats", str(REPEATS), out=out))


@pytest.mark.timeout(3600)
def test_killed_anywhere_nothing_is_lost_and_nothing_done_twice(tmp_path: Path, cluster: Slurm, soak: bool) -> None:
    rng = random.Random(SEED)
    site = quick(tmp_path, cluster)
    kills = 200 if soak else 10
    expected = sorted(f"g{gpus:04d}-r{repeat:02d}" for gpus in (1, 2) for repeat in range(1, REPEATS + 1))
    where: Counter[str] = Counter()
    for first in range(0, kills, 10):
        died = {}
        for number in range(first, first + 10):
            died[f"o{number}"] = sweep_that_dies(site, rng, f"o{number}")
            resume_or_sweep_again(site, f"o{number}")
        for out, how in died.items():
            where[how] += 1
            site.quiet(out)
            assert site.states(out) == {"done"}, how
            assert sorted(site.executions(out)) == expected, how
            assert all(len(list(run.glob("a*"))) == 1 for run in (tmp_path / out / "runs").iterdir()), how
    print(f"{kills} kills, 0 lost, 0 doubled: {dict(where)}")


def test_the_second_of_two_resumes_says_who_holds_the_lock(tmp_path: Path, cluster: Slurm) -> None:
    site = quick(tmp_path, cluster)
    site.die("before")
    assert site.start(*site.words()).wait(60) == -signal.SIGKILL
    site.die("slow")
    first = site.start("resume", "o")
    while not (tmp_path / "slow").exists():
        time.sleep(0.05)
    message = site.do("resume", "o", code=1).stderr
    assert f"process {first.pid} on {os.uname().nodename} is working on it since " in message
    assert first.wait(60) == 0
    site.quiet()
    assert sorted(site.executions()) == ["g0001-r01", "g0002-r01"]


def test_one_resume_runs_a_cancelled_run_again_after_its_end(tmp_path: Path, cluster: Slurm) -> None:
    site = quick(tmp_path, cluster, launcher="srun")
    # It ignores signals, takes some time to end, and records when it has ended.
    site.behave("g0001-r01", f"trap '' TERM USR1; sleep 8; echo ended >>{tmp_path}/executions-o; exit 1")
    site.do(*site.words(gpus="1"))
    until(lambda: site.executions() == ["g0001-r01"])
    site.do("cancel", "o")
    assert site.states() == {"running"}
    site.behave("g0001-r01", "true")
    lines = site.do("resume", "o", "--wait").stderr
    assert "submitted 1 run(s)" in lines
    assert "g0001: starts after the end of the cancelled tasks" in lines
    assert site.states() == {"done"}
    assert site.executions() == ["g0001-r01", "ended", "g0001-r01"]


def test_a_sweep_into_its_own_folder_names_resume(tmp_path: Path, cluster: Slurm) -> None:
    site = quick(tmp_path, cluster)
    site.do(*site.words())
    journal = site.journal()
    assert "`hpcjobs resume o`" in site.do(*site.words(), code=2).stderr
    assert site.journal() == journal


def test_a_refused_submission_leaves_no_folder(tmp_path: Path, cluster: Slurm) -> None:
    site = quick(tmp_path, cluster, partition="nowhere")
    message = site.do(*site.words(), code=2).stderr
    assert "sbatch refused g0001.sbatch: " in message
    assert "the profile's `partition`" in message
    assert not (tmp_path / "o").exists()


@pytest.mark.timeout(3600)
def test_each_of_many_quick_runs_has_its_own_end(tmp_path: Path, cluster: Slurm, soak: bool) -> None:
    """Five sizes. Every tenth run fails, each in another way."""
    repeats = 200 if soak else 10
    site = quick(tmp_path, cluster, retry={})
    ends = {
        "traceback": 'echo "RuntimeError: boom" >&2; exit 1',
        "signal": "kill -9 $$",
        "no_measurement": "exit 0",
        "disk_full": 'echo "OSError: [Errno 28] No space left on device" >&2; exit 1',
    }
    expected = {}
    for number in range(5 * repeats):
        run = f"g{2 ** (number % 5):04d}-r{number // 5 + 1:02d}"
        expected[run] = ""
        if number % 10 == 7:
            expected[run] = list(ends)[number // 10 % len(ends)]
            site.behave(run, ends[expected[run]])
    before = time.monotonic()
    site.do(*site.words("--repeats", str(repeats), gpus="1,2,4,8,16"))
    assert [event["event"] for event in site.journal()] == ["submitting", "submitted"] * 5
    site.quiet(seconds=3000)
    runs = site.runs()
    assert {name: run["failure"] or "" for name, run in runs.items()} == expected
    assert Counter(site.executions()) == Counter(list(expected))
    print(f"{len(runs)} runs to their ends in {time.monotonic() - before:.0f} s: {Counter(expected.values())}")
    # Only failed runs run again, and their old attempts stay.
    for path in (tmp_path / "behave").iterdir():
        path.unlink()
    site.do("resume", "o")
    site.quiet(seconds=600)
    assert site.states() == {"done"}
    again = [name for name, kind in expected.items() if kind]
    assert Counter(site.executions()) == Counter([*expected, *again])
    assert all((tmp_path / "o" / "runs" / run / "a002").is_dir() for run in again)
    report = json.loads(site.do("report", "o", "--json").stdout)
    assert [(row["gpus"], row["runs"], row["failed_runs"]) for row in report] == [
        (gpus, repeats, 0) for gpus in (1, 2, 4, 8, 16)
    ]


def test_status_queries_slurm_once_for_all_jobs_of_a_sweep(tmp_path: Path, cluster: Slurm) -> None:
    site = quick(tmp_path, cluster, sbatch={"hold": True})
    site.do(*site.words("--repeats", "20", gpus="1,2,4,8,16"))
    for name in ("squeue", "sacct", "scontrol"):
        path = tmp_path / "bin" / name
        real = subprocess.run(["which", name], capture_output=True, text=True, check=True).stdout.strip()
        path.write_text(f'#!/bin/bash\necho {name} >>{tmp_path}/queries\nexec {real} "$@"\n')
        path.chmod(0o755)
    runs = site.runs()
    assert (tmp_path / "queries").read_text().split() == ["squeue"]
    assert {(run["state"], run["reason"]) for run in runs.values()} == {("pending", "JobHeldUser")}
    assert len(site.do("cancel", "o").stdout.split()) == 100
    assert site.states() == {"cancelled"}
