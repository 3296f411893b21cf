"""Sweeps on a real Slurm with real Horovod ranks and real X-rays. The sweep of five sizes is in test_docs.py."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hpcjobs.chexnet.data.dataset import Dataset
from tests.running import hpcjobs, status, until

from .conftest import Slurm, profile, ranks

pytestmark = pytest.mark.slurm

NODES = {1: 1, 2: 1, 4: 1, 8: 2, 16: 4}
GOLDEN = Path(__file__).parent.parent / "control" / "golden"


@pytest.mark.timeout(600)
def test_a_benchmark_under_mpirun(tmp_path: Path, cluster: Slurm, nih_shards: Dataset) -> None:
    """`srun --mpi=pmix` on 1, 2 and 8 GPUs is tested by the first sweep in test_docs.py."""
    other = profile(tmp_path, launcher="mpirun")
    settings = (f"data.dir={nih_shards.folder}", "mode=benchmark", "measure.max_steps=20", "measure.warmup_steps=6")
    settings += ("measure.control_passes=6",)  # eight ranks on few cores take long, and learn nothing from more
    words = ("sweep", "--gpus", "2,8", "--experiment", "demo", "--cluster", other, "--out", "o", "--wait")
    words += tuple(word for setting in settings for word in ("--set", setting))
    rows = json.loads(hpcjobs(*words, "--json", cwd=tmp_path, env=cluster.env, timeout=550).stdout)
    assert [(row["gpus"], row["nodes"], row["runs"]) for row in rows] == [(2, 1, 1), (8, 2, 1)]
    assert all(row["throughput"] > 0 for row in rows)
    nodes = rows[1]["nodelist"].split()
    assert len(nodes) == 2
    log = (tmp_path / "o" / "runs" / "g0008-r01" / "a001" / "train.log").read_text().splitlines()
    (line,) = [line for line in log if '"hpcjobs_control"' in line]
    control = json.loads(line.removeprefix(":::MLLOG"))["value"]
    assert [rank["host"] for rank in control["ranks"]] == [nodes[0]] * 4 + [nodes[1]] * 4
    assert control["slowest_host"] in nodes
    assert rows[1]["input_wait_ms"] == control["input_wait_ms"]
    # Of ranks that wait for CPUs all the time, as eight do on few cores, the table has the input wait alone.
    told = control["starved"] is None
    assert ("ranks_wait_for_cpus" in rows[1]["flags"]) is not told
    for part in ("allreduce_ms", "skew_ms"):
        assert rows[1][part] == (control[part] if told else None)


@pytest.mark.timeout(400)
def test_status_shows_each_way_to_end(tmp_path: Path, cluster: Slurm, nih_shards: Dataset, pmix: None) -> None:
    """A time limit, a killed rank, a scancel from outside, and a cancel. The shells that submitted have exited."""
    endless = ("--set", "train.steps=1000000", "--set", f"data.dir={nih_shards.folder}", "--experiment", "demo")

    def submit(folder: str, gpus: str, repeats: str, cluster_name: str) -> None:
        words = ("sweep", "--gpus", gpus, "--repeats", repeats, "--cluster", cluster_name, *endless, "--out", folder)
        command = [sys.executable, "-m", "hpcjobs", *words]
        assert subprocess.Popen(command, cwd=tmp_path, env=cluster.env, start_new_session=True).wait(60) == 0

    def now(folder: str, code: int | None = None) -> dict[str, dict]:
        return status(folder, cwd=tmp_path, env=cluster.env, code=code)

    submit("short", "1", "1", profile(tmp_path, time="1"))
    submit("o", "2", "5", "virtual")
    # A fourth run of four nodes begins once the short one has ended. There is never a node for a fifth.
    killed, scancelled, cancelled, fourth, pending = (f"g0002-r{number:02d}" for number in range(1, 6))
    until(lambda: [now("o")[run]["state"] for run in (killed, scancelled, cancelled)] == ["running"] * 3)
    assert now("o")[pending]["state"] == "pending"
    assert now("o")[pending]["nodes"] == []
    job = now("o")[pending]["job"].partition("_")[0]

    hpcjobs("cancel", "o", cancelled, fourth, pending, cwd=tmp_path, env=cluster.env)
    cluster.run("scancel", f"{job}_1")
    until(lambda: [now("o")[run]["state"] for run in (scancelled, cancelled, fourth, pending)] == ["cancelled"] * 4)
    assert "by root" in now("o")[scancelled]["reason"]

    folder = tmp_path / "o" / "runs" / killed
    until(lambda: len(ranks(folder)) == 2)
    os.kill(ranks(folder)[1], signal.SIGKILL)
    until(lambda: now("o")[killed]["state"] == "failed")
    assert now("o")[killed]["failure"] == "signal"
    assert ranks(folder) == []

    until(lambda: (tmp_path / "short" / "runs" / "g0001-r01" / "a001" / "exit.json").exists(), seconds=180)
    until(lambda: now("short")["g0001-r01"]["word"] == "TIMEOUT")
    ended = now("short", 1)["g0001-r01"]
    # The ranks are signalled at the limit, too. If they wrote their checkpoint in time, that counts instead.
    assert ended["state"] == "failed"
    assert ended["failure"] in ("timeout", "interrupted")
    assert any(words in ended["reason"] for words in ("DUE TO TIME LIMIT", "a checkpoint of step "))
    rows = json.loads(hpcjobs("report", "o", "--json", cwd=tmp_path, env=cluster.env, code=1).stdout)
    assert [(row["gpus"], row["runs"], row["failed_runs"]) for row in rows] == [(2, 0, 5)]


@pytest.mark.parametrize("script", sorted(GOLDEN.glob("*.sbatch")), ids=lambda path: path.stem)
def test_every_golden_script_is_accepted(script: Path, cluster: Slurm) -> None:
    done = cluster.cluster.run("sbatch", "--test-only", script, timeout=30)
    assert done.returncode == 0, done.stderr
    assert "to start at" in done.stderr


@pytest.mark.parametrize("gpus", NODES)
def test_slurm_has_read_every_directive(gpus: int, cluster: Slurm, tmp_path: Path) -> None:
    """No command stands before a directive, which would end them: Slurm has every value that the script asks for."""
    script = tmp_path / "held.sbatch"
    text = (GOLDEN / f"c4140-srun-g{gpus:04d}.sbatch").read_text()
    script.write_text(text.replace("/scratch/study", str(tmp_path)))
    job = cluster.sbatch(script, "--hold")
    try:
        shown = dict(
            word.split("=", 1) for word in cluster.run("scontrol", "-o", "show", "job", job).split() if "=" in word
        )
    finally:
        cluster.run("scancel", job)
    per_node = min(gpus, 4)
    assert shown["JobName"] == f"hpcjobs-261123120000abcd-g{gpus:04d}-s01"
    assert (shown["ArrayTaskId"], shown["TimeLimit"]) == ("0-2", "04:00:00")
    assert shown["NumNodes"].partition("-")[0] == str(NODES[gpus])
    assert (shown["NumTasks"], shown["CPUs/Task"]) == (str(gpus), "10")
    assert shown["NtasksPerN:B:S:C"].startswith(f"{per_node}:")
    assert shown["MinMemoryNode"] == f"{per_node * 45}G"
    # From 23.11 on there is a slash.
    assert shown["TresPerNode"].replace("/", ":") == f"gres:gpu:v100:{per_node}"
    assert shown["OverSubscribe"] == "NO"
    assert shown["StdOut"].startswith(f"{tmp_path}/slurm/")
