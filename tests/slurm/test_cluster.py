"""The virtual cluster is a real Slurm: nodes, GPUs, accounting, MPI over two hosts, and no traces."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from . import cluster as virtual
from .conftest import Slurm

RANK = """
import json, os, pathlib, socket
from mpi4py import MPI
world = MPI.COMM_WORLD
seen = {"size": world.size, "host": socket.gethostname(), "sum": world.allreduce(world.rank)}
pathlib.Path(f"rank{world.rank}.json").write_text(json.dumps(seen))
"""
# bind none: the 40 CPUs of a node are only configured, they do not exist.
LAUNCHERS = {
    "srun": "srun --mpi=pmix --ntasks-per-node=4 --cpus-per-task=10 --kill-on-bad-exit=1",
    "mpirun": "mpirun -np 8 --map-by ppr:4:node --bind-to none",
}


def write_script(folder: Path, body: str, **directives: str | int) -> Path:
    lines = [f"#SBATCH --{name.replace('_', '-')}={value}" for name, value in directives.items()]
    script = folder / "job.sbatch"
    script.write_text("\n".join(["#!/bin/bash", *lines, body, ""]))
    return script


@pytest.mark.slurm
def test_four_idle_nodes_with_four_v100_each(cluster: Slurm) -> None:
    table = cluster.run("sinfo", "-h", "-N", "-p", "v100", "-o", "%N|%G|%c|%z|%m")
    assert table.splitlines() == [f"c4140-{i}|gpu:v100:4|40|2:20:1|192000" for i in (1, 2, 3, 4)]
    assert cluster.cluster.usable_nodes() == 4
    partitions = cluster.run("sinfo", "-h", "-o", "%P %D").split()
    assert partitions == ["v100*", "4", "debug", "4", "scavenge", "4", "enders", "4", "urgent", "4"]


@pytest.mark.slurm
def test_accounting_has_the_end_and_the_gpus_of_each_task_of_an_array(cluster: Slurm, tmp_path: Path) -> None:
    # The last task fails, after it has queried accounting from its node.
    body = """
echo "$CUDA_VISIBLE_DEVICES" > "gpus$SLURM_ARRAY_TASK_ID"
if [ "$SLURM_ARRAY_TASK_ID" = 2 ]; then
    # A job appears in accounting some seconds after its start.
    until sacct -X -n -P -j "${SLURM_ARRAY_JOB_ID}_2" -o JobID,State | grep . > sacct.txt; do sleep 0.5; done
    exit 3
fi
"""
    script = write_script(tmp_path, body, array="0-2", nodes=1, gres="gpu:v100:2", mem=100, time=5)
    job = cluster.sbatch(script)
    rows = cluster.wait(job, "AllocTRES", tasks=3)
    assert [(row["JobID"], row["State"], row["ExitCode"]) for row in rows] == [
        (f"{job}_0", "COMPLETED", "0:0"),
        (f"{job}_1", "COMPLETED", "0:0"),
        (f"{job}_2", "FAILED", "3:0"),
    ]
    assert all("gres/gpu=2" in row["AllocTRES"].split(",") for row in rows)
    # Two tasks share a node and see different GPUs of it.
    assert (tmp_path / "gpus0").read_text() == "0,1\n"
    assert (tmp_path / "gpus1").read_text() == "2,3\n"
    assert (tmp_path / "sacct.txt").read_text() == f"{job}_2|RUNNING\n"


@pytest.mark.slurm
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_eight_ranks_on_two_hosts(
    cluster: Slurm, tmp_path: Path, launcher: str, request: pytest.FixtureRequest
) -> None:
    pytest.importorskip("mpi4py")
    if launcher == "srun":
        request.getfixturevalue("pmix")
    (tmp_path / "rank.py").write_text(RANK)
    root = "export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"
    body = f"{root}\n{LAUNCHERS[launcher]} {sys.executable} rank.py"
    script = write_script(tmp_path, body, nodes=2, ntasks_per_node=4, cpus_per_task=10, gres="gpu:v100:4", time=5)
    (row,) = cluster.wait(cluster.sbatch(script, "--exclusive"), "AllocTRES")
    assert row["State"] == "COMPLETED", "".join(log.read_text() for log in tmp_path.glob("*.out"))
    assert "gres/gpu=8" in row["AllocTRES"]
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(8)]
    assert len({rank["host"] for rank in ranks}) == 2
    assert [rank["host"] for rank in ranks] == [ranks[0]["host"]] * 4 + [ranks[4]["host"]] * 4
    assert {(rank["size"], rank["sum"]) for rank in ranks} == {(8, 28)}


@pytest.mark.slurm
def test_up_and_down_again_are_harmless(cluster: Slurm) -> None:
    again = cluster.tool("up")
    assert (again.returncode, again.stdout.split(":")[0]) == (0, "already up")
    assert cluster.tool("env").stdout == f"export SLURM_CONF={cluster.state}/slurm.conf\n"


@pytest.mark.slurm
def test_down_leaves_no_trace_and_up_works_again(cluster: Slurm, tmp_path: Path) -> None:
    if cluster.found_up:
        pytest.skip("the cluster was up before the tests and may have jobs of others")
    busy = write_script(tmp_path, "touch started; srun sleep 600", nodes=4, mem=100, time=5)
    cluster.sbatch(busy)
    virtual.wait_for("a running job", (tmp_path / "started").exists, 120)
    assert cluster.tool("down").stdout == "down\n"
    assert traces(cluster.state) == []
    assert cluster.tool("down").stdout == "nothing to take down\n"

    # The same after all processes, also those of a job, were killed at once.
    assert cluster.tool("up").returncode == 0
    (tmp_path / "started").unlink()
    cluster.sbatch(busy)
    virtual.wait_for("a running job", (tmp_path / "started").exists, 120)
    for pid in cluster.cluster.processes():
        os.kill(pid, signal.SIGKILL)
    assert cluster.tool("status").returncode == 1
    assert cluster.tool("up").returncode == 0
    assert cluster.run("squeue", "-h") == ""


def traces(state: Path) -> list[str]:
    """Everything that a cluster might leave behind: processes, namespaces, links, files."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
        except OSError:
            continue
        if f"{state}/".encode() in words and int(entry.name) != os.getpid():
            found.append(f"process {words!r}")
    namespaces = Path("/run/netns")
    found += [entry.name for entry in namespaces.glob("c4140-*")]
    found += [entry.name for entry in Path("/sys/class/net").glob("hpcjobs*")]
    found += [str(entry) for entry in Path("/dev/shm").glob("*c4140-*")]
    return found + [str(path) for path in (state, *state.parent.glob("ompi.c4140-*")) if path.exists()]


def test_an_error_names_what_is_missing_and_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(virtual, "PROGRAMS", ("sh", "no-such-slurmd"))
    assert virtual.main(["up"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("cluster.py: missing programs: no-such-slurmd; ")
    assert "apt-get install --no-install-recommends slurm-wlm slurmdbd" in message
    assert message.count("\n") == 1


def test_needs_root(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert virtual.main(["up"]) == 2
    assert capsys.readouterr().err.startswith("cluster.py: needs root")


def test_down_refuses_a_folder_that_is_not_a_clusters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    (tmp_path / "thesis.tex").write_text("years of work")
    assert virtual.main(["--state", str(tmp_path), "down"]) == 2
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
