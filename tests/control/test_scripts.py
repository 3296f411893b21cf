"""What a rendered script does under bash with a fake srun, scontrol and trainer: claims, attempts, exit.json."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from pathlib import Path

import pytest

from hpcjobs.base import sweepdir
from hpcjobs.base.contract import EXIT_INTERRUPTED
from hpcjobs.base.sweepdir import revoke_claim
from tests.control.script_site import UNTIL_SIGNALLED, Site, script_site
from tests.running import PATIENCE_S, until


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.delenv("SLURM_CONF", raising=False)
    return script_site(tmp_path)


def test_a_task_claims_its_submission_and_leaves_an_attempt(site: Site) -> None:
    began = int(time.time())
    assert site.run("g0001", "1") == (0, "")
    assert site.files() == ["a001", "a001/claim", "a001/exit.json", "a001/job.log", "claim-s001"]
    claim = json.loads((site.sweep.run("g0001-r01") / "claim-s001").read_text())
    assert (claim["job"], claim["submission"], claim["restart"]) == ("12_0", 1, 0)
    assert began <= claim["start"] <= time.time()
    attempt = json.loads((site.sweep.run("g0001-r01") / "a001" / "claim").read_text())
    assert attempt == {**claim, "run": "g0001-r01", "attempt": "a001", "nodelist": "n[1-4]"}
    ended = json.loads((site.sweep.run("g0001-r01") / "a001" / "exit.json").read_text())
    assert (ended["job"], ended["rc"], ended["signal"], ended["nodelist"]) == ("12_0", 0, 0, "n[1-4]")


def test_a_submission_is_for_one_job_and_its_restarts(site: Site) -> None:
    site.run("g0001", "1", TRAINER="exit 1")
    # A second job of the same submission.
    code, output = site.run("g0001", "1", job="13")
    assert code == 0
    assert output.startswith('hpcjobs: submission 1 of g0001-r01 is not for job 13_0, the claim is: {"job": "12_0", ')
    assert output.count("\n") == 1
    # Slurm requeued the first job.
    assert site.run("g0001", "1", restart=1) == (0, "")
    # A later submission.
    assert site.run("g0001", "2", job="13") == (0, "")
    # A submission whose claim is revoked.
    assert revoke_claim(site.sweep, "g0001-r01", 3, "resume")
    assert site.run("g0001", "3", job="14")[0] == 0
    assert [json.loads(path.read_text())["job"] for path in sorted(site.sweep.run("g0001-r01").glob("a*/claim"))] == [
        "12_0",
        "12_0",
        "13_0",
    ]
    assert len(site.executions) == 3
    assert not any("/." in f"/{name}" for name in site.files())


def test_a_run_that_has_ended_well_is_not_executed_again_by_another_start(site: Site) -> None:
    """Slurm 24.11 requeues a job that was preempted once again after its second, good end.

    A controller that was killed starts a job anew, not as a restart, whose start and end it had not saved.
    """
    assert site.run("g0001", "1", TRAINER="exit 75")[0] == EXIT_INTERRUPTED
    assert site.run("g0001", "1", restart=1) == (0, "")
    said = "hpcjobs: g0001-r01 has ended with 0 before this start: job 12_0 has nothing left to do\n"
    assert site.run("g0001", "1", restart=2) == (0, said)
    assert site.run("g0001", "1", restart=0) == (0, said)
    assert (len(site.executions), site.files().count("a002"), site.files().count("a003")) == (2, 1, 0)
    # The good end of another submission does not count, even if Slurm's job ids have begun anew.
    assert site.run("g0001", "2", TRAINER="exit 1")[0] == 1
    assert site.run("g0001", "2", restart=1) == (0, "")
    assert "a004" in site.files()


def test_a_step_names_the_first_nodes_of_its_job(site: Site) -> None:
    """Where a step with --relative=0 begins depends on the version of Slurm."""
    site.run("g0002", "1")
    site.run("all", "2", "0,1", job="13")
    steps = (site.folder / "steps").read_text().splitlines()
    assert steps == ["--nodes=1 --nodelist=n[1-4] ", "--nodes=1 --nodelist=n1 ", "--nodes=1 --nodelist=n1 "]
    claims = [json.loads(path.read_text()) for path in site.sweep.root.glob("runs/*/a*/claim")]
    assert sorted(claim["nodelist"] for claim in claims) == ["n1", "n1", "n[1-4]"]


def test_a_job_that_was_suspended_says_for_how_long(site: Site) -> None:
    """Slurm stops all processes of a job and continues them. SIGCONT alone, as before the end of a job, is none."""
    job = site.start("g0001", TRAINER=UNTIL_SIGNALLED, start_new_session=True)
    until(lambda: (site.folder / "ready").exists())
    time.sleep(1)
    os.killpg(job.pid, signal.SIGCONT)
    time.sleep(1)
    os.killpg(job.pid, signal.SIGSTOP)
    time.sleep(5)
    os.killpg(job.pid, signal.SIGCONT)
    (site.folder / "signalled").touch()
    assert job.wait(PATIENCE_S) == 0
    found = sweepdir.read_exit(site.sweep.run("g0001-r01") / "a001")
    assert found is not None
    assert 3 <= found.suspended_s <= found.end - found.start


def test_of_many_jobs_that_race_only_one_runs(site: Site) -> None:
    racing = [site.start("g0001", "1", job=str(job)) for job in range(1, 13)]
    assert [process.wait(PATIENCE_S) for process in racing] == [0] * 12
    assert site.executions == ["g0001-r01 none"]
    assert site.files() == ["a001", "a001/claim", "a001/exit.json", "a001/job.log", "claim-s001"]


def test_a_claim_counts_if_link_made_it_but_reported_a_failure(site: Site) -> None:
    """On NFS the server's answer may be lost; the repeated call then finds the name taken."""
    fake = site.folder / "bin" / "ln"
    fake.write_text('#!/bin/sh\n/bin/ln "$@"\n/bin/ln "$@"\n')
    fake.chmod(0o755)
    assert site.run("g0001", "1")[0] == 0
    assert site.executions == ["g0001-r01 none"]


def full_disk() -> None:
    """From now on this process cannot write to files."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


def test_a_full_disk_ends_a_task_before_any_work_and_blocks_no_later_task(site: Site) -> None:
    code, output = site.run("g0001", "1", preexec_fn=full_disk)
    assert code == 1
    (line,) = output.splitlines()
    assert line == f"hpcjobs: error: cannot write {site.sweep.run('g0001-r01')}/.claim.12_0.0: File too large"
    assert site.files() == []
    fake = site.folder / "bin" / "ln"
    fake.write_text("#!/bin/sh\necho \"ln: failed to create hard link 'x': No space left on device\" >&2; exit 1\n")
    fake.chmod(0o755)
    code, output = site.run("g0001", "1")
    claim = site.sweep.claim("g0001-r01", 1)
    assert (code, output) == (1, f"hpcjobs: error: disk_full: cannot make {claim}: No space left on device\n")
    assert site.files() == []
    fake.unlink()
    # The disk fills between claim and attempt. NFS delays writes, so a failed write may not show as an error.
    fake = site.folder / "bin" / "cat"
    fake.write_text('#!/bin/sh\ncase "$1" in */a001/*) ;; *) exec /bin/cat "$@" ;; esac\n')
    fake.chmod(0o755)
    code, output = site.run("g0001", "1")
    assert code == 1
    assert output.endswith("/a001/claim: the file does not read back as written\n")
    assert site.files() == ["claim-s001"]
    fake.unlink()
    assert site.executions == []
    assert site.run("g0001", "1", restart=1) == (0, "")
    assert site.run("g0001", "2", job="13") == (0, "")
    assert len(site.executions) == 2


def test_odd_names_of_hosts_are_recorded_unchanged(site: Site) -> None:
    odd = 'n"1\\2 $(touch x)\n'
    fake = site.folder / "bin" / "hostname"
    fake.write_text(f"#!{sys.executable}\nprint({odd!r}, end='')\n")
    fake.chmod(0o755)
    assert site.run("g0001", "1", SLURM_JOB_NODELIST='a"b\t\\')[0] == 0
    claim = json.loads((site.sweep.run("g0001-r01") / "a001" / "claim").read_text())
    assert (claim["host"], claim["nodelist"]) == (odd.strip(), 'a"b \\')


@pytest.mark.parametrize("word", ["0", "01", "x", "1;id", "$(id)"])
def test_a_submission_that_is_not_a_number_is_refused(site: Site, word: str) -> None:
    code, output = site.run("g0001", word)
    assert (code, output) == (1, f"hpcjobs: error: '{word}' is not the number of a submission\n")
    assert site.run("g0001") == (0, "")
    assert "claim-s001" in site.files()
