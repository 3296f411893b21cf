"""The sampler beside commands on a real Slurm: on each node, and gone with the job. GPUs are fakes."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from hpcjobs.base.contract import EXIT_JSON, JOB_LOG
from tests.fake_gpus import write_python
from tests.running import hpcjobs, status, until

from .conftest import Slurm, profile

pytestmark = pytest.mark.slurm

NODES = 2
GPUS = 4 * NODES


def samplers(folder: Path) -> list[str]:
    """The command lines of processes on all nodes that sample for an attempt in that folder, those of srun too."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if "hpcjobs.nodes.sampler" in line and str(folder) in line:
                found.append(line)
    return found


def sampled(attempt: Path) -> dict[str, int]:
    """The number of samples of each node."""
    found = {}
    for path in attempt.glob("nvml-*.csv"):
        with path.open(newline="") as file:
            found[path.stem.removeprefix("nvml-")] = len(list(csv.DictReader(file)))
    return found


def test_each_node_is_sampled_until_the_command_ends_or_is_killed(tmp_path: Path, cluster: Slurm) -> None:
    """`once` by a step that overlaps the job; `rank` and `node` by the first process of each node; one is killed."""
    python = write_python(tmp_path)
    go = tmp_path / "go"
    waits = f"until [ -e {go} ]; do sleep 0.2; done; exit $CODE"
    # The script's own value does not count: in these jobs the sampler has fake GPUs.
    fake = f"readonly HPCJOBS_SAMPLER={python}; export HPCJOBS_SAMPLER"
    small = {
        "sharing": "shared",
        "cpus_per_gpu": 1,
        "mem_per_gpu_mib": 1000,
        "collect": {"job": False},
        "prologue": fake,
        "mpi_plugin": cluster.mpi_plugin,
    }

    def sweep(out: str, start: str, *, code: str = "0", **changes: object) -> Path:
        about = tmp_path / f"about-{out}"
        about.mkdir()
        where = (
            "--gpus",
            str(GPUS),
            "--repeats",
            "1",
            "--cluster",
            profile(about, **{**small, **changes}),
            "--out",
            out,
        )
        command = ("--start", start, "--", "env", f"CODE={code}", "bash", "-c", waits)
        hpcjobs("sweep", *where, "--set", "measure.format=none", *command, cwd=tmp_path, env=cluster.env)
        (run,) = (tmp_path / out / "runs").iterdir()
        return run / "a001"

    def check(out: str) -> None:
        attempt = attempts[out]
        until(lambda: len(sampled(attempt)) == NODES and min(sampled(attempt).values()) >= 4)
        assert samplers(attempt), out
        for host in sampled(attempt):
            facts = json.loads((attempt / f"node-{host}.json").read_text())
            assert (facts["host"], facts["gpus"]) == (host, ["Tesla V100-SXM2-16GB"] * 2)
            assert host.startswith("c4140-")

    # Two sweeps fill the four nodes.
    attempts = {
        "rank": sweep("rank", "rank", code="3"),
        "killed": sweep("killed", "node", launcher="mpirun"),
    }
    check("rank")
    check("killed")
    job = status("killed", cwd=tmp_path, env=cluster.env, code=None)[attempts["killed"].parent.name]["job"]
    cluster.run("scancel", "--signal=KILL", "--full", job)
    until(lambda: not samplers(attempts["killed"]))
    attempts["once"] = sweep("once", "once")
    check("once")
    go.touch()
    sweep("off", "once", node_sampler=False)
    codes = {}
    for out in ("rank", "once", "off"):
        (run,) = (tmp_path / out / "runs").iterdir()
        path = run / "a001" / EXIT_JSON
        until(path.exists)
        codes[out] = json.loads(path.read_text())["rc"]
        until(lambda: not samplers(run))  # noqa: B023
    # The command's own codes.
    assert codes == {"rank": 3, "once": 0, "off": 0}
    assert not list((tmp_path / "off").glob("runs/*/a001/node-*.json"))
    for out in ("rank", "once"):
        log = (attempts[out] / JOB_LOG).read_text()
        assert "sampler-" not in log, log
        assert "is not sampled" not in log, log
        assert not list(attempts[out].glob("sampler-*.txt"))
