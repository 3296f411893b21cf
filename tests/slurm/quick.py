"""Sweeps of quick runs for tests that are not about training: a fake trainer, and an sbatch that kills its caller."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from hpcjobs.config import profiles, to_builtins
from tests.control.logs import train_log
from tests.running import hpcjobs, status, until

from .conftest import Slurm

# A fake trainer: rank 0 records that the run was executed, does what `behave/RUN` says, then writes the log of a
# training that succeeded. The real Python runs everything that is not the trainer.
TRAINER = """#!/bin/bash
if [ "$2" != hpcjobs.chexnet.train ]; then exec {python} "$@"; fi
if [ "${{SLURM_PROCID:-${{OMPI_COMM_WORLD_RANK:-0}}}}" != 0 ]; then exit 0; fi
run="$(basename "$(dirname "$3")")"
sweep="$(basename "$(dirname "$(dirname "$(dirname "$3")")")")"
attempt="$5"
echo "$run" >>"{folder}/executions-$sweep"
if [ -e "{folder}/behave/$run" ]; then . "{folder}/behave/$run"; fi
cp {folder}/train.log "$attempt/train.log"
"""

# A wrapper around sbatch. The first line of `deaths` decides about the next submission: the caller is killed `before`,
# `during` or `after` it, or the submission arrives seconds after the caller's death (`late`).
SBATCH = """#!/bin/bash
if [ "$1" = --test-only ]; then exec {sbatch} "$@"; fi
how="$(sed -n 1p {folder}/deaths)"
sed -i 1d {folder}/deaths
caller=$PPID
case "$how" in
    before) kill -9 "$caller"; exit 1 ;;
    during) {sbatch} "$@" >/dev/null & kill -9 "$caller"; wait ;;
    after) {sbatch} "$@"; kill -9 "$caller" ;;
    late)
        echo >>{folder}/late
        exec >/dev/null 2>&1 </dev/null
        setsid bash -c 'sleep 3; "$@"; sed -i 1d {folder}/late' _ {sbatch} "$@" &
        kill -9 "$caller" ;;
    slow) touch {folder}/slow; sleep 5; exec {sbatch} "$@" ;;
    *) exec {sbatch} "$@" ;;
esac
"""


@dataclasses.dataclass(frozen=True)
class Quick:
    """A folder with a fake trainer, a profile that uses it, and sweeps of quick runs."""

    folder: Path
    cluster: Slurm

    @property
    def env(self) -> dict[str, str]:
        """The environment of the cluster, with the wrapper around sbatch first on PATH."""
        return {**self.cluster.env, "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}"}

    def behave(self, run: str, shell: str) -> None:
        """Set what rank 0 of a run does instead of succeeding at once."""
        (self.folder / "behave" / run).write_text(shell + "\n")

    def die(self, *how: str) -> None:
        """Set how the next calls of sbatch end."""
        (self.folder / "deaths").write_text("".join(f"{word}\n" for word in how))

    def words(self, *more: str, gpus: str = "1,2", out: str = "o") -> list[str]:
        """The command line of `hpcjobs sweep`."""
        common = ["--experiment", "demo", "--set", "data.dir=data", "--cluster", str(self.folder / "quick.yaml")]
        return ["sweep", "--gpus", gpus, *common, "--out", out, *more]

    def do(self, *words: str, code: int | None = 0, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run a command of hpcjobs in the folder."""
        return hpcjobs(*words, cwd=self.folder, env=self.env, code=code, **more)

    def start(self, *words: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        """Start a command in its own session, so that it can be killed with all its processes."""
        command = [sys.executable, "-m", "hpcjobs", *words]
        log = (self.folder / "started.log").open("a")
        return subprocess.Popen(
            command, cwd=self.folder, env=env or self.env, stdout=log, stderr=log, text=True, start_new_session=True
        )

    def runs(self, out: str = "o") -> dict[str, dict[str, Any]]:
        """`hpcjobs status` by run."""
        return status(out, cwd=self.folder, env=self.env, code=None)

    def states(self, out: str = "o") -> set[str]:
        """The states of all runs."""
        return {run["state"] for run in self.runs(out).values()}

    def executions(self, out: str = "o") -> list[str]:
        """The name of a run for each time that it was executed."""
        path = self.folder / f"executions-{Path(out).name}"
        return path.read_text().split() if path.exists() else []

    def sweep_id(self, out: str = "o") -> str:
        """The id of a sweep, which the names of its jobs hold."""
        return str(yaml.safe_load((self.folder / out / "sweep.yaml").read_text())["sweep"])

    def jobs(self, out: str = "o") -> list[str]:
        """squeue's lines about the live jobs of a sweep: id, name, state."""
        sweep = self.sweep_id(out)
        lines = self.cluster.run("squeue", "-h", "-r", "-o", "%i %j %T").splitlines()
        return [line for line in lines if sweep in line]

    def quiet(self, out: str = "o", seconds: float = 120) -> None:
        """Wait until Slurm has no job of the sweep, and no submission is still to arrive."""
        late = self.folder / "late"
        until(lambda: not (late.exists() and late.read_text()) and not self.jobs(out), seconds)

    def journal(self, out: str = "o") -> list[dict[str, Any]]:
        """The events of the journal."""
        return [json.loads(line) for line in (self.folder / out / "journal.jsonl").read_text().splitlines()]


def quick(folder: Path, cluster: Slurm, **changes: Any) -> Quick:
    """Make the folder. `changes` are keys of the profile, beside those that let many small runs share a node."""
    (folder / "bin").mkdir()
    (folder / "behave").mkdir()
    (folder / "deaths").touch()
    (folder / "data").mkdir()
    (folder / "train.log").write_text(train_log(gpus=1))
    sbatch = shutil.which("sbatch")
    for path, text in (
        (folder / "bin" / "sbatch", SBATCH.format(folder=folder, sbatch=sbatch)),
        (folder / "trainer", TRAINER.format(folder=folder, python=sys.executable)),
    ):
        path.write_text(text)
        path.chmod(0o755)
    about = {**to_builtins(profiles.cluster("virtual")), "name": "quick", "python": str(folder / "trainer")}
    about |= {"mpi_plugin": "none"}  # the fake trainer needs no MPI, and some versions of Slurm have no PMIx
    about |= {"sharing": "shared", "cpus_per_gpu": 1, "mem_per_gpu_mib": 100, "collect": {"job": False}}
    (folder / "quick.yaml").write_text(yaml.safe_dump({**about, **changes}))
    return Quick(folder, cluster)
