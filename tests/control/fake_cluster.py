"""A fake Slurm of 10,000 nodes: its commands are shell scripts, and what its jobs leave is written all at once.

It schedules nothing and runs nothing. `sbatch` counts job ids; `squeue` and `sacct` print what `leave` has written.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from hpcjobs.base.contract import CLAIM, EXIT_JSON, JOB_LOG
from hpcjobs.base.sweepdir import read_journal
from hpcjobs.config import profiles
from hpcjobs.engine.sweep import Sweep
from hpcjobs.jobs import render
from hpcjobs.study import Preparation, prepare
from hpcjobs.trainers.command_line import document_of

NODES = 10_000
PER_NODE = 4
PROFILE = {
    "name": "fake",
    "scheduler": "slurm",
    "nodes": NODES,
    "gpus_per_node": PER_NODE,
    "cpus_per_gpu": 8,
    "device": "gpu",
    "launcher": "srun",
    "mpi_plugin": "none",
    "sharing": "exclusive",
    "time": "01:00:00",
}
# How the training prints its rate.
PATTERN = r"samples/s: (?P<throughput>[\d.]+)"
_RATES = 40
# (the program's last words, its exit code, Slurm's word, Slurm's ExitCode) of runs that fail.
_ENDS = (
    ("RuntimeError: CUDA error: an illegal memory access was encountered", 1, "FAILED", "1:0"),
    ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", 1, "FAILED", "1:0"),
    ("slurmstepd: error: Detected 1 oom_kill event in StepId=7.0.", 137, "OUT_OF_MEMORY", "0:125"),
    ("step 40", 1, "NODE_FAIL", "1:0"),
)
_COMMANDS = {
    "sbatch": """case " $* " in *" --test-only "*) cat >/dev/null; echo "Job 1 to start at 2026-11-30T12:00:00"; exit;; esac
number=$(($(wc -l <"$here/jobs") + 1)); echo "$number|$*" >>"$here/jobs"; echo $number""",
    # Asked for the user's own jobs it has none, and it knows no names.
    "squeue": """case " $* " in *" --user="* | *" --name="*) exit;; esac; cat "$here/squeue.txt\"""",
    "sacct": """case " $* " in *" --name="*) exit;; esac; cat "$here/sacct.txt\"""",
    "scancel": "",
    "scontrol": """case "$*" in
*config) printf '%s\\n' "MaxArraySize = 50001" "MaxJobCount = 100000" "SLURM_VERSION = 24.11.5";;
*partition*) echo "PartitionName=all Default=YES MaxNodes=UNLIMITED MaxTime=UNLIMITED State=UP";;
*ping) echo "Slurmctld(primary) at fake is UP";;
esac""",
    "sacctmgr": "",
    "srun": "printf '%s\\n' 'MPI plugin types are...' none",
}


def sizes(count: int) -> list[int]:
    """So many GPU counts, from one node to all, each some times the one before."""
    growth = NODES ** (1 / (count - 1)) if count > 1 else 1.0
    found = [1]
    for number in range(1, count):
        found.append(max(found[-1] + 1, round(growth**number)))
    return [PER_NODE * nodes for nodes in found]


def hosts(first: int, count: int) -> str:
    """The list of `count` nodes from number `first` on, as Slurm writes it; after the last node comes the first."""
    end = first + count - 1
    parts = [(first, min(end, NODES - 1)), *([(0, end - NODES)] if end >= NODES else [])]
    if count == 1:
        return f"n{first:05d}"
    return f"n[{','.join(f'{low:05d}-{high:05d}' if low < high else f'{low:05d}' for low, high in parts)}]"


@dataclasses.dataclass(frozen=True)
class FakeCluster:
    """The commands of the fake in `folder`."""

    folder: Path

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ("jobs", "calls", "squeue.txt", "sacct.txt"):
            (self.folder / name).touch()
        for name, body in _COMMANDS.items():
            path = self.folder / name
            path.write_text(f'#!/bin/bash\nhere="{self.folder}"\necho {name} "$*" >>"$here/calls"\n{body}\n')
            path.chmod(0o755)

    @property
    def path(self) -> str:
        """PATH with the fake's commands first."""
        return f"{self.folder}:{os.environ['PATH']}"

    def calls(self) -> Counter[str]:
        """How often each command was called."""
        return Counter(line.partition(" ")[0] for line in (self.folder / "calls").read_text().splitlines())

    def leave(self, sweep: Sweep, *, ended: int, running: int = 0, failing: int = 20) -> None:
        """What Slurm and the runs leave, when `ended` runs have ended and `running` more run, and the others wait.

        One run of `failing` that have ended has failed, in a way of four.
        """
        jobs = {event["group"]: event["job"] for event in read_journal(sweep.where) if event["event"] == "submitted"}
        now, alive, over = time.time(), list[str](), list[str]()
        places = [
            (run, f"{jobs[each.name]}_{i}", render.job_name(sweep.id, each.name, 1))
            for each in sweep.plan.groups
            for i, run in enumerate(each.runs)
        ]
        # What has ended is spread over all sizes.
        order = sorted(range(len(places)), key=lambda number: (number * 7919) % 65_537)
        for place, number in enumerate(order):
            run, task, name = places[number]
            nodelist = hosts(number * 37 % NODES, run.size.nodes)
            start, end = _time(now - 3600), _time(now - 1800)
            if place >= ended + running:
                alive.append(f"{task}|PENDING|Priority||N/A|{name}||")
                continue
            fails = place < ended and place % failing == 0
            says, rc, word, code = _ENDS[place // failing % len(_ENDS)] if fails else ("", 0, "COMPLETED", "0:0")
            attempt = sweep.where.run(run.name) / "a001"
            attempt.mkdir(exist_ok=True)
            about = {"run": run.name, "attempt": "a001", "job": task, "nodelist": nodelist, "start": now - 3600}
            claim = json.dumps({**about, "submission": 1, "restart": 0, "host": "n00000"})
            (attempt / CLAIM).write_text(claim)
            (sweep.where.run(run.name) / "claim-s001").write_text(claim)
            rate = 100 * run.size.gpus**0.95 * (1 + number % 13 / 200)
            rates = [f"step {step} samples/s: {rate * (1 + step % 7 / 500):.1f}" for step in range(1, _RATES + 1)]
            (attempt / JOB_LOG).write_text("\n".join([*rates, *([says] if says else []), ""]))
            if place >= ended:
                alive.append(f"{task}|RUNNING|None|{nodelist}|{start}|{name}||")
                continue
            if word != "NODE_FAIL":
                left = {**about, "rc": rc, "signal": max(0, rc - 128), "end": now - 1800}
                (attempt / EXIT_JSON).write_text(json.dumps(left))
            over.append(f"{task}|{word}|{code}|{nodelist}|{start}|{end}|{start}|{name}|")
        (self.folder / "squeue.txt").write_text("".join(f"{line}\n" for line in alive))
        (self.folder / "sacct.txt").write_text("".join(f"{line}\n" for line in over))


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(seconds))


def prepared(where: Path, counts: Sequence[int], repeats: int) -> Preparation:
    """A study of so many sizes and repeats of a command, to be written into where/study. The fake must be on PATH."""
    profile = where / "fake.yaml"
    profile.write_text(json.dumps(PROFILE))  # JSON is YAML
    return prepare(
        counts,
        document_of(["train"]),
        cluster=profiles.cluster(str(profile)),
        settings=[f"measure.pattern={PATTERN}", "measure.unit=samples", "measure.meter=off"],
        repeats=repeats,
        out=where / "study",
    )
