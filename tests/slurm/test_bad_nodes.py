"""What goes wrong between a user and the nodes: limits, drained nodes, suspension, preemption, wrong clocks."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.running import until

from .conftest import Slurm
from .quick import quick

pytestmark = [pytest.mark.slurm, pytest.mark.bad_days]

# Five minutes ahead on one node. What Python and bash themselves take for the time stays right.
FAKE_DATE = """#!/bin/bash
if [ "$(hostname)" = c4140-2 ]; then exec /bin/date --date='+5 minutes' "$@"; fi
exec /bin/date "$@"
"""


@pytest.fixture
def limits(cluster: Slurm) -> Iterator[None]:
    """The user may have two jobs, and four GPUs at a time."""
    user = ("sacctmgr", "-i", "modify", "user", "root", "set")
    jobs = ("sacctmgr", "-i", "modify", "qos", "normal", "set")
    cluster.run(*user, "GrpTRES=gres/gpu=4")
    cluster.run(*jobs, "MaxSubmitJobsPerUser=2")
    yield
    cluster.run(*user, "GrpTRES=gres/gpu=-1")
    cluster.run(*jobs, "MaxSubmitJobsPerUser=-1")


@pytest.fixture
def drained(cluster: Slurm) -> Iterator[str]:
    """A node that can be drained, and is back after the test."""
    yield "c4140-2"
    if "drain" in cluster.run("sinfo", "-h", "-N", "-p", "v100", "-n", "c4140-2", "-o", "%T"):
        cluster.run("scontrol", "update", "nodename=c4140-2", "state=resume")


def until_file(path: Path) -> str:
    return f"until [ -e {path} ]; do sleep 0.2; done"


def test_a_limit_met_in_the_middle_of_a_submission_leaves_the_rest_to_resume(
    tmp_path: Path, cluster: Slurm, limits: None
) -> None:
    site = quick(tmp_path, cluster)
    site.behave("g0002-r01", until_file(tmp_path / "finish"))
    assert "QOSMaxSubmitJobPerUserLimit" in site.do(*site.words(gpus="2,3,4"), code=2).stderr
    until(lambda: site.runs()["g0003-r01"]["reason"] == "AssocGrpGRES")
    runs = site.runs()
    assert {name: run["state"] for name, run in runs.items()} == {
        "g0002-r01": "running",
        "g0003-r01": "pending",
        "g0004-r01": "planned",
    }
    assert "QOSMaxSubmitJobPerUserLimit" in runs["g0004-r01"]["reason"]
    assert "`hpcjobs resume` submits it" in runs["g0004-r01"]["reason"]
    (tmp_path / "finish").touch()
    site.quiet()
    assert site.do("resume", "o").stdout == "g0004-r01\n"
    site.quiet()
    assert site.states() == {"done"}
    assert sorted(site.executions()) == ["g0002-r01", "g0003-r01", "g0004-r01"]


def test_a_job_that_waits_for_a_node_drained_since_names_it(tmp_path: Path, cluster: Slurm, drained: str) -> None:
    site = quick(tmp_path, cluster, sharing="exclusive")
    (blocker,) = cluster.run(
        *("sbatch", "--parsable", "--nodelist=c4140-1", "--exclusive", "--mem=100", "--output=/dev/null"),
        "--wrap=sleep 600",
    ).split()
    site.do(*site.words(gpus="16"))
    cluster.run("scontrol", "update", f"nodename={drained}", "state=drain", "reason=bad DIMM")
    cluster.run("scancel", blocker)
    until(lambda: "c4140-2 is drained (bad DIMM)" in site.runs()["g0016-r01"]["reason"])
    assert site.states() == {"pending"}
    plan = site.do(*site.words("--dry-run", gpus="16", out="p")).stdout
    assert "4 nodes for one job, but of partition v100 3 can run one now: c4140-2 is drained (bad DIMM)" in plan
    cluster.run("scontrol", "update", f"nodename={drained}", "state=resume")
    site.quiet()
    assert site.states() == {"done"}


def test_a_suspended_run_is_told_and_one_that_is_cancelled_by_preemption_is_retried(
    tmp_path: Path, cluster: Slurm
) -> None:
    site = quick(tmp_path, cluster, partition="enders", nodelist="c4140-1", requeues=0)
    site.behave("g0001-r01", until_file(tmp_path / "finish"))
    site.behave("g0002-r01", "sleep 1000")
    site.do(*site.words())
    until(lambda: len(site.executions()) == 2)
    suspended, ended = (site.runs()[name]["job"] for name in ("g0001-r01", "g0002-r01"))
    cluster.run("scontrol", "suspend", suspended)
    until(lambda: site.runs()["g0001-r01"]["word"] == "SUSPENDED")
    time.sleep(5)  # a suspension of less than three seconds is not told
    # It needs the GPUs of one of the two, and of the other, which keeps its own, it needs none.
    urgent = ("--partition=urgent", "--nodelist=c4140-1", "--gres=gpu:v100:3", "--mem=100", "--output=/dev/null")
    cluster.run("sbatch", *urgent, "--wrap=sleep 1")
    until(lambda: site.runs()["g0002-r01"]["state"] == "failed")
    cluster.run("scontrol", "resume", suspended)
    (tmp_path / "finish").touch()
    run = site.runs()["g0002-r01"]
    assert (run["failure"], cluster.sacct(ended, "State")) == ("preempted", [{"State": "PREEMPTED"}])
    site.behave("g0002-r01", "true")
    assert site.do("resume", "o", "--retryable").stdout == "g0002-r01\n"
    site.quiet()
    assert site.states() == {"done"}
    site.do("collect", "o")
    with (tmp_path / "o" / "report" / "runs.csv").open(newline="") as file:
        assert {row["run"]: "suspended" in row["flags"] for row in csv.DictReader(file)} == {
            "g0001-r01": True,
            "g0002-r01": False,
        }


def test_a_node_whose_clock_is_off_is_told_by_status_collect_and_check(tmp_path: Path, cluster: Slurm) -> None:
    site = quick(tmp_path, cluster, nodelist="c4140-2")
    date = tmp_path / "bin" / "date"
    date.write_text(FAKE_DATE)
    date.chmod(0o755)
    site.behave("g0001-r01", until_file(tmp_path / "finish"))
    site.do(*site.words(gpus="1"))
    until(site.executions)
    words = site.do("status", "o").stdout
    assert "the clock of c4140-2 is" in " ".join(words.split())
    assert " -" not in words
    (tmp_path / "finish").touch()
    site.quiet()
    site.do("collect", "o")
    with (tmp_path / "o" / "report" / "runs.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert ("clocks_differ" in row["flags"], row["queue_s"], row["throughput"]) == (True, "", "80")
    common = ("check", "--cluster", str(tmp_path / "quick.yaml"), "--gpus", "1", "--json", "--", "true")
    found = {each["check"]: each for each in json.loads(site.do(*common, code=1).stdout)["findings"]}
    assert found["clock"]["state"] == "failure"
    assert "the node's clock is ahead of this host's by at least " in found["clock"]["said"]
