"""A detected profile runs a sweep without an edit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hpcjobs.config import profiles
from tests.running import hpcjobs

from .conftest import Slurm

pytestmark = pytest.mark.slurm


@pytest.mark.timeout(400)
def test_a_detected_profile_runs_a_sweep_unedited(tmp_path: Path, cluster: Slurm) -> None:
    """Only `device` is given: these GPUs are names without hardware, which a login node cannot detect."""
    found = hpcjobs("cluster", "detect", "--device", "cpu", cwd=tmp_path, env=cluster.env).stdout
    (tmp_path / "found.yaml").write_text(found)
    about = profiles.cluster(str(tmp_path / "found.yaml"))
    shipped = profiles.cluster("virtual")
    same = ("name", "nodes", "gpus_per_node", "gpu_type", "cpus_per_gpu", "bind", "partition")
    for key in (*same, *(("launcher", "mpi_plugin") if cluster.mpi_plugin == "pmix" else ())):
        assert getattr(about, key) == getattr(shipped, key)
    words = ("sweep", "--gpus", "1,2", "--experiment", "demo", "--cluster", "./found.yaml", "--out", "o", "--wait")
    rows = json.loads(hpcjobs(*words, "--json", cwd=tmp_path, env=cluster.env, timeout=380).stdout)
    assert [(row["gpus"], row["runs"], row["failed_runs"]) for row in rows] == [(1, 1, 0), (2, 1, 0)]
    assert all(row["nodelist"].startswith("c4140-") for row in rows)


@pytest.mark.parametrize("partition", ["v100", "debug"])
def test_slurm_accepts_a_sweep_without_a_profile(partition: str, tmp_path: Path, cluster: Slurm) -> None:
    words = ("sweep", "--gpus", "4,16", "--experiment", "demo", "--partition", partition, "--dry-run", "--json")
    done = hpcjobs(*words, cwd=tmp_path, env=cluster.env)
    assert f"detected partition {partition}, 4 nodes, each 4 v100, 40 cores, 188 GiB, to compute on gpu" in done.stderr
    assert set(json.loads(done.stdout)["plan"]["starts"].values()).isdisjoint(("refused", ""))
