"""Odd values reach Slurm as they were given, and a job in a folder with an odd name finds its files."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.control.odd_words import NASTY, rendered

from .conftest import Slurm

pytestmark = pytest.mark.slurm

SEED = 20261125


def stored(cluster: Slurm, job: str) -> dict[str, Any]:
    """A job in squeue's JSON, which has each value unchanged. A table would shorten it.

    Since 23.02 a number is an object: {"set": true, "infinite": false, "number": 13}.
    """
    jobs = json.loads(cluster.run("squeue", "--json"))["jobs"]
    plain = [
        {name: value.get("number", value) if isinstance(value, dict) else value for name, value in each.items()}
        for each in jobs
    ]
    return next(each for each in plain if each["array_job_id"] == int(job))


def test_slurm_stores_values_unchanged(tmp_path: Path, cluster: Slurm) -> None:
    rng = random.Random(SEED)
    usual = [word for word in NASTY if word and "\\" not in word and "/" not in word]
    for number in range(8):
        comment, folder, chdir = ("".join(rng.sample(usual, 2)) for _ in range(3))
        root = tmp_path / str(number) / f"x{folder}"
        given = {"wckey": comment, "chdir": f"{tmp_path}/{chdir}"}
        group, _ = rendered(root, "virtual", sbatch=given)
        job = cluster.run("sbatch", "--hold", "--parsable", root / "scripts" / f"{group}.sbatch").strip()
        try:
            about = stored(cluster, job)
        finally:
            cluster.run("scancel", job)
        assert about["wckey"] == comment.lower()  # Slurm stores a wckey in lower case
        assert about["current_working_directory"] == given["chdir"]
        # 24.11 and 26.05 show the name itself, of an array whose tasks have no numbers yet.
        pattern, name = str(root).replace("%", "%%") + "/slurm/%A_%a.out", f"{root}/slurm/{job}_{2**32 - 2}.out"
        assert about["standard_output"] in (pattern, name)
        assert (about["comment"], about["partition"]) == ("hpcjobs sweep 261123120000abcd", "v100")
        assert (about["node_count"], about["tasks"]) == (1, 1)


@pytest.mark.parametrize("option", ["partition", "constraint", "reservation", "exclude"])
def test_an_option_that_slurm_does_not_know_is_refused_by_name(option: str, tmp_path: Path, cluster: Slurm) -> None:
    group, _ = rendered(tmp_path / "x", "virtual", **{option: "no such; $(touch pwned) 'thing'"})
    script = tmp_path / "x" / "scripts" / f"{group}.sbatch"
    done = cluster.cluster.run("sbatch", "--test-only", script)
    assert done.returncode != 0
    assert "nvalid" in done.stderr
    assert not list(tmp_path.rglob("pwned"))


def test_a_job_in_an_odd_folder_finds_its_files(tmp_path: Path, cluster: Slurm) -> None:
    """So does Slurm's own output: a percent sign in the folder's name must not become one of its patterns."""
    root = tmp_path / 'it\'s $(touch pwned) 100% "x" %j é #1'
    group, run = rendered(root, "virtual", python="/bin/true", time="00:02:00", mpi_plugin="none")
    (root / "slurm").mkdir()
    job = cluster.run("sbatch", "--parsable", root / "scripts" / f"{group}.sbatch").strip()
    (row,) = cluster.wait(job)
    output = root / "slurm" / f"{job}_0.out"
    assert row["State"] == "COMPLETED", subprocess.run(["cat", output], capture_output=True, text=True).stdout
    assert output.exists()
    attempt = root / "runs" / run / "a001"
    assert json.loads((attempt / "exit.json").read_text())["job"] == f"{job}_0"
    assert json.loads((root / "runs" / run / "claim-s001").read_text())["job"] == f"{job}_0"
    assert not list(tmp_path.rglob("pwned"))
