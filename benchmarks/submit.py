"""Compares submitting and following 1,000 runs with bare Slurm commands, on the virtual cluster (needs root).

Required: hpcjobs submits 1,000 runs with at most 10 calls of sbatch, in at most a quarter of the time of 1,000 bare
calls in a loop. It shows their status with one query, in at most twice the time of the bare query and of reading the
files that it must read. All jobs are held, so that none runs meanwhile. Both take turns, and the medians count.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import yaml
from scale import written

from hpcjobs.base.sweepdir import SweepDir
from hpcjobs.config import Experiment, profiles, to_builtins
from hpcjobs.engine import folder, follow
from hpcjobs.engine import sweep as sweeps
from hpcjobs.plan.planning import make_plan, parameter_grid

ROOT = Path(__file__).parent.parent
SIZES = (1, 2, 4, 8, 16)
RUNS = 1000
BARE = "hpcjobs-benchmark"
SUBMIT_TARGET, STATUS_TARGET, CALLS_TARGET = 0.25, 2.0, 10


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call, in s."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def hpcjobs(*words: str, cwd: Path) -> str:
    """Run a command as a user does; returns its standard output."""
    command = [sys.executable, "-m", "hpcjobs", *words]
    return subprocess.run(
        command, cwd=cwd, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ).stdout.decode()


def sweep(where: Path, out: str) -> None:
    """Submit 1,000 runs with one command."""
    words = ("--gpus", ",".join(map(str, SIZES)), "--repeats", str(RUNS // len(SIZES)), "--experiment", "demo")
    hpcjobs("sweep", *words, "--set", "data.dir=data", "--cluster", str(where / "held.yaml"), "--out", out, cwd=where)


def bare_sbatch(script: Path) -> None:
    """Submit a script 1,000 times."""
    for _ in range(RUNS):
        command = ["sbatch", "--parsable", "--array=0", f"--job-name={BARE}", str(script)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def bare_status(where: Path, jobs: list[str]) -> None:
    """One query, and a look at every file that shows a run's progress: here only empty folders."""
    subprocess.run(
        ["squeue", "--array", "--noheader", f"--jobs={','.join(jobs)}"], check=True, stdout=subprocess.DEVNULL
    )
    (where / "sweep.yaml").read_text()
    (where / "journal.jsonl").read_text()
    for run in os.listdir(where / "runs"):
        os.listdir(where / "runs" / run)


def cancelled(where: Path, out: str = "") -> None:
    """End the sweep in `out`, or the bare jobs, and wait until none is left, so that all rounds begin alike."""
    if out:
        hpcjobs("cancel", out, cwd=where)
    else:
        subprocess.run(["scancel", f"--name={BARE}"], check=True)
    while subprocess.run(["squeue", "--noheader"], check=True, capture_output=True).stdout:
        time.sleep(0.5)


def submission(where: Path, rounds: int) -> bool:
    """Time both ways to submit; returns whether the targets are met."""
    ours, bare = [], []
    for number in range(rounds):
        ours.append(seconds(lambda out=f"o{number}": sweep(where, out)))
        cancelled(where, f"o{number}")
        bare.append(seconds(lambda: bare_sbatch(where / "o0" / "scripts" / "g0001.sbatch")))
        cancelled(where)
    events = [json.loads(line)["event"] for line in (where / "o0" / "journal.jsonl").read_text().splitlines()]
    calls = events.count("submitting")
    ratio = statistics.median(ours) / statistics.median(bare)
    print(f"{statistics.median(bare):8.2f} s   {RUNS} bare calls of sbatch")
    print(f"{statistics.median(ours):8.2f} s   hpcjobs sweep of {RUNS} runs, in {calls} calls of sbatch")
    print(f"ratio {ratio:.3f} (required: at most {SUBMIT_TARGET}), calls at most {CALLS_TARGET}\n")
    return ratio <= SUBMIT_TARGET and calls <= CALLS_TARGET


def status(where: Path, rounds: int) -> bool:
    """Time a query of 1,000 pending runs; returns whether the target is met. Neither side includes Python's start."""
    sweep(where, "s")
    loaded = sweeps.load(where / "s")
    jobs = sorted({run.task.partition("_")[0] for run in follow.snapshot(loaded)})
    ours, bare, whole = [], [], []
    for _ in range(5 * rounds):
        ours.append(seconds(lambda: follow.snapshot(loaded)))
        bare.append(seconds(lambda: bare_status(where / "s", jobs)))
        whole.append(seconds(lambda: hpcjobs("status", "s", cwd=where)))
    cancelled(where, "s")
    ratio = statistics.median(ours) / statistics.median(bare)
    print(f"{1000 * statistics.median(bare):8.0f} ms  bare squeue, and the files read")
    print(f"{1000 * statistics.median(ours):8.0f} ms  the same by hpcjobs; {statistics.median(whole):.2f} s with the "
          f"start of Python, the plan and the printed table")  # fmt: skip
    print(f"ratio {ratio:.2f} (required: at most {STATUS_TARGET})\n")
    return ratio <= STATUS_TARGET


def rendering(where: Path, rounds: int) -> None:
    """Compare the time to make a sweep's folder with the time to write the same bytes."""
    variants = parameter_grid(profiles.read(Experiment, "demo"), ["data.dir=data"])
    plan = make_plan(SIZES, variants, profiles.cluster("virtual"), RUNS // len(SIZES))
    ours, bare = [], []
    for number in range(rounds):
        new = sweeps.Sweep("benchmark", SweepDir(where / f"r{number}"), plan)
        ours.append(seconds(lambda new=new: folder.write_folder(new, folder.scripts(new), ["hpcjobs"])))
        files = {
            path.relative_to(new.where.root): path.read_bytes() for path in new.where.root.rglob("*") if path.is_file()
        }
        folders = [path.relative_to(new.where.root) for path in new.where.root.rglob("*") if path.is_dir()]
        bare.append(seconds(lambda: written(where / f"b{number}", sorted(folders), files)))  # noqa: B023
    ratio = statistics.median(ours) / statistics.median(bare)
    print(f"{1000 * statistics.median(bare):8.0f} ms  {len(files)} files written as they are, each flushed to the disk")
    print(f"{1000 * statistics.median(ours):8.0f} ms  the same rendered and written by hpcjobs")
    print(f"ratio {ratio:.2f}")


def main() -> int:
    """Print all ratios; returns 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    cluster = [sys.executable, str(ROOT / "tests" / "slurm" / "cluster.py")]
    found_up = subprocess.run([*cluster, "status"], stdout=subprocess.DEVNULL).returncode == 0
    if not found_up and subprocess.run([*cluster, "up"], stdout=subprocess.DEVNULL).returncode:
        return 2
    try:
        line = subprocess.run([*cluster, "env"], capture_output=True, text=True, check=True).stdout
        os.environ["SLURM_CONF"] = line.strip().partition("=")[2]
        with tempfile.TemporaryDirectory() as name:
            where = Path(name)
            held = {**to_builtins(profiles.cluster("virtual")), "name": "held", "sbatch": {"hold": True}}
            (where / "held.yaml").write_text(yaml.safe_dump({**held, "collect": {"job": False}}))
            met = [submission(where, rounds), status(where, rounds)]
            rendering(where, rounds)
    finally:
        if not found_up:
            subprocess.run([*cluster, "down"], stdout=subprocess.DEVNULL, check=True)
    return int(not all(met))


if __name__ == "__main__":
    sys.exit(main())
