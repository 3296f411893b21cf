"""What hpcjobs needs of any Slurm, in minutes: the short set for each version (`pytest -m versions`)."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from hpcjobs.config import profiles
from tests.running import hpcjobs, until

from .conftest import Slurm
from .quick import quick
from .test_limits import job_of, let_end, rows, sweep

pytestmark = [pytest.mark.slurm, pytest.mark.versions]

FOREVER = "sleep 1000"
# A trainer that ends with the code of a written checkpoint when it is asked to.
CHECKPOINTS = "trap 'exit 75' USR1 TERM; until [ -e {folder}/finish ]; do sleep 0.2; done"


def test_each_end_of_a_run_is_told(tmp_path: Path, cluster: Slurm) -> None:
    """Submit, array, states, status, cancel."""
    site = quick(tmp_path, cluster, requeues=0)
    eater = f"{sys.executable} -c 'import time; much = bytearray(600_000_000); time.sleep(600)'"
    for number, shell in enumerate(("true", "exit 3", "kill -9 $$", eater, FOREVER, FOREVER), start=1):
        site.behave(f"g0001-r{number:02d}", shell)
    site.do(*site.words("--repeats", "6", gpus="1"))
    until(lambda: len(site.executions()) == 6)
    runs = site.runs()
    job = runs["g0001-r05"]["job"].partition("_")[0]
    assert [run["job"] for run in runs.values()] == [f"{job}_{index}" for index in range(6)]
    let_end(f"{job}_4", cluster, seconds=1)
    until(lambda: sum(run["state"] in ("done", "failed") for run in site.runs().values()) == 5)
    runs = site.runs()
    assert (runs["g0001-r06"]["state"], runs["g0001-r06"]["word"]) == ("running", "RUNNING")
    (node,) = runs["g0001-r06"]["nodes"]
    assert node.startswith("c4140-")
    assert site.do("cancel", "o").stdout == "g0001-r06\n"
    site.quiet()
    ends = {name[-3:]: (run["state"], run["failure"]) for name, run in site.runs().items()}
    assert ends == {
        "r01": ("done", None),
        "r02": ("failed", "exit_code"),
        "r03": ("failed", "signal"),
        "r04": ("failed", "out_of_memory"),
        "r05": ("failed", "timeout"),
        "r06": ("cancelled", None),
    }


def test_a_run_continues_after_its_time_limit_and_once_after_a_preemption(tmp_path: Path, cluster: Slurm) -> None:
    """24.11 requeues a preempted job a second time; then nothing is executed."""
    warned, preempted = (tmp_path / name for name in ("warned", "preempted"))
    sites = []
    for folder, changes in (
        (warned, {"time": "10", "signal_s": 20, "requeues": 1}),
        (preempted, {"partition": "scavenge", "sharing": "exclusive"}),
    ):
        folder.mkdir()
        site = quick(folder, cluster, **changes)
        site.behave("g0001-r01", CHECKPOINTS.format(folder=folder))
        site.do(*site.words(gpus="1"))
        sites.append(site)
    until(lambda: all(site.executions() for site in sites))
    first, second = (f"{job_of(site.folder / 'o')}_0" for site in sites)
    let_end(first, cluster)
    (node,) = sites[1].runs()["g0001-r01"]["nodes"]
    urgent = ("--partition=urgent", f"--nodelist={node}", "--gres=gpu:v100:4", "--mem=100", "--output=/dev/null")
    cluster.run("sbatch", *urgent, "--wrap=sleep 1")
    for site in sites:
        until(lambda: (site.folder / "o/runs/g0001-r01/a001/exit.json").exists())  # noqa: B023
        (site.folder / "finish").touch()
    for site in sites:
        site.quiet()
        assert site.executions() == ["g0001-r01"] * 2
        assert site.runs()["g0001-r01"]["attempt"] == "a002"
        assert site.states() == {"done"}
    assert rows(first, cluster) == ["REQUEUED", "COMPLETED"]
    *before, last = rows(second, cluster)
    assert (set(before), last) == ({"PREEMPTED"}, "COMPLETED")


def test_in_one_job_each_size_has_the_first_nodes(tmp_path: Path, cluster: Slurm) -> None:
    """24.11 lays steps out cyclically. Each rank says where it ran, and the claim says the same."""
    trainer = tmp_path / "trainer"
    trainer.write_text('#!/bin/bash\nhostname >"$5/host-$SLURM_PROCID"\n')
    trainer.chmod(0o755)
    whole = {"sharing": "exclusive", "cpus_per_gpu": 10, "mem_per_gpu_mib": 40000, "launcher": "srun"}
    words = ("--gpus", "1,8,16", "--repeats", "2", "--one-allocation")
    out = sweep(tmp_path / "o", cluster, *words, python=trainer, **whole)
    cluster.wait(job_of(out))
    used = {}
    for claim in sorted(out.glob("runs/*/a001/claim")):
        hosts = sorted({path.read_text().strip() for path in claim.parent.glob("host-*")})
        assert json.loads(claim.read_text())["nodelist"].split(",") == hosts
        used[claim.parent.parent.name] = len(hosts)
        assert hosts == [f"c4140-{number}" for number in range(1, len(hosts) + 1)]
    assert used == {f"g{gpus:04d}-r{repeat:02d}": -(-gpus // 4) for gpus in (1, 8, 16) for repeat in (1, 2)}


@pytest.mark.parametrize("how", ["during", "after"])
def test_a_job_whose_submission_was_cut_off_is_adopted(how: str, tmp_path: Path, cluster: Slurm) -> None:
    site = quick(tmp_path, cluster)
    site.die(how)
    assert site.start(*site.words()).wait(120) == -9
    site.do("resume", "o")
    site.quiet()
    assert site.states() == {"done"}
    assert sorted(site.executions()) == ["g0001-r01", "g0002-r01"]


def test_a_node_that_fails_is_told_and_left_out(tmp_path: Path, cluster: Slurm, nodes_come_back: None) -> None:
    site = quick(tmp_path, cluster, requeues=0, sharing="exclusive")
    site.behave("g0004-r01", FOREVER)
    site.do(*site.words(gpus="4"))
    until(site.executions)
    site.behave("g0004-r01", "true")
    (node,) = site.runs()["g0004-r01"]["nodes"]
    cluster.run("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    until(lambda: site.states() == {"failed"})
    run = site.runs()["g0004-r01"]
    assert (run["word"], run["failure"]) == ("NODE_FAIL", "node_failure")
    assert site.do("resume", "o", "--retryable").stdout == "g0004-r01\n"
    site.quiet()
    assert site.states() == {"done"}
    assert site.runs()["g0004-r01"]["nodes"] != [node]


def test_a_detected_profile_names_the_launcher_that_can_start_ranks(tmp_path: Path, cluster: Slurm) -> None:
    found = hpcjobs("cluster", "detect", "--device", "cpu", cwd=tmp_path, env=cluster.env).stdout
    about, shipped = yaml.safe_load(found), profiles.cluster("virtual")
    assert about["launcher"] == {"pmix": "srun", "none": "mpirun"}[cluster.mpi_plugin]
    same = ("name", "nodes", "gpus_per_node", "gpu_type", "cpus_per_gpu", "bind", "partition")
    assert {key: about[key] for key in same} == {key: getattr(shipped, key) for key in same}
    assert "(null)" not in found
    (tmp_path / "found.yaml").write_text(found)

    def planned(profile: str) -> dict[str, Any]:
        words = ("sweep", "--gpus", "1,16", "--experiment", "demo", "--cluster", profile, "--dry-run", "--json")
        return json.loads(hpcjobs(*words, cwd=tmp_path, env=cluster.env).stdout)["plan"]

    # Each script would start at a time, as `sbatch --test-only` says.
    plan = planned("./found.yaml")
    assert all(start.startswith("20") for start in plan["starts"].values()), plan["starts"]
    # The profile `virtual` starts its ranks by srun and PMIx.
    warned = [line for line in planned("virtual")["warnings"] if "`launcher: mpirun` needs no plugin" in line]
    assert len(warned) == (about["launcher"] == "mpirun")
