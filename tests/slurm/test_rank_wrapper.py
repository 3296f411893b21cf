"""How a rank's end comes through real launchers: two nodes with two ranks each, by srun, mpirun and fake_torchrun.py.

Jobs of one test run at the same time: they wait for Slurm, not for each other.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hpcjobs.base.contract import EXIT_INTERRUPTED
from tests.rank_scripts import FAKE_TORCHRUN, RANK_PROGRAM, first, job_script, records

from .conftest import Slurm

pytestmark = pytest.mark.slurm

SRUN = (
    "srun --export=ALL --mpi={mpi} --nodes=2 --ntasks={tasks} --ntasks-per-node={per_node} --cpus-per-task=1 "
    "--cpu-bind=none --kill-on-bad-exit=1"
)
MPIRUN = (
    "mpirun -np {tasks} --map-by ppr:{per_node}:node --bind-to none -mca pml ob1 -mca btl ^openib "
    "$(for name in ${{!HPCJOBS_*}} ${{!OMPI_*}} PATH DEEDS SAVE_S HANDLE_TERM; do echo -x $name; done)"
)
LINES = """
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 DEEDS={deeds} SAVE_S={save_s} HANDLE_TERM={handle_term}
export HPCJOBS_START={start} HPCJOBS_PROCESSES_PER_NODE={per_node} HPCJOBS_STOP_SIGNAL={signal} HPCJOBS_STOP_CODE=75
export {forward}
date +%s.%N >"$attempt_dir/began"
{launcher} bash "$HPCJOBS_RANK_WRAPPER" {command} &
launcher=$!
until [ "$(find {ranks} -name 'ready-*' | wc -l)" -eq 4 ] || ! kill -0 "$launcher"; do sleep 0.2; done
date +%s.%N >"$attempt_dir/ready"
if [ -n "{stops}" ]; then kill -USR1 "$launcher"; fi
await "$launcher"
code=$?
outcome "$code"
code="$code $?"
date +%s.%N >"$attempt_dir/over"
echo "$code" >"$attempt_dir/.codes" && mv "$attempt_dir/.codes" "$attempt_dir/codes"
"""


def submit(
    cluster: Slurm, folder: Path, launcher: str, start: str, deeds: str = "", signal: str = "USR1", save_s: str = "2"
) -> str:
    """Submit one run. Its ranks do their deeds, or without any get the stop signal once all are there."""
    ranks = folder / "ranks"
    ranks.mkdir(parents=True)
    per_node = 2 if start == "rank" else 1
    words = [sys.executable, RANK_PROGRAM, str(ranks)]
    if start == "node":
        words = [*FAKE_TORCHRUN, "--nnodes=2", "--nproc-per-node=2", *words[1:]]
    form = SRUN if launcher == "srun" else MPIRUN
    values = {"tasks": 2 * per_node, "per_node": per_node, "mpi": cluster.mpi_plugin if start == "rank" else "none"}
    lines = LINES.format(
        **values
        | {"launcher": form.format(**values), "start": start, "deeds": deeds, "ranks": ranks, "signal": signal},
        **{"command": " ".join(words), "stops": "" if deeds else "1", "save_s": save_s},
        handle_term="1" if signal == "TERM" else "",
        forward=f"HPCJOBS_FORWARD={int(launcher == 'mpirun') or ''}",
    )
    size = ["--nodes=2", f"--ntasks={2 * per_node}", f"--ntasks-per-node={per_node}", "--cpus-per-task=1"]
    return cluster.sbatch(
        job_script(folder, lines), *size, f"--output={folder}/job.log", "--time=10", "--partition=v100"
    )


def ended(cluster: Slurm, jobs: dict[str, str], root: Path) -> dict[str, tuple[int, int]]:
    """(the launcher's code, the run's code) of each job."""
    codes = {}
    for name, job in jobs.items():
        cluster.wait(job, timeout=600)
        log = (root / name / "job.log").read_text()
        assert (root / name / "attempt" / "ready").exists(), f"{name}: {log}"
        assert len(list((root / name / "ranks").glob("ready-*"))) == 4, f"{name}: {log}"
        launcher, run = (root / name / "attempt" / "codes").read_text().split()
        codes[name] = (int(launcher), int(run))
    return codes


def test_the_records_say_who_failed_first_and_with_what(cluster: Slurm, tmp_path: Path) -> None:
    deeds = {"1:kill": (1, 137), "2:exit3": (2, 3)}
    names = {
        f"{launcher}-{start}-{deed[2:]}": (launcher, start, deed)
        for launcher in ("srun", "mpirun")
        for start in ("rank", "node")
        for deed in deeds
    }
    jobs = {name: submit(cluster, tmp_path / name, *words) for name, words in names.items()}
    codes = ended(cluster, jobs, tmp_path)
    for name, (launcher, start, deed) in names.items():
        attempt = tmp_path / name / "attempt"
        assert first(attempt) == deeds[deed], name
        assert codes[name][1] == deeds[deed][1], name
        found = records(attempt)
        # Blocks of two ranks: the first two have one host, the others another.
        hosts = {record["host"] for rank, record in found.items() if rank < 2}
        assert len(hosts) == 1
        assert hosts.isdisjoint(record["host"] for rank, record in found.items() if rank >= 2)
        # mpirun kills the other processes a second after SIGTERM: on a busy machine their records may be missing.
        if launcher == "srun":
            assert set(found) == {0, 1, 2, 3}, name
            assert len(records(attempt, "node-process-*.json")) == (2 if start == "node" else 0)


def test_the_stop_signal_reaches_every_rank_and_the_run_is_interrupted(cluster: Slurm, tmp_path: Path) -> None:
    names = {
        f"{launcher}-{start}-{signal}": (launcher, start, "", signal)
        for launcher in ("srun", "mpirun")
        for start in ("rank", "node")
        for signal in ("USR1", "TERM")
    }
    jobs = {name: submit(cluster, tmp_path / name, *words) for name, words in names.items()}
    codes = ended(cluster, jobs, tmp_path)
    for name, (*_, signal) in names.items():
        heard = tmp_path / name / "ranks"
        assert all(f"SIG{signal}\n" in (heard / f"heard-{rank}").read_text() for rank in range(4)), name
        assert codes[name][1] == EXIT_INTERRUPTED, name
        assert 75 in {record["rc"] for record in records(tmp_path / name / "attempt").values()}
