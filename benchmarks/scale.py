"""Compares a study of up to 20,000 runs in 50 sizes on 10,000 nodes with what must be written, asked and read for it.

    .venv/bin/python benchmarks/scale.py [--runs 2000,6000,20000]

Slurm is the fake of tests/control/fake_cluster.py, which runs nothing: it writes what 19 of 20 runs leave that have
ended, one of 20 of these without a result, and half of the others run. Each step runs in a process of its own, and so
does its floor, in plain Python and one process:

write     plan, render and write the folder; floor: the same folders and bytes, each file flushed
submit    every size; floor: the same calls of sbatch, and the two lines of the journal about each, flushed
status    the states of all runs, and what `hpcjobs status` prints; floor: the same queries, split into lines and
          fields, the folder of each run listed, its claim and exit.json read as JSON, and its log searched for one
          compiled pattern, whose figures become numbers
collect   status, and runs.csv; floor: that of status, run.yaml of each run read, and the rows of runs.csv written
report    collect, scaling table, models, figures and page; floor: that of collect, and the same files written

Seconds are CPU time without that of the fake's commands, and MiB what a step adds to the peak of its process, after the
imports. Required: the time and the memory of a run in the largest study are at most 1.5 times those of a run in the one
before, and the page is below 5 MB. The ratios are not judged: the floor of a log believes every figure that it finds.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import importlib
import io
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
SIZES, LINEAR, PAGE_MB = 50, 1.5, 5.0
# How the floor finds the rates of a log.
RATE = re.compile(rb"samples/s: ([\d.]+)")
STEPS = ("write", "submit", "status", "collect", "report")


def fake() -> Any:
    """The module of the fake cluster, which lies among the tests."""
    sys.path.insert(0, str(ROOT))
    return importlib.import_module("tests.control.fake_cluster")


def measured(work: Callable[[], object]) -> dict[str, float]:
    """CPU time of this process in s, without its children's, and what `work` adds to the peak of its memory in MiB."""
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    work()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"s": time.process_time() - begun, "mib": (after - before) / 1024}


# --- ours ----------------------------------------------------------------------------------------


def ours(step: str, where: Path, runs: int) -> dict[str, float]:
    """One step of hpcjobs on the study in where/study."""
    from hpcjobs.cli import show_runs
    from hpcjobs.engine import folder, submit
    from hpcjobs.report import figures, many, page  # noqa: F401 (their imports belong to no step)
    from hpcjobs.study import open_study

    study = where / "study"
    if step == "write":
        module = fake()

        def write() -> None:
            ready = module.prepared(where, module.sizes(SIZES), runs // SIZES)
            folder.write_folder(ready.sweep, ready.scripts, ["hpcjobs", "sweep"])

        return measured(write)
    if step == "submit":
        return measured(lambda: submit.submit_all(open_study(study).sweep, {}, print))
    if step == "status":
        with open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
            return measured(lambda: show_runs.print_status(open_study(study).status(), as_json=False))
    work = open_study(study).collect if step == "collect" else open_study(study).report
    return measured(work)


# --- their floors --------------------------------------------------------------------------------


def floor(step: str, where: Path) -> dict[str, float]:
    """The same step in plain Python: what must be written, asked and read, and nothing else."""
    study = where / "study"
    report = study / "report"
    if step == "write":
        files = {path.relative_to(study): path.read_bytes() for path in study.rglob("*") if path.is_file()}
        folders = sorted(path.relative_to(study) for path in study.rglob("*") if path.is_dir())
        return measured(lambda: written(where / "floor", folders, files))
    if step == "submit":
        events = (study / "journal.jsonl").read_bytes().splitlines(keepends=True)
        return measured(lambda: submitted(where / "floor", sorted((study / "scripts").glob("*.sbatch")), events))
    if step == "status":
        return measured(lambda: looked(study))
    rows = list(csv.reader(io.StringIO((report / "runs.csv").read_text())))
    files = {Path(path.name): path.read_bytes() for path in report.iterdir() if path.name != "runs.csv"}

    def collected() -> None:
        looked(study)
        for run in os.listdir(study / "runs"):
            (study / "runs" / run / "run.yaml").read_bytes()
        with (where / "floor.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)
        if step == "report":
            written(where / "floor-report", [], files)

    return measured(collected)


def written(root: Path, folders: Sequence[Path], files: dict[Path, bytes]) -> None:
    """Write these folders and bytes, and flush each file to the disk."""
    root.mkdir()
    for path in folders:
        (root / path).mkdir()
    for path, data in files.items():
        with (root / path).open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


def submitted(root: Path, scripts: Sequence[Path], events: Sequence[bytes]) -> None:
    """Call sbatch for each script, and write the journal."""
    with (root / "journal").open("ab") as file:
        for number, event in enumerate(events):
            if number % 2:
                script = str(scripts[number // 2])
                subprocess.run(["sbatch", "--parsable", "--array=0-399", script, "1"], check=True, capture_output=True)
            file.write(event)
            file.flush()
            os.fsync(file.fileno())


def looked(study: Path) -> dict[str, tuple[object, ...]]:
    """What Slurm answers about each task and the files of each run say."""
    answers = {}
    for command in ("squeue", "sacct"):
        text = subprocess.run([command], check=True, capture_output=True, text=True).stdout
        answers.update({fields[0]: fields for line in text.split("\n") if (fields := line.split("|"))})
    found: dict[str, tuple[object, ...]] = {}
    for run in os.listdir(study / "runs"):
        folder, rate, said = study / "runs" / run, 0.0, []
        for attempt in (folder / name for name in os.listdir(folder) if name.startswith("a0")):
            for name in ("claim", "exit.json"):
                with contextlib.suppress(FileNotFoundError), (attempt / name).open("rb") as file:
                    said.append(json.loads(file.read()))
            with (attempt / "job.log").open("rb") as file:
                for line in file:
                    if match := RATE.search(line):
                        rate = float(match[1])
        task = said[0]["job"] if said else ""
        found[run] = (answers.get(task), rate, *(each.get("rc") for each in said))
    return found


# --- together ------------------------------------------------------------------------------------


def of_process(words: Sequence[str], where: Path) -> dict[str, float]:
    """The figures of one step or floor, in a process of its own."""
    path = {"PATH": f"{where / 'slurm'}:{os.environ['PATH']}"}
    command = [sys.executable, __file__, "--step", *words, str(where)]
    done = subprocess.run(command, env={**os.environ, **path}, check=True, stdout=subprocess.PIPE)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def study_of(runs: int, where: Path) -> dict[str, dict[str, float]]:
    """The figures of each step of a study of so many runs; prints them."""
    module = fake()
    cluster, found = module.FakeCluster(where / "slurm"), {}
    for step in STEPS:
        if step == "status":
            from hpcjobs.engine.sweep import load

            cluster.leave(load(where / "study"), ended=runs * 19 // 20, running=runs // 40)
        both = [of_process([who, step, str(runs)], where) for who in ("ours", "floor")]
        found[step], least = both
        ratio = found[step]["s"] / least["s"]
        figures = (
            least["s"],
            found[step]["s"],
            ratio,
            1000 * found[step]["s"] / runs,
            least["mib"],
            found[step]["mib"],
        )
        print("{:7,d} {:<8} {:8.2f} {:8.2f} {:6.1f} {:9.2f} {:9.0f} {:9.0f}".format(runs, step, *figures), flush=True)
    calls = cluster.calls()
    print(f"{runs:7,d} calls: {', '.join(f'{count} {name}' for name, count in sorted(calls.items()))}")
    return found


def main() -> int:
    """Print all figures; returns 1 if one is not linear, or the page is too large."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", default="2000,6000,20000", metavar="N,N,...", help="numbers of runs, multiples of 50")
    parser.add_argument("--step", nargs=4, metavar=("WHO", "STEP", "RUNS", "DIR"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        who, step, runs, where = options.step
        print(json.dumps(ours(step, Path(where), int(runs)) if who == "ours" else floor(step, Path(where))))
        return 0
    counts, found, good = list(map(int, options.runs.split(","))), {}, True
    print("   runs step      floor s   ours s  ratio  ms a run floor MiB  ours MiB")
    for count in counts:
        with tempfile.TemporaryDirectory() as name:
            found[count] = study_of(count, Path(name))
            page = (Path(name) / "study" / "report" / "report.html").stat().st_size / 1e6
            good = good and page < PAGE_MB
            print(f"{count:7,d} report.html: {page:.2f} MB (required: below {PAGE_MB:g})")
    before, last = counts[-2:]
    for step in STEPS:
        time_, memory = (found[last][step][what] / last * before / found[before][step][what] for what in ("s", "mib"))
        good = good and max(time_, memory) <= LINEAR
        print(
            f"{step:<8} a run takes {time_:.2f} times the time and {memory:.2f} times the memory of one of {before:,}"
        )
    print(f"(required: at most {LINEAR:g})")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
