"""Time limits, preemption and duplicate submissions on a real Slurm, and one job that runs all sizes."""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from hpcjobs.base import sweepdir
from hpcjobs.base.contract import CHECKPOINTS, EXIT_INTERRUPTED, EXIT_JSON, JOB_LOG, RUN_YAML, TRAIN_LOG, LogKey
from hpcjobs.chexnet.data.dataset import Dataset
from hpcjobs.collect import mllog
from hpcjobs.config import Cluster
from tests.control.combinations import combinations, group_of, impossible, text_of
from tests.running import hpcjobs, status, until

from .conftest import Slurm, profile
from .test_survival import shards, trained  # noqa: F401 (the first is a fixture)

pytestmark = pytest.mark.slurm

FAKES = Path(__file__).parent / "fakes"
TRAINER = FAKES / "trainer.sh"
LAUNCHERS = ("srun", "mpirun")
# Lets many jobs share few nodes. The fake trainer needs no MPI, and some versions of Slurm have no PMIx.
SMALL = {
    "mpi_plugin": "none",
    "sharing": "shared",
    "cpus_per_gpu": 1,
    "mem_per_gpu_mib": 4000,
    "collect": {"job": False},
}


def sweep(
    out: Path, cluster: Slurm, *words: str, python: Path = TRAINER, data: Path | None = None, **changes: Any
) -> Path:
    """Submit a sweep of the fake trainer into `out`, and return that folder. `changes` are keys of the profile."""
    about = out.with_name(f"about-{out.name}")
    (about / "data").mkdir(parents=True)
    other = profile(about, **{**SMALL, "python": str(python), **changes})
    where = ("--set", f"data.dir={data or about / 'data'}", "--cluster", other, "--out", out.name)
    hpcjobs("sweep", "--experiment", "demo", *where, *words, cwd=out.parent, env=cluster.env)
    return out


def job_of(out: Path) -> str:
    """The id of a sweep's only job."""
    (event,) = [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines() if '"submitted"' in line]
    return str(event["job"])


def fake_lines(out: Path, run: str, attempt: int = 1) -> dict[int, list[str]]:
    """The output of each rank of the fake trainer, by rank."""
    files = sweepdir.SweepDir(out).run(run).glob(f"a{attempt:03d}/fake-*")
    return {int(path.name.removeprefix("fake-")): path.read_text().splitlines() for path in files}


def ended(out: Path, run: str, attempt: int = 1, seconds: float = 120) -> int:
    """The exit code of an attempt, which must end within this many seconds."""
    folder = out / "runs" / run / f"a{attempt:03d}"
    until((folder / EXIT_JSON).exists, seconds)
    record = sweepdir.read_exit(folder)
    assert record is not None
    return record.rc


def let_end(task: str, cluster: Slurm, seconds: int = 50) -> None:
    """Set the time limit of a running job to this many seconds from now."""
    end = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + seconds))
    cluster.run("scontrol", "update", f"jobid={task}", f"EndTime={end}")


def rows(task: str, cluster: Slurm) -> list[str]:
    """The final or current state of each start of a task, the earliest first."""
    return cluster.run("sacct", "-D", "-X", "-n", "-P", "-j", task, "-o", "State").splitlines()


@pytest.mark.timeout(400)
def test_a_job_that_is_warned_of_its_time_limit_writes_a_checkpoint_and_requeues_itself(
    tmp_path: Path,
    shards: Dataset,  # noqa: F811
    cluster: Slurm,
    pmix: None,
) -> None:
    """Two ranks on two nodes under each launcher, beside another task of the array, and a job without requeues."""
    # The ranks of the array's first task are fake and work until the test lets them finish. Those of the last task,
    # whose raw job id is the id of the array, are real.
    both = tmp_path / "python"
    real = f'exec {sys.executable} {FAKES / "signal_recorder.py"} "$@"'
    both.write_text(f'#!/bin/bash\ncase "$3" in */g0002-r01/*) exec {TRAINER} "$@" ;; esac\n{real}\n')
    both.chmod(0o755)
    words = ("--gpus", "2", "--repeats", "2", "--set", "train.steps=1000000")
    limits: dict[str, Any] = {"time": "10", "signal_s": 20}
    two: dict[str, Any] = {"python": both, "data": shards.folder, "mpi_plugin": "pmix", "gpus_per_node": 1, **limits}
    outs = {name: sweep(tmp_path / name, cluster, *words, launcher=name, **two) for name in LAUNCHERS}
    bounded = sweep(tmp_path / "bounded", cluster, "--gpus", "1", requeues=1, **limits)
    tasks = {launcher: f"{job_of(out)}_1" for launcher, out in outs.items()}

    def first(launcher: str) -> Path:
        return outs[launcher] / "runs" / "g0002-r02" / "a001"

    until(lambda: fake_lines(bounded, "g0001-r01"))
    let_end(f"{job_of(bounded)}_0", cluster)
    until(lambda: all(trained(first(launcher)) for launcher in LAUNCHERS))
    for task in tasks.values():
        let_end(task, cluster)
    steps = {}
    for launcher, out in outs.items():
        assert ended(out, "g0002-r02") == EXIT_INTERRUPTED
        signals = {path.name: set(path.read_text().split()) for path in first(launcher).glob("signals-*")}
        assert signals == {"signals-0": {"SIGUSR1"}, "signals-1": {"SIGUSR1"}}
        interrupted = mllog.read(first(launcher) / TRAIN_LOG).last(LogKey.INTERRUPTED)
        assert interrupted is not None
        assert interrupted.value == "SIGUSR1"
        steps[launcher] = step = interrupted.metadata["step"]
        assert (first(launcher).parent / CHECKPOINTS / f"step-{step:08d}").is_dir()
        # The script writes it after exit.json.
        until(lambda: "continues in restart 1 of 3\n" in (first(launcher) / JOB_LOG).read_text())  # noqa: B023
        # The test lets it finish now.
        shorter = yaml.safe_load((first(launcher).parent / RUN_YAML).read_text())
        shorter["experiment"]["train"]["steps"] = step + 15
        (first(launcher).parent / RUN_YAML).write_text(yaml.safe_dump(shorter))
        until(lambda: "PENDING" in cluster.run("squeue", "-h", "-j", tasks[launcher], "-o", "%T"))  # noqa: B023
        cluster.run("scontrol", "update", f"jobid={tasks[launcher]}", "TimeLimit=10")

    # It was requeued once, and not a second time.
    until(lambda: fake_lines(bounded, "g0001-r01", attempt=2))
    let_end(f"{job_of(bounded)}_0", cluster)

    for launcher, out in outs.items():
        assert ended(out, "g0002-r02", attempt=2) == 0
        resumed = mllog.read(out / "runs" / "g0002-r02" / "a002" / TRAIN_LOG).last(LogKey.RESUMED)
        assert resumed is not None
        assert resumed.value == steps[launcher]
        until(lambda: rows(tasks[launcher], cluster) == ["REQUEUED", "COMPLETED"])  # noqa: B023
        # The other task of the array was not interrupted.
        assert "Restarts=0 " in cluster.run("scontrol", "show", "job", f"{job_of(out)}_0")
        assert {rank: len(lines) for rank, lines in fake_lines(out, "g0002-r01").items()} == {0: 2, 1: 2}
        (out / "finish").touch()
        until(lambda: rows(f"{job_of(out)}_0", cluster) == ["COMPLETED"])  # noqa: B023
        assert [path.name for path in (out / "runs" / "g0002-r01").glob("a*")] == ["a001"]
        run = status(launcher, cwd=tmp_path, env=cluster.env, code=None)["g0002-r02"]
        assert (run["state"], run["attempt"]) == ("done", "a002")

    assert ended(bounded, "g0001-r01", attempt=2) == EXIT_INTERRUPTED
    until(lambda: rows(f"{job_of(bounded)}_0", cluster) == ["REQUEUED", "FAILED"])
    last = bounded / "runs" / "g0001-r01" / "a002" / JOB_LOG
    until(lambda: "was requeued 1 times already: it is not requeued again\n" in last.read_text())
    assert fake_lines(bounded, "g0001-r01", attempt=2)[0][1] != "step 0"


@pytest.mark.timeout(300)
def test_slurm_requeues_a_preempted_job_and_duplicate_submissions_run_once(tmp_path: Path, cluster: Slurm) -> None:
    """One rank on each node of a larger job under mpirun, and four on one node under srun, beside duplicates."""
    many = sweep(tmp_path / "many", cluster, "--gpus", "1", "--repeats", "6")
    script = many / "scripts" / "g0001.sbatch"
    jobs = [job_of(many), *(cluster.run("sbatch", "--parsable", script, "1").strip() for _ in range(2))]
    (many / "finish").touch()
    alone = sweep(tmp_path / "srun", cluster, "--gpus", "4", partition="scavenge")
    wide = sweep(tmp_path / "mpirun", cluster, "--gpus", "2", partition="scavenge", launcher="mpirun", gpus_per_node=1)
    outs = {alone: "g0004-r01", wide: "g0002-r01"}
    until(lambda: [len(fake_lines(out, run)) for out, run in outs.items()] == [4, 2])
    names = [cluster.run("squeue", "-h", "-j", job_of(out), "-o", "%N").strip() for out in outs]
    nodes = cluster.run("scontrol", "show", "hostnames", ",".join(names)).split()
    until(lambda: not cluster.run("squeue", "-h", "-j", ",".join(jobs)))
    urgent = (f"--nodelist={','.join(nodes)}", f"--nodes={len(set(nodes))}", "--gres=gpu:v100:4", "--wrap=sleep 3")
    cluster.run("sbatch", "--partition=urgent", "--mem=100", "--output=/dev/null", *urgent)

    # The ranks use the grace time to write a checkpoint.
    assert ended(alone, "g0004-r01", seconds=30) == EXIT_INTERRUPTED
    assert all("SIGTERM" in lines for lines in fake_lines(alone, "g0004-r01").values())
    (checkpoint,) = (alone / "runs" / "g0004-r01" / CHECKPOINTS).iterdir()
    # Open MPI's daemons die of the signal, so these ranks write no checkpoint. Their job is requeued all the same.
    assert ended(wide, "g0002-r01", seconds=30) not in (0, EXIT_INTERRUPTED)
    for out, run in outs.items():
        job_log = out / "runs" / run / "a001" / JOB_LOG
        # The script asks Slurm, and says this, after it has written exit.json.
        until(lambda: "is preempted: it waits until Slurm ends it\n" in job_log.read_text())  # noqa: B023
        assert "continues in restart" not in job_log.read_text()

    # The six runs were submitted three times: each ran once.
    for job in jobs:
        ends = cluster.wait(job, tasks=6)
        assert {(end["State"], end["ExitCode"]) for end in ends} == {("COMPLETED", "0:0")}
    for number in range(1, 7):
        folder = many / "runs" / f"g0001-r{number:02d}"
        assert [path.name for path in folder.glob("a*")] == ["a001"]
        winner = json.loads((folder / "claim-s001").read_text())["job"]
        lost = [many / "slurm" / f"{job}_{number - 1}.out" for job in jobs if f"{job}_{number - 1}" != winner]
        assert len(lost) == 2
        for path in lost:
            assert f'the claim is: {{"job": "{winner}"' in path.read_text()

    for out, run in outs.items():
        until(lambda: fake_lines(out, run, attempt=2))  # noqa: B023
        (out / "finish").touch()
        assert ended(out, run, attempt=2) == 0
    # Slurm 24.11 requeues them once more. Then no run is executed a third time.
    until(lambda: not cluster.run("squeue", "-h", "-j", ",".join(map(job_of, outs))))
    for out, run in outs.items():
        *before, last = rows(f"{job_of(out)}_0", cluster)
        assert (set(before), last) == ({"PREEMPTED"}, "COMPLETED")
        assert sorted(path.name for path in (out / "runs" / run).glob("a*")) == ["a001", "a002"]
    assert {lines[1] for lines in fake_lines(alone, "g0004-r01", attempt=2).values()} == {
        checkpoint.name.replace("-", " ")
    }


@pytest.mark.timeout(200)
def test_one_job_runs_all_sizes_as_steps_in_the_given_order(tmp_path: Path, cluster: Slurm) -> None:
    words = ("--gpus", "1,2,6,8,16", "--repeats", "2", "--one-allocation")
    more: dict[str, Any] = {"sharing": "exclusive", "cpus_per_gpu": 10, "mem_per_gpu_mib": 40000, "uneven_nodes": True}
    outs = [sweep(tmp_path / name, cluster, *words, launcher=name, **more) for name in LAUNCHERS]
    for out in outs:
        (out / "finish").touch()
    for out in outs:
        ((state, code),) = {(end["State"], end["ExitCode"]) for end in cluster.wait(job_of(out), timeout=100)}
        assert (state, code) == ("COMPLETED", "0:0")
        # One repeat after another: first ascending, then descending.
        order = [f"g{gpus:04d}-r01" for gpus in (1, 2, 6, 8, 16)] + [f"g{gpus:04d}-r02" for gpus in (16, 8, 6, 2, 1)]
        claims = [json.loads((out / "runs" / run / "a001" / "claim").read_text()) for run in order]
        assert [claim["start"] for claim in claims] == sorted(claim["start"] for claim in claims)
        assert {claim["job"] for claim in claims} == {f"{job_of(out)}_0"}
        times = [(out / "runs" / run / "a001" / "fake-0").stat().st_mtime for run in order]
        assert times == sorted(times)
        for run, claim in zip(order, claims, strict=True):
            ranks = fake_lines(out, run)
            gpus = int(run[1:5])
            hosts = [ranks[rank][0] for rank in range(gpus)]
            # Each run uses the first nodes of the allocation.
            per_node = {1: [1], 2: [2], 6: [3, 3], 8: [4, 4], 16: [4, 4, 4, 4]}[gpus]
            nodes = [f"c4140-{number}" for number in range(1, 5)]
            assert hosts == [node for node, count in zip(nodes, per_node, strict=False) for _ in range(count)]
            assert claim["nodelist"].split(",") == sorted(set(hosts))


def test_under_srun_the_profiles_environment_reaches_every_rank(tmp_path: Path, cluster: Slurm) -> None:
    """Also if the job gets nothing of the user's environment: then srun would not pass the script's on to the ranks."""
    variables = {"NCCL_IB_HCA": "=mlx5_0:1", "OMPI_MCA_btl_tcp_if_include": "eth0", "ODD": "a 'b' \"$c\" `d`, e=f"}
    trainer = tmp_path / "trainer"
    trainer.write_text('#!/bin/bash\nenv >"$5/env-$SLURM_PROCID"\n')
    trainer.chmod(0o755)
    more: dict[str, Any] = {"gpus_per_node": 1, "sbatch": {"export": "NONE"}, "env": variables, "launcher": "srun"}
    out = sweep(tmp_path / "o", cluster, "--gpus", "2", python=trainer, **more)
    assert ended(out, "g0002-r01") == 0
    for rank in (0, 1):
        seen = (out / "runs" / "g0002-r01" / "a001" / f"env-{rank}").read_text().splitlines()
        assert {f"{name}={value}" for name, value in variables.items()} <= set(seen)


def test_slurm_accepts_the_scripts_of_combinations_of_keys(tmp_path: Path, cluster: Slurm) -> None:
    """A sample of all combinations, each on one node and on two."""
    possible = [keys for keys in combinations() if not impossible(keys) and keys["scheduler"] == "slurm"]
    for keys in random.Random(8).sample(possible, 30):
        profile = Cluster(**keys)
        for gpus in (4, 8):
            path = tmp_path / "any.sbatch"
            path.write_text(text_of(profile, group_of(profile, gpus)))
            done = cluster.cluster.run("sbatch", "--test-only", path)
            assert done.returncode == 0, f"{keys}: {done.stderr}"
