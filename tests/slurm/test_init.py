"""The files that `hpcjobs init` writes on a login node run a sweep without an edit."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from hpcjobs.chexnet.data.dataset import Dataset
from tests.running import hpcjobs

from .conftest import Slurm

pytestmark = pytest.mark.slurm


@pytest.mark.timeout(400)
def test_what_init_writes_runs_a_sweep_unedited(tmp_path: Path, cluster: Slurm, nih_shards: Dataset) -> None:
    """Only the data and `device` are given: these GPUs are names without hardware, which a login node cannot detect."""
    done = hpcjobs("init", "--base", "demo", "--device", "cpu", cwd=tmp_path, env=cluster.env)
    assert done.stdout == "experiments/mine.yaml\nclusters/virtual.yaml\n"
    shadowed = hpcjobs("cluster", "list", "--json", cwd=tmp_path, env=cluster.env).stdout
    about = {each["name"]: each for each in json.loads(shadowed)}["virtual"]
    assert (about["origin"], len(about["shadows"])) == ("working folder", 1)
    words = ("sweep", "--gpus", "1,2", "--experiment", "mine", "--cluster", "virtual", "--out", "o", "--wait")
    words += ("--set", f"data.dir={nih_shards.folder}")
    rows = json.loads(hpcjobs(*words, "--json", cwd=tmp_path, env=cluster.env, timeout=380).stdout)
    assert [(row["experiment"], row["gpus"], row["runs"], row["failed_runs"]) for row in rows] == [
        ("mine", 1, 1, 0),
        ("mine", 2, 1, 0),
    ]
    assert all(row["nodelist"].startswith("c4140-") for row in rows)


def test_slurm_accepts_the_next_steps_that_init_prints(tmp_path: Path, cluster: Slurm) -> None:
    done = hpcjobs("init", "--base", "demo", "--partition", "debug", cwd=tmp_path, env=cluster.env)
    assert done.stdout.splitlines()[1] == "clusters/virtual-debug.yaml"
    (step,) = (line.split()[1:] for line in done.stderr.splitlines() if line.endswith("--dry-run"))
    assert " ".join(step) == "sweep --gpus 1,4,8 --experiment mine --cluster virtual-debug --dry-run"
    words = (*step, "--set", "data.dir=shards", "--json")
    plan = json.loads(hpcjobs(*words, cwd=tmp_path, env=cluster.env).stdout)["plan"]
    assert set(plan["starts"].values()).isdisjoint(("refused", ""))


def test_a_bug_report_has_slurms_version(tmp_path: Path, cluster: Slurm) -> None:
    found = json.loads(hpcjobs("--version", "--json", cwd=tmp_path, env=cluster.env).stdout)
    assert re.fullmatch(r"\d\d\.\d\d\.\d+", found["slurm"])
    assert cluster.run("sbatch", "--version").split()[-1] == found["slurm"]
