"""A sweep whose rendered scripts run under bash on this machine, with a fake srun, scontrol and trainer."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from hpcjobs.base.sweepdir import SweepDir
from hpcjobs.config import Experiment, profiles
from hpcjobs.jobs import render
from hpcjobs.plan.planning import Terms, make_plan, parameter_grid
from tests.running import PATIENCE_S, until

# Runs the command after its options, as a step with one rank. Records the nodes that the options name.
SRUN = """#!/bin/bash
while [[ "$1" == --* ]]; do
    case "$1" in --nodes=* | --nodelist=* | --relative=*) printf '%s ' "$1" ;; esac >>"$FOLDER/steps"
    shift
done
echo >>"$FOLDER/steps"
exec "$@"
"""
# Records its run and the task that it sees, then runs the commands in the variable TRAINER.
TRAINER = """#!/bin/bash
run="$(basename "$(dirname "$3")")"
attempt="$5"
echo "$run ${HPCJOBS_TASK-none}" >>"$FOLDER/executions"
eval "$TRAINER"
"""
# Shows the job as the variable JOB describes it. Records each requeue, with the exit.json files that exist by then.
SCONTROL = """#!/bin/bash
case "$*" in
    *"show job"*) [ -z "$JOB" ] || echo "JobId=7 $JOB" ;;
    "show hostnames "*) printf 'n%d\\n' 1 2 3 4 ;;
    requeue*) echo "$* $(cat "$FOLDER"/o/runs/*/a*/exit.json)" >>"$FOLDER/requeues"; eval "${REQUEUE-}" ;;
esac
"""
# A trainer that works until SIGUSR1, and then ends with the exit code of a written checkpoint.
UNTIL_USR1 = "trap 'exit 75' USR1; touch $FOLDER/ready; while true; do sleep 0.05; done"
# A script that waits until the test has sent it a signal.
UNTIL_SIGNALLED = "touch $FOLDER/ready; until [ -e $FOLDER/signalled ]; do sleep 0.05; done"


# `Site.start` replaces NOW+N by the time N seconds after the script's start.
SOON = "JobState=RUNNING EndTime=NOW+100"


@dataclasses.dataclass(frozen=True)
class Site:
    """A sweep of sizes 1 and 2 with two repeats, whose scripts run on this machine."""

    folder: Path
    sweep: SweepDir

    def start(
        self, script: str, *words: str, job: str = "12", index: int = 0, restart: int = 0, **env: Any
    ) -> subprocess.Popen[str]:
        """Start a script as Slurm starts a task. Names in capitals are environment variables, others of Popen."""
        slurm = {"SLURM_ARRAY_JOB_ID": job, "SLURM_ARRAY_TASK_ID": str(index), "SLURM_JOB_NODELIST": "n[1-4]"}
        if restart:
            slurm["SLURM_RESTART_COUNT"] = str(restart)
        ours = {"FOLDER": str(self.folder), "TRAINER": "true", "JOB": "JobState=RUNNING", **slurm}
        options = {name: env.pop(name) for name in list(env) if not name.isupper()}
        if "JOB" in env:
            env["JOB"] = re.sub(r"NOW\+(\d+)", lambda ahead: str(int(time.time()) + int(ahead[1])), env["JOB"])
        return subprocess.Popen(
            ["bash", str(self.sweep.script(script)), *words],
            env={**os.environ, "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", **ours, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **options,
        )

    def run(self, script: str, *words: str, **more: Any) -> tuple[int, str]:
        """(exit code, output) of a script."""
        process = self.start(script, *words, **more)
        output, _ = process.communicate(timeout=PATIENCE_S)
        return process.returncode, output

    def signalled(self, script: str, *words: str, signals: Sequence[signal.Signals], **more: Any) -> tuple[int, str]:
        """The same for a script that gets these signals while its trainer works."""
        process = self.start(script, *words, **{"TRAINER": UNTIL_USR1, **more})
        until(lambda: (self.folder / "ready").exists())
        for number in signals:
            process.send_signal(number)
        (self.folder / "signalled").touch()
        output, _ = process.communicate(timeout=PATIENCE_S)
        return process.returncode, output

    @property
    def executions(self) -> list[str]:
        """`RUN TASK` for each execution. TASK is what the ranks see of the script's variable, or none."""
        path = self.folder / "executions"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def requeues(self) -> list[str]:
        path = self.folder / "requeues"
        return path.read_text().splitlines() if path.exists() else []

    def files(self, run: str = "g0001-r01") -> list[str]:
        """The paths of all files and folders in a run folder."""
        folder = self.sweep.run(run)
        return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def script_site(folder: Path) -> Site:
    """Write the scripts and the fakes below a folder."""
    (folder / "bin").mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("trainer", TRAINER)):
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    cluster = msgspec.structs.replace(
        profiles.cluster("virtual"), python=str(folder / "bin" / "trainer"), signal_s=60, requeues=2
    )
    plan = make_plan(
        [1, 2], parameter_grid(profiles.read(Experiment, "demo"), []), cluster, 2, Terms(one_allocation=True)
    )
    assert plan.allocation is not None
    sweep = SweepDir(folder / "o")
    sweep.scripts.mkdir(parents=True)
    for group in plan.groups:
        sweep.script(group.name).write_text(render.script(group, cluster, "SWEEP", sweep.root))
        sweep.script(group.name).with_suffix(".runs").write_text("".join(f"{run.name}\n" for run in group.runs))
        for run in group.runs:
            sweep.run(run.name).mkdir(parents=True)
    sweep.script("all").write_text(render.allocation(plan.allocation, cluster, "SWEEP", sweep.root))
    lines = [f"{run.name} g{run.size.gpus:04d} {run.repeat - 1}\n" for run in plan.allocation.runs]
    sweep.script("all").with_suffix(".runs").write_text("".join(lines))
    return Site(folder, sweep)
