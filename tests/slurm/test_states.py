"""The states of runs when parts of a real Slurm fail: nodes, memory, controller, accounting, disks."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.running import hpcjobs, status, until

from . import cluster as virtual
from .conftest import Slurm
from .quick import Quick, quick

pytestmark = pytest.mark.slurm

FOREVER = "sleep 1000"


def begun(site: Quick, *runs: str) -> None:
    """Wait until the fake trainer of these runs works."""
    until(lambda: set(runs) <= set(site.executions()))


def test_resume_excludes_a_failed_node_and_leaves_a_run_that_slurm_requeued(
    tmp_path: Path, cluster: Slurm, nodes_come_back: None
) -> None:
    (tmp_path / "final").mkdir()
    (tmp_path / "again").mkdir()
    final = quick(tmp_path / "final", cluster, requeues=0, sharing="exclusive")
    again = quick(tmp_path / "again", cluster, sharing="exclusive")
    for site in (final, again):
        site.behave("g0004-r01", FOREVER)
        site.do(*site.words(gpus="4"))
        begun(site, "g0004-r01")
        site.behave("g0004-r01", "true")
    failed, requeued = (site.runs()["g0004-r01"]["nodes"][0] for site in (final, again))
    for node in (failed, requeued):
        cluster.run("scontrol", "update", f"nodename={node}", "state=down", "reason=test")

    until(lambda: final.states() == {"failed"})
    run = final.runs()["g0004-r01"]
    assert (run["word"], run["failure"]) == ("NODE_FAIL", "node_failure")
    assert final.do("resume", "o", "--retryable").stdout == "g0004-r01\n"
    (sent,) = [event for event in final.journal() if event["event"] == "submitting" and event["submission"] == 2]
    assert (sent["exclude"], sent["retries"]) == ([failed], {"0": "node_failure"})
    final.quiet()
    assert final.states() == {"done"}
    assert final.runs()["g0004-r01"]["nodes"] != [failed]

    assert again.states() == {"pending"}
    assert again.do("resume", "o").stdout == ""
    again.quiet()
    assert again.states() == {"done"}
    assert [event["event"] for event in again.journal()] == ["submitting", "submitted"]
    assert again.runs()["g0004-r01"]["attempt"] == "a002"
    assert len(again.executions()) == 2


def test_runs_that_are_suspended_held_or_out_of_memory(tmp_path: Path, cluster: Slurm) -> None:
    site = quick(tmp_path, cluster)
    eater = "import time; much = bytearray(600_000_000); time.sleep(60)"
    site.behave("g0001-r01", f"{sys.executable} -c '{eater}'")
    site.behave("g0001-r02", FOREVER)
    site.do(*site.words("--repeats", "2", gpus="1"))
    begun(site, "g0001-r02")
    job = site.runs()["g0001-r02"]["job"]
    cluster.run("scontrol", "suspend", job)
    until(lambda: site.runs()["g0001-r02"]["word"] == "SUSPENDED")
    assert site.runs()["g0001-r02"]["state"] == "running"
    cluster.run("scontrol", "resume", job)
    cluster.run("scontrol", "requeuehold", job)
    until(lambda: site.runs()["g0001-r02"]["state"] == "pending")
    assert site.runs()["g0001-r02"]["reason"] == "job requeued in held state"
    until(lambda: site.runs()["g0001-r01"]["state"] == "failed")
    run = site.runs()["g0001-r01"]
    assert (run["failure"], run["state"]) == ("out_of_memory", "failed")
    assert "memory" in run["reason"]
    assert site.do("resume", "o", "--retryable").stdout == ""  # the same memory would not be enough the next time


def test_the_controller_does_not_answer_for_half_a_minute(tmp_path: Path, cluster: Slurm) -> None:
    site = quick(tmp_path, cluster)
    site.behave("g0002-r01", f"until [ -e {tmp_path}/back ]; do sleep 0.2; done")
    waiting = site.start(*site.words("--wait"))
    begun(site, "g0002-r01")
    until(lambda: "running" in (tmp_path / "started.log").read_text())
    command = ["slurmctld", "-D", "-f", str(cluster.cluster.slurm_conf)]
    (pid,) = subprocess.run(["pgrep", "-fx", " ".join(command)], capture_output=True, text=True).stdout.split()
    os.kill(int(pid), signal.SIGTERM)
    try:
        stopped = time.monotonic()
        resuming = site.start("resume", "o")
        assert site.runs()["g0002-r01"]["state"] == "running"
        # Whether the run is alive is not known: it is not submitted again.
        assert resuming.wait(60) == 3
        until(lambda: "showing its answer of " in (tmp_path / "started.log").read_text())
        time.sleep(max(0.0, 30 - (time.monotonic() - stopped)))
    finally:
        cluster.cluster._spawn(virtual.HEAD, "slurmctld", command)
    until(lambda: "the scheduler answers again" in (tmp_path / "started.log").read_text())
    (tmp_path / "back").touch()
    assert waiting.wait(120) == 0
    lines = (tmp_path / "started.log").read_text()
    assert lines.count("showing its answer of ") == 1
    assert lines.count("the scheduler answers again") == 1
    assert sorted(site.executions()) == ["g0001-r01", "g0002-r01"]
    assert site.states() == {"done"}


def test_without_accounting_the_ends_of_runs_are_known_and_collected(tmp_path: Path, cluster: Slurm) -> None:
    site = quick(tmp_path, cluster, collect={"job": True})
    conf = tmp_path / "slurm.conf"
    text = cluster.cluster.slurm_conf.read_text()
    conf.write_text(text.replace("accounting_storage/slurmdbd", "accounting_storage/none"))
    (tmp_path / "gres.conf").write_text((cluster.state / "gres.conf").read_text())
    env = {**site.env, "SLURM_CONF": str(conf)}
    assert "disabled" in subprocess.run(["sacct"], env=env, capture_output=True, text=True).stderr
    site.behave("g0001-r02", "kill -9 $$")
    site.behave("g0001-r03", "exit 3")
    hpcjobs(*site.words("--repeats", "3", gpus="1"), cwd=tmp_path, env=env)
    until(lambda: (tmp_path / "o" / "report" / "runs.csv").exists())
    site.quiet()
    for attempt in (tmp_path / "o" / "runs").glob("*/a001"):
        if "r01" not in str(attempt):
            (attempt / "exit.json").unlink()  # as after the death of its node
    runs = status("o", cwd=tmp_path, env=env, code=1)
    assert [run["state"] for run in runs.values()] == ["done", "failed", "failed"]
    assert [run["failure"] for run in runs.values()] == [None, "signal", "exit_code"]
    with (tmp_path / "o" / "report" / "runs.csv").open(newline="") as file:
        assert [row["state"] for row in csv.DictReader(file)] == ["done", "failed", "failed"]


def test_the_last_job_reports_after_the_command_was_killed(tmp_path: Path, cluster: Slurm) -> None:
    site = quick(tmp_path, cluster, collect={"job": True, "partition": "debug", "time": "5"})
    site.behave("g0001-r01", "sleep 3")
    waiting = site.start(*site.words("--wait"))
    begun(site, "g0001-r01")
    os.killpg(waiting.pid, signal.SIGKILL)
    waiting.wait()
    partitions = {line.split()[1]: line.split()[0] for line in cluster.run("squeue", "-h", "-o", "%P %j").splitlines()}
    (collecting,) = [name for name in partitions if name.endswith("-collect-s01")]
    assert partitions[collecting] == "debug"
    site.quiet()
    with (tmp_path / "o" / "report" / "scaling-report.csv").open(newline="") as file:
        assert [(row["gpus"], row["runs"]) for row in csv.DictReader(file)] == [("1", "1"), ("2", "1")]


def test_the_last_job_retries_what_the_profile_allows(tmp_path: Path, cluster: Slurm) -> None:
    """Compute nodes may submit here. The failure is `interrupted`: the run is ended after it wrote a checkpoint."""
    site = quick(tmp_path, cluster, collect={"job": True, "retries": True}, retry={"interrupted": 1})
    site.behave("g0001-r01", "exit 75")
    site.behave("g0002-r01", "exit 75")
    site.do(*site.words())
    until(lambda: sorted(site.executions()) == sorted(["g0001-r01", "g0002-r01"] * 2))
    (tmp_path / "behave" / "g0002-r01").unlink()
    until(lambda: (tmp_path / "o" / "report" / "runs.csv").exists())
    site.quiet()
    # It is retried once, and not a second time.
    assert sorted(site.executions()) == sorted(["g0001-r01", "g0002-r01"] * 2)
    assert site.runs()["g0001-r01"]["failure"] == "interrupted"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of half a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_is_full_during_submission_and_during_a_run(
    tmp_path: Path, cluster: Slurm, small_disk: Path
) -> None:
    site = quick(tmp_path, cluster)
    ballast = small_disk / "ballast"

    def fill() -> None:
        with ballast.open("ab", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1024))
            except OSError:
                pass

    fill()
    done = site.do(*site.words(out="disk/o"), code=None)
    assert done.returncode in (1, 2)
    assert "No space left on device" in done.stderr
    ballast.unlink()
    # The disk fills up while sbatch runs: the job id cannot be written into the journal.
    site.die("slow")
    process = site.start(*site.words(out="disk/o"))
    until(lambda: (tmp_path / "slow").exists())
    fill()
    # A tmpfs allocates whole pages: blank lines fill the rest of the journal's last page.
    journal = small_disk / "o" / "journal.jsonl"
    with journal.open("a") as file:
        file.write("\n" * (-journal.stat().st_size % os.sysconf("SC_PAGE_SIZE")))
    assert process.wait(60) == 1
    assert "`hpcjobs resume disk/o` continues" in (tmp_path / "started.log").read_text()
    # The job exists, but cannot even claim its run.
    site.quiet("disk/o")
    assert site.executions("disk/o") == []
    ballast.unlink()
    site.die()
    site.quiet("disk/o")
    site.do("resume", "disk/o")
    site.quiet("disk/o")
    site.do("resume", "disk/o")
    site.quiet("disk/o")
    assert site.states("disk/o") == {"done"}
    assert sorted(site.executions("disk/o")) == ["g0001-r01", "g0002-r01"]

    # The disk fills up during a run.
    site.behave("g0001-r01", f"until [ -e {tmp_path}/full ]; do sleep 0.2; done")
    site.do(*site.words(gpus="1", out="disk/p"))
    until(lambda: site.executions("disk/p"))
    fill()
    (tmp_path / "full").touch()
    site.quiet("disk/p")
    ballast.unlink()
    run = site.runs("disk/p")["g0001-r01"]
    assert run["state"] == "failed"
    (tmp_path / "behave" / "g0001-r01").unlink()
    site.do("resume", "disk/p")
    site.quiet("disk/p")
    assert site.states("disk/p") == {"done"}
