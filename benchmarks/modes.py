"""Compares the images/s of `mode: benchmark` and `mode: train`.

    .venv/bin/python benchmarks/modes.py [--gpus N] [--rounds N]

It runs the demo on N ranks of this machine with equally many timed steps in both modes, in turns (train first,
then benchmark first, ...). It prints each pair, and the mean ratio with Student's 95 % interval of its logarithm.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from scipy.stats import t

WARMUP, TIMED = 30, 100
SETTINGS = {
    "train": [f"train.steps={WARMUP + TIMED}", "train.evaluate=false", "train.checkpoint=false"],
    # This precision is never reached, so the limit of steps ends the run, as it ends the training.
    "benchmark": [
        "mode=benchmark",
        f"measure.max_steps={TIMED}",
        "measure.precision=1.0e-9",
        "measure.control_repeats=0",
    ],
}


def throughput(mode: str, gpus: int, folder: Path) -> float:
    """The images/s that a sweep of one run reports."""
    settings = [word for value in [*SETTINGS[mode], f"measure.warmup_steps={WARMUP}"] for word in ("--set", value)]
    command = [str(Path(sys.executable).parent / "hpcjobs"), "sweep", "--experiment", "demo", "--cluster", "local"]
    command += ["--gpus", str(gpus), "--out", str(folder), "--wait", *settings]
    environment = os.environ | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    with (folder / "report" / "scaling-report.csv").open() as file:
        return float(next(csv.DictReader(file))["throughput"])


def main() -> None:
    """Print the pairs and their ratio."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--gpus", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=6)
    options = parser.parse_args()
    logs = []
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(options.rounds):
            order = list(SETTINGS) if number % 2 == 0 else list(reversed(SETTINGS))
            found = {mode: throughput(mode, options.gpus, Path(scratch, f"{number}-{mode}")) for mode in order}
            logs.append(math.log(found["benchmark"] / found["train"]))
            print(
                f"train {found['train']:7.1f} images/s   benchmark {found['benchmark']:7.1f} images/s   "
                f"ratio {math.exp(logs[-1]):.3f}",
                flush=True,
            )
    mean = statistics.fmean(logs)
    half = t.ppf(0.975, len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
    ratio, low, high = (math.exp(value) for value in (mean, mean - half, mean + half))
    print(f"benchmark / train {ratio:.3f}, 95 % interval {low:.3f} to {high:.3f}")


if __name__ == "__main__":
    main()
