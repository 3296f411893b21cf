"""What the script of one job for all sizes does: the order of its runs, restarts, signals, preemption."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest

from hpcjobs.base.contract import EXIT_INTERRUPTED
from tests.control.script_site import SOON, UNTIL_USR1, Site, script_site
from tests.running import PATIENCE_S, until

ORDER = ["g0001-r01", "g0002-r01", "g0002-r02", "g0001-r02"]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.delenv("SLURM_CONF", raising=False)
    return script_site(tmp_path)


def test_one_job_runs_all_sizes_in_order_and_a_failure_does_not_stop_it(site: Site) -> None:
    code, output = site.run("all", "1", TRAINER='[ "$run" != g0002-r01 ]')
    assert code == 1
    assert output.splitlines() == [f"hpcjobs: {run}: exit code {int(run == 'g0002-r01')}" for run in ORDER]
    # The ranks do not see the variable by which their script knows the job.
    assert site.executions == [f"{run} none" for run in ORDER]
    claim = json.loads((site.sweep.run("g0002-r01") / "a001" / "claim").read_text())
    assert (claim["job"], claim["nodelist"]) == ("12_0", "n1")
    assert site.run("all", "2", "3,0", job="13")[0] == 0
    assert site.executions[4:] == ["g0001-r02 none", "g0001-r01 none"]
    code, output = site.run("all", "3", "0,4", job="14")
    assert (code, output) == (1, "hpcjobs: error: no line '4' in all.runs\n")


def test_of_two_jobs_for_all_sizes_one_does_everything(site: Site) -> None:
    first = site.start("all", "1", TRAINER="sleep 0.3")
    until(lambda: site.executions)
    code, output = site.run("all", "1", job="13")
    assert (code, output.count('not for job 13_0, the claim is: {"job": "12_0"')) == (0, 8)
    assert first.wait(PATIENCE_S) == 0
    assert site.executions == [f"{run} none" for run in ORDER]


def test_the_job_for_all_sizes_continues_after_its_time_limit_with_the_remaining_runs(site: Site) -> None:
    second = f'case "$run" in g0001-r01) exit 3 ;; g0002-r01) {UNTIL_USR1} ;; esac'
    code, _ = site.signalled("all", "1", signals=[signal.SIGUSR1], JOB=SOON, TRAINER=second)
    assert code == EXIT_INTERRUPTED
    assert site.executions == ["g0001-r01 none", "g0002-r01 none"]
    # The job requeues itself; the script of the size does not.
    assert site.requeues[0].startswith("requeue 12_0 {")
    assert len(site.requeues) == 2  # one call, with the exit.json of two runs
    assert "scontrol" not in (site.sweep.run("g0002-r01") / "a001" / "job.log").read_text()
    code, _ = site.run("all", "1", restart=1)
    assert code == 1  # the first run failed, before the restart
    assert site.executions[2:] == [f"{run} none" for run in ORDER[1:]]
    assert "a002" in site.files("g0002-r01")
    assert "a002" not in site.files("g0001-r01")


def test_a_run_that_was_hit_by_the_jobs_preemption_does_not_count_as_failed(site: Site) -> None:
    """Under mpirun, or before its launcher has started, a preempted run leaves another exit code than 75."""
    fails = 'case "$run" in g0001-r01) exit 3 ;; g0002-r01) exit 143 ;; esac'
    preempted = f"""[ "$run" != g0002-r01 ] || kill -TERM $(cat $FOLDER/pid); {fails}"""
    process = site.start("all", "1", TRAINER=f"until [ -e $FOLDER/pid ]; do sleep 0.05; done; {preempted}")
    (site.folder / "pid.new").write_text(str(process.pid))
    (site.folder / "pid.new").rename(site.folder / "pid")
    assert process.wait(PATIENCE_S) == 143
    assert site.executions == ["g0001-r01 none", "g0002-r01 none"]
    code, _ = site.run("all", "1", restart=1, TRAINER=fails.replace("143", "4"))
    assert code == 1
    assert site.executions[2:] == [f"{run} none" for run in ORDER[1:]]
    # Its failure counts now: the job began other runs after it.
    code, _ = site.run("all", "1", restart=2)
    assert (code, len(site.executions)) == (1, 2 + len(ORDER[1:]))


def test_the_job_for_all_sizes_is_not_requeued_after_a_users_signal(site: Site) -> None:
    early = "JobState=RUNNING EndTime=NOW+3600"
    code, output = site.signalled("all", "1", signals=[signal.SIGUSR1], JOB=early)
    assert (code, len(site.executions), site.requeues) == (EXIT_INTERRUPTED, 1, [])
    assert "long before the time limit" in output
    (site.folder / "ready").unlink()
    code, _ = site.signalled("all", "2", signals=[signal.SIGTERM], job="13", JOB="JobState=COMPLETING")
    assert (code, len(site.executions), site.requeues) == (143, 2, [])


def test_the_job_for_all_sizes_waits_for_slurm_when_it_is_preempted(site: Site) -> None:
    process = site.start("all", "1", TRAINER="exit 75", JOB=f"{SOON} PreemptTime=NOW+0")
    until(lambda: site.executions)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == EXIT_INTERRUPTED
    assert site.executions == ["g0001-r01 none"]
