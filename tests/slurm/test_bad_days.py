"""Bad days of controller and accounting, made on purpose: nothing is lost or doubled, no stranger's job is hit."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.running import until

from . import cluster as virtual
from .conftest import Slurm
from .quick import Quick, quick

pytestmark = [pytest.mark.slurm, pytest.mark.bad_days]

FOREVER = "sleep 1000"
DATABASE = (virtual.ADDRESSES[virtual.HEAD], 26819)  # of slurmdbd.conf.in

# A fake sacct around the real one. The file `sacct-does` says how it answers.
FAKE_SACCT = """#!/bin/bash
case "$(cat {folder}/sacct-does)" in
    late) {sacct} "$@" | grep -v -e FAILED -e COMPLETED -e CANCELLED; exit 0 ;;
    half) {sacct} "$@" | head -c 20; exit 0 ;;
    *) exec {sacct} "$@" ;;
esac
"""

# slurmctld limits the requests of any user but root, who runs the tests. The command may read root's files.
LIMITED = """#!/bin/bash
exec setpriv --reuid=65534 --clear-groups --inh-caps=+dac_read_search --ambient-caps=+dac_read_search {real} "$@"
"""


def which(name: str) -> str:
    """The path of one of Slurm's commands."""
    return subprocess.run(["which", name], capture_output=True, text=True, check=True).stdout.strip()


def put(path: Path, script: str) -> None:
    """Write a program."""
    path.write_text(script)
    path.chmod(0o755)


@contextlib.contextmanager
def settings(cluster: Slurm, changes: str) -> Iterator[None]:
    """Lines of slurm.conf, which count instead of those with the same keys; KEY= leaves a key out."""
    conf = cluster.cluster.slurm_conf
    before = conf.read_text()
    keys = tuple(line.partition("=")[0] + "=" for line in changes.split())
    kept = [line for line in before.splitlines() if not line.startswith(keys)]
    try:
        new = [line for line in changes.split() if not line.endswith("=")]
        conf.write_text("\n".join([*new, *kept]) + "\n")
        cluster.run("scontrol", "reconfigure")
        yield
    finally:
        conf.write_text(before)
        cluster.run("scontrol", "reconfigure")


def stop(cluster: Slurm, *command: str) -> None:
    """End the daemon with this command line, and wait for its end: it writes its state last."""
    found = subprocess.run(["pgrep", "-fx", " ".join(command)], capture_output=True, text=True).stdout.split()
    # Beside this cluster there may be one of another version of Slurm.
    (pid,) = set(map(int, found)) & set(cluster.cluster.processes())
    os.kill(pid, signal.SIGTERM)
    until(lambda: pid not in cluster.cluster.processes())


def forgotten(cluster: Slurm, site: Quick) -> bool:
    """Whether the controller has forgotten each job of the sweep."""
    return site.sweep_id() not in cluster.run("squeue", "-h", "-t", "all", "-o", "%j")


def test_what_accounting_does_not_tell_yet_is_neither_lost_nor_submitted_again(tmp_path: Path, cluster: Slurm) -> None:
    """The controller forgets ended jobs after 2 s, and accounting is late, cut short, and away."""
    site = quick(tmp_path, cluster)
    put(tmp_path / "bin" / "sacct", FAKE_SACCT.format(folder=tmp_path, sacct=which("sacct")))
    how = tmp_path / "sacct-does"
    how.write_text("late")
    site.behave("g0001-r02", "exit 3")
    with settings(cluster, "MinJobAge=2"):
        site.do(*site.words("--repeats", "3", gpus="1"))
        until(lambda: len(site.executions()) == 3)
        until(lambda: forgotten(cluster, site))
        (tmp_path / "o/runs/g0001-r02/a001/exit.json").unlink()  # as after the death of its node
        site.behave("g0001-r02", "true")

        def seen() -> tuple[list[tuple[str, str]], str]:
            done = site.do("status", "o", "--json")
            return [(run["state"], run["reason"]) for run in json.loads(done.stdout)], done.stderr

        for word in ("late", "half"):
            how.write_text(word)
            states, told = seen()
            assert states == [("done", ""), ("running", "its end may still be told"), ("done", "")], word
            assert "g0001-r02: the scheduler no longer knows the job; how it ended may be told up to 10 min" in told
            assert site.do("resume", "o").stdout == ""

        how.write_text("well")
        stop(cluster, "slurmdbd", "-D")
        try:
            states, told = seen()
            assert states[1] == ("running", "waits for the accounting's answer")
            assert "of jobs that the controller forgot, only the files say how they ended" in told
            assert site.do("resume", "o").stdout == ""
            # Submitting, states and cancelling need the controller only.
            site.behave("g0001-r01", FOREVER)
            site.do(*site.words("--repeats", "2", gpus="1", out="p"))
            until(lambda: site.states("p") == {"done", "running"})
            assert site.do("cancel", "p").stdout == "g0001-r01\n"
            site.quiet("p")
        finally:
            places = {"SLURM_CONF": str(cluster.cluster.slurm_conf), "MYSQL_UNIX_PORT": cluster.cluster._sql_socket}
            cluster.cluster._spawn(virtual.HEAD, "slurmdbd", ["slurmdbd", "-D"], **places)
            until(lambda: virtual._listens(socket.AF_INET, DATABASE))
        until(lambda: site.runs()["g0001-r02"]["state"] == "failed")
        assert site.runs()["g0001-r02"]["failure"] == "exit_code"
        assert site.do("resume", "o").stdout == "g0001-r02\n"
        site.quiet()
        until(lambda: site.states("p") == {"done", "cancelled"})
    assert site.states() == {"done"}
    assert Counter(site.executions()) == {"g0001-r01": 1, "g0001-r02": 2, "g0001-r03": 1}


def test_a_controller_that_lost_its_state_gives_a_jobs_id_to_a_stranger(tmp_path: Path, cluster: Slurm) -> None:
    site = quick(tmp_path, cluster)
    site.behave("g0001-r01", FOREVER)
    site.do(*site.words(gpus="1"))
    until(lambda: site.executions())
    job = site.runs()["g0001-r01"]["job"].partition("_")[0]
    conf = cluster.cluster.slurm_conf
    before = conf.read_text()
    command = ("slurmctld", "-D", "-f", str(conf))
    stop(cluster, *command)
    shutil.rmtree(cluster.state / "slurmctld")
    (cluster.state / "slurmctld").mkdir(mode=0o755)
    try:
        conf.write_text(f"FirstJobId={job}\n{before}")
        cluster.cluster._spawn(virtual.HEAD, "slurmctld", list(command))
        until(lambda: cluster.cluster.usable_nodes() == len(virtual.NODES))
        (tmp_path / "stranger").write_text("#!/bin/bash\n")
        # Held: a node may refuse to start a job whose id it still ends.
        stranger = cluster.sbatch(tmp_path / "stranger", "--array=0", "--hold", "--output=/dev/null")
    finally:
        conf.write_text(before)
    cluster.run("scontrol", "reconfigure")
    assert stranger == job

    # Accounting may say that it was cancelled, or have nothing but the stranger's job.
    assert site.states() & {"done", "failed"} == set()
    site.do("cancel", "o")
    assert site.states() == {"cancelled"}
    site.behave("g0001-r01", "true")
    assert site.do("resume", "o").stdout == "g0001-r01\n"
    site.quiet()
    assert site.states() == {"done"}
    assert site.executions() == ["g0001-r01", "g0001-r01"]
    assert cluster.run("squeue", "-h", "-j", stranger, "-o", "%T").strip() == "PENDING"


@pytest.mark.timeout(3600)
def test_a_limit_on_requests_makes_a_sweep_slower_and_loses_nothing(tmp_path: Path, cluster: Slurm, soak: bool) -> None:
    """Slurm's commands wait and ask again by themselves; a user sees nothing but the time."""
    conf = cluster.run("scontrol", "show", "config")
    version = next(line.split()[-1] for line in conf.splitlines() if line.startswith("SLURM_VERSION"))
    if tuple(map(int, version.split(".")[:2])) < (23, 2):
        pytest.skip(f"Slurm {version} limits no requests")
    site = quick(tmp_path, cluster, sbatch={"hold": True})
    repeats = 200 if soak else 10
    for name in ("sbatch", "squeue", "sacct", "scontrol", "scancel", "sinfo"):
        put(tmp_path / "bin" / name, LIMITED.format(real=which(name)))
    log = cluster.state / "log" / "slurmctld.log"
    before = log.read_text().count("RPC rate limit exceeded by uid 65534")
    limits = "SlurmctldParameters=rl_enable,rl_bucket_size=2,rl_refill_rate=2,rl_refill_period=1"
    # The user who is limited has no account.
    with settings(cluster, f"AccountingStorageEnforce= {limits}"):
        site.do(*site.words("--repeats", str(repeats), gpus="1,2,4,8,16"))
        assert [event["event"] for event in site.journal()] == ["submitting", "submitted"] * 5
        assert Counter(run["state"] for run in site.runs().values()) == {"pending": 5 * repeats}
        assert len(site.jobs()) == 5 * repeats
        assert len(site.do("cancel", "o").stdout.split()) == 5 * repeats
        assert site.states() == {"cancelled"}
    assert site.jobs() == []
    assert log.read_text().count("RPC rate limit exceeded by uid 65534") > before
