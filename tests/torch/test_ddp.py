"""PyTorch DDP with gloo on a real Slurm, from examples/torch_ddp: a scaling table, a killed rank, a requeue."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest

from hpcjobs.base import sweepdir
from hpcjobs.base.contract import EXIT_INTERRUPTED, EXIT_JSON, JOB_LOG
from tests.running import until

from .conftest import EXPERIMENTS, Site

pytestmark = pytest.mark.slurm

STARTS = tuple(EXPERIMENTS)
# In seconds: how long a job may live on after the death of one of its ranks. gloo tells the other ranks at once. The
# launcher kills those that do not end within KillWait, 10 s on this cluster.
DEATH_S = 60.0


def printed(attempt: Path) -> str:
    """What the command has printed so far."""
    log = attempt / JOB_LOG
    return log.read_text() if log.exists() else ""


def trains(attempt: Path) -> bool:
    """Whether the command has printed a rate."""
    return "samples/s: " in printed(attempt)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.timeout(600)
def test_one_two_four_and_eight_ranks_make_a_scaling_table(start: str, site: Site) -> None:
    words = ("--experiment", EXPERIMENTS[start], "--gpus", "1,2,4,8", "--repeats", "1")
    rows = json.loads(site.do("sweep", *words, "--cluster", site.profile(), "--out", "o", "--wait", "--json").stdout)
    assert [(row["gpus"], row["nodes"], row["runs"], row["failed_runs"]) for row in rows] == [
        (1, 1, 1, 0),
        (2, 1, 1, 0),
        (4, 1, 1, 0),
        (8, 2, 1, 0),
    ]
    assert {row["unit"] for row in rows} == {"samples"}
    assert {row["local_batch"] for row in rows} == {32}
    for row in rows:
        # The rates of the run's own log, without those of its first 30 steps, which the experiment leaves out.
        text = printed(site.folder / "o" / "runs" / f"g{row['gpus']:04d}-r01" / "a001")
        rates = [float(rate) for step, rate in re.findall(r"step (\d+) samples/s: ([\d.]+)", text) if int(step) > 40]
        assert len(rates) == 26
        assert min(rates) <= row["throughput"] <= max(rates)
        assert f"{row['gpus']} ranks, gloo, from step 0" in text


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.timeout(400)
def test_a_killed_rank_ends_its_job_and_the_evidence_names_it(start: str, site: Site) -> None:
    words = ("--experiment", site.endless(start), "--gpus", "4", "--repeats", "1", "--out", "o")
    site.do("sweep", *words, "--cluster", site.profile(gpus_per_node=2))
    attempt = site.folder / "o" / "runs" / "g0004-r01" / "a001"
    until(lambda: trains(attempt))
    ranks = site.ranks()
    assert sorted(ranks) == [0, 1, 2, 3]

    began = time.monotonic()
    os.kill(ranks[3], signal.SIGKILL)
    until((attempt / EXIT_JSON).exists, DEATH_S - (time.monotonic() - began))
    until(lambda: site.runs()["g0004-r01"]["state"] == "failed")
    assert site.ranks() == {}
    run = site.runs()["g0004-r01"]
    assert run["failure"] == "signal"
    assert f"rank 3 on {run['nodes'][1]}" in run["reason"]
    (record,) = [json.loads(path.read_text()) for path in attempt.glob("rank-r003.json")]
    assert (record["rank"], record["host"], record["signal"]) == (3, run["nodes"][1], signal.SIGKILL)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.timeout(500)
def test_a_job_near_its_time_limit_writes_a_checkpoint_and_is_requeued(start: str, site: Site) -> None:
    words = ("--experiment", site.endless(start), "--gpus", "2", "--repeats", "1", "--out", "o")
    site.do("sweep", *words, "--cluster", site.profile(gpus_per_node=1, time="10", signal_s=20))
    first, second = (site.folder / "o" / "runs" / "g0002-r01" / name for name in ("a001", "a002"))
    until(lambda: trains(first))
    job = site.runs()["g0002-r01"]["job"]

    # Slurm signals the job some seconds before its new end.
    end = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + 50))
    site.cluster.run("scontrol", "update", f"jobid={job}", f"EndTime={end}")
    until((first / EXIT_JSON).exists)
    ended = sweepdir.read_exit(first)
    assert ended is not None
    assert ended.rc == EXIT_INTERRUPTED
    (step,) = re.findall(r"checkpoint of step (\d+) written", printed(first))

    # It is requeued with the time limit that it had at last; and it may finish now.
    (site.folder / "steps").write_text(str(int(step) + 100))
    until(lambda: "PENDING" in site.cluster.run("squeue", "-h", "-j", job, "-o", "%T"))
    site.cluster.run("scontrol", "update", f"jobid={job}", "TimeLimit=10")
    until(lambda: site.runs()["g0002-r01"]["state"] == "done")
    assert f"2 ranks, gloo, from step {step}\n" in printed(second)
    assert f"checkpoint of step {int(step) + 100} written\n" in printed(second)
    states = site.cluster.run("sacct", "-D", "-X", "-n", "-P", "-j", job, "-o", "State").split()
    assert states == ["REQUEUED", "COMPLETED"]
    (row,) = json.loads(site.do("report", "o", "--json").stdout)
    assert (row["runs"], row["failed_runs"]) == (1, 0)
    assert row["throughput"] > 0
