"""`hpcjobs check` on the virtual cluster: one job checks a node, another one probes the fabric."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hpcjobs.analysis.models import read_fabric
from tests.fixtures_data import synth
from tests.running import hpcjobs, until

from .conftest import Slurm, profile
from .quick import quick

# Small enough to share a node with other jobs.
SMALL = {"sharing": "shared", "cpus_per_gpu": 1, "mem_per_gpu_mib": 800, "partition": "urgent", "time": "00:05:00"}


def words(folder: Path, cluster: Slurm, **changes: Any) -> tuple[str, ...]:
    changes = {**SMALL, "mpi_plugin": cluster.mpi_plugin, **changes}
    return ("check", "--cluster", profile(folder, **changes), "--experiment", "demo", "--gpus", "1,8")


@pytest.mark.slurm
def test_a_fit_cluster_and_its_fabric(cluster: Slurm, tmp_path: Path, pmix: None) -> None:
    done = hpcjobs(
        *words(tmp_path, cluster),
        "--probe",
        "--probe-seconds",
        "5",
        "--json",
        cwd=tmp_path,
        env=cluster.env,
        timeout=180,
    )
    found = json.loads(done.stdout)
    states = [(each["check"], each["state"]) for each in found["findings"]]
    names = ("template", "slurm", "sbatch", "sbatch", "disk", "folder", "clock", "python", "tensorflow", "horovod")
    assert states[:-1] == [(name, "ok") for name in names]
    messages = {each["check"]: each["said"] for each in found["findings"]}
    assert messages["folder"].startswith("c4140-")
    assert messages["clock"].startswith("the node's clock agrees with this host's within ")
    assert states[-1][0] == "fabric"
    fabric = read_fabric(Path(found["fabric"]))
    assert fabric.across_bytes_per_s is not None
    assert fabric.across_bytes_per_s > 1e6
    assert cluster.run("squeue", "-h", "--name=hpcjobs-check,hpcjobs-probe") == ""


@pytest.mark.slurm
def test_a_refused_constraint_and_a_python_that_nodes_do_not_have_are_failures(cluster: Slurm, tmp_path: Path) -> None:
    refused = hpcjobs(*words(tmp_path, cluster, constraint="no-such"), cwd=tmp_path, env=cluster.env, code=1)
    lines = [line for line in refused.stdout.splitlines() if line.startswith("failure")]
    assert [line.split()[1] for line in lines] == ["sbatch", "sbatch", "node"]
    assert "feature" in lines[0]
    absent = hpcjobs(*words(tmp_path, cluster, python="/nowhere/python"), cwd=tmp_path, env=cluster.env, code=1)
    assert "failure node" in absent.stdout
    assert "No such file or directory" in absent.stdout


@pytest.mark.slurm
def test_a_job_that_does_not_start_is_cancelled(cluster: Slurm, tmp_path: Path) -> None:
    held = words(tmp_path, cluster, sbatch={"hold": True})
    done = hpcjobs(*held, "--patience-min", "0.05", cwd=tmp_path, env=cluster.env)
    assert "warning node" in done.stdout
    assert "(JobHeldUser)" in done.stdout
    assert cluster.run("squeue", "-h", "--name=hpcjobs-check") == ""


@pytest.mark.slurm
def test_runs_whose_preflight_fails_are_cancelled_and_say_why(cluster: Slurm, tmp_path: Path) -> None:
    """The node lacks the weights: no run is started. Once they are there, `resume` submits the runs again."""
    place = quick(tmp_path, cluster, partition="urgent", mem_per_gpu_mib=800)
    missing = ("--preflight", "--set", f"model.weights={tmp_path}/none.h5")
    place.do(*place.words(*missing, gpus="1"))
    until(lambda: place.states() == {"cancelled"}, 60)
    lines = place.do("status", "o", code=1).stderr
    assert "preflight: weights: " in lines
    assert "none.h5: no such file" in lines
    assert place.executions() == []
    place.do("resume", "o")
    until(lambda: place.states() == {"done"}, 60)


@pytest.mark.slurm
def test_runs_start_after_a_preflight_that_succeeds(cluster: Slurm, tmp_path: Path) -> None:
    place = quick(tmp_path, cluster, partition="urgent", mem_per_gpu_mib=800)
    synth(tmp_path / "data", images=24, size=32)
    place.do(*place.words("--preflight", gpus="1"))
    until(lambda: place.states() == {"done"}, 60)
    ended = json.loads((tmp_path / "o" / "preflight" / "node.json").read_text())
    assert {finding[1] for finding in ended["findings"]} == {"ok"}
    (claim,) = (tmp_path / "o" / "runs").glob("*/a001/claim")
    assert json.loads(claim.read_text())["start"] >= int((tmp_path / "o" / "preflight" / "node.json").stat().st_mtime)


@pytest.mark.slurm
def test_a_command_is_looked_for_on_a_node_and_names_that_do_not_resolve_are_told(
    cluster: Slurm, tmp_path: Path, pmix: None
) -> None:
    """The nodes' names do not resolve here: two nodes need an interface in env. The probe has eight ranks, not two."""
    about = {"name": "mine", "trainer": "command", "start": "node", "command": ["./train.sh"], "inputs": ["owt"]}
    (tmp_path / "mine.yaml").write_text(json.dumps(about))
    (tmp_path / "train.sh").write_text("#!/bin/sh\n")
    (tmp_path / "owt").mkdir()
    env = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_mpi_yield_when_idle": "1"}
    mine = profile(tmp_path, **{**SMALL, "env": env})
    line = ("check", "--cluster", mine, "--experiment", "./mine.yaml", "--gpus", "1,8", "--json")
    failed = json.loads(hpcjobs(*line, cwd=tmp_path, env=cluster.env, code=1).stdout)["findings"]
    found = {each["check"]: each for each in failed}
    assert "./train.sh is not executable on c4140-" in found["command"]["said"]
    assert [found[name]["state"] for name in ("workdir", "inputs", "port", "names")] == ["ok", "ok", "ok", "warning"]
    assert found["names"]["said"].count("does not resolve") == 2
    (tmp_path / "train.sh").chmod(0o755)
    mine = profile(tmp_path, **{**SMALL, "env": {**env, "GLOO_SOCKET_IFNAME": "eth0"}})
    passed = hpcjobs(*line, "--probe", "--probe-seconds", "5", cwd=tmp_path, env=cluster.env, timeout=180)
    answer = json.loads(passed.stdout)
    # A busy machine may have slow links.
    assert {each["state"] for each in answer["findings"] if each["check"] != "fabric"} == {"ok"}
    assert read_fabric(Path(answer["fabric"])).across_bytes_per_s is not None
