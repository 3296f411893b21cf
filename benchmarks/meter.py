"""What the meter costs a training, each kind beside the same without it, in one run.

    .venv/bin/python benchmarks/meter.py [--rounds N] [--torch PYTHON]; exit code 1 if a floor is missed

A loop (no framework): a bare `for` over batches beside `for batch in meter.steps(batches)`, in a run (mode train,
windows of 5 steps) and outside of one. A script that is no training: `python -c pass` beside the same with what a job
script puts on PYTHONPATH. PyTorch on CPUs, where it is installed (.venv-torch, or --torch): a training as it is, with
nothing edited, and with the two lines.

Required: at most 20 us a step in a run, of a loop and of PyTorch; at most 1 us a step outside of a run; at most 15 ms
more at the start of a Python that imports no PyTorch, and then no step. Kinds run in turns. Of a loop each has a
process of its own, of which the repetition with the least CPU time counts. Two processes with PyTorch differ by more
than the meter costs (where their memory lies), so there both kinds run in one process. The figure is the median of the
differences in each turn, with its 95 % interval. Control blocks, which a benchmark adds, are no part of it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hpcjobs.jobs.render import METER_FILES
from hpcjobs.nodes.probe.figures import median

ROOT = Path(__file__).parents[1]
LOOP_STEPS = 500  # of a repetition
PAIRS = 8
TORCH_STEPS = 3000  # of a repetition: more than half a second, so that the meter writes what waits in each of them
MOST_STEP_US = 20.0
MOST_OFF_US = 1.0
MOST_START_MS = 15.0

# The loop's body does nothing, so that all of its time is the loop's own and the meter's.
LOOP = """
import itertools, sys, time
how, steps = sys.argv[1], int(sys.argv[2])
batch = [0] * 16
def repetition():
    batches = itertools.repeat(batch, steps)
    if how == "meter":
        import meter
        batches = meter.steps(batches, samples=16)
    began = time.process_time()
    for _ in batches:
        pass
    return time.process_time() - began
repetition()
print(min(repetition() for _ in range(20)) / steps)
"""

# A linear layer: the shortest step that PyTorch has. An optimizer without momentum, and a loader without workers. The
# training without the meter runs in the same process, in turns: then nothing of PyTorch is patched, and no hook is set.
TORCH = """
import json, sys, time
import torch
from torch.optim import optimizer as optimizers
from torch.utils.data import DataLoader, TensorDataset, dataloader
how, steps, pairs = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
model = torch.nn.Linear(8, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
loader = DataLoader(TensorDataset(torch.randn(16 * steps, 8)), batch_size=16)
iterator, hooks = dataloader._BaseDataLoaderIter, optimizers._global_optimizer_post_hooks
patched, begin = iterator.__next__, DataLoader.__iter__
kept = {}
def bare():
    kept.update(hooks)
    hooks.clear()
    iterator.__next__ = getattr(patched, "__wrapped__", patched)
    DataLoader.__iter__ = getattr(begin, "__wrapped__", begin)
    return repetition(loader)
def metered():
    hooks.update(kept)
    iterator.__next__, DataLoader.__iter__ = patched, begin
    if how == "auto":
        return repetition(loader)
    import meter
    return repetition(meter.steps(loader, samples=16, model=model))
def repetition(batches):
    began = time.process_time()
    for (x,) in batches:
        loss = model(x).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return 1e6 * (time.process_time() - began) / steps
metered()
print(json.dumps([[bare(), metered()] for _ in range(pairs)]))
"""


class Site:
    """What a run finds: a folder for its log, and the meter's files where a job script puts them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.python = folder, folder / "scripts" / "python"
        (self.python / "inject").mkdir(parents=True)
        self.number = 0
        for name in METER_FILES:
            (self.python / name).write_bytes((ROOT / "hpcjobs" / name).read_bytes())

    def environment(self, *, run: bool, inject: bool) -> dict[str, str]:
        """Of a process in a run, or outside of one."""
        found = {name: text for name, text in os.environ.items() if not name.startswith(("HPCJOBS_", "PYTHON"))}
        found["PYTHONPATH"] = os.pathsep.join([str(self.python / "inject")] * inject + [str(self.python)])
        if run:
            self.number += 1
            attempt = self.folder / f"a{self.number:03d}"
            attempt.mkdir()
            found |= dict.fromkeys(("HPCJOBS_METRICS", "HPCJOBS_ATTEMPT_DIR", "HPCJOBS_RUN_DIR"), str(attempt))
            found["HPCJOBS_MEASURE"] = json.dumps({"mode": "train", "meter": "auto" if inject else "off"})
            found |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
        return found

    def log(self) -> str:
        """What the last run's meter has written."""
        path = self.folder / f"a{self.number:03d}" / "train.log"
        return path.read_text() if path.exists() else ""


def printed(command: list[str], environment: dict[str, str], folder: Path) -> str:
    """What a process prints."""
    return subprocess.run(command, env=environment, cwd=folder, check=True, capture_output=True, text=True).stdout


def start_s(command: list[str], environment: dict[str, str], folder: Path) -> float:
    """Wall time of one start, in s."""
    began = time.perf_counter()
    subprocess.run(command, env=environment, cwd=folder, check=True)
    return time.perf_counter() - began


def show(name: str, bare: list[float], ours: list[float], unit: str, most: float) -> bool:
    """Print one line, of the times of each turn. Returns whether the floor is missed."""
    more = median([with_it - without for without, with_it in zip(bare, ours, strict=True)])
    print(
        f"{name:28} bare {median(bare).value:9.3f} {unit}  with the meter {median(ours).value:9.3f} {unit}  "
        f"{more.value:+7.2f} {unit} ({more.low:+.2f} to {more.high:+.2f}; required: at most {most:g} {unit})"
    )
    return more.value > most


def loops(site: Site, rounds: int) -> bool:
    """A loop of Python, in a run and outside of one."""
    times: dict[str, list[float]] = {"bare": [], "off": [], "run": []}
    for _ in range(rounds):
        for kind, found in times.items():
            words = [sys.executable, "-c", LOOP, "bare" if kind == "bare" else "meter", str(LOOP_STEPS)]
            environment = site.environment(run=kind == "run", inject=False)
            found.append(1e6 * float(printed(words, environment, site.folder)))
            if kind == "run" and "tracked_stats" not in site.log():
                raise SystemExit("the meter has timed nothing: there is nothing to compare")
    missed = show("a loop, outside of a run", times["bare"], times["off"], "us", MOST_OFF_US)
    return show("a loop, in a run", times["bare"], times["run"], "us", MOST_STEP_US) | missed


def no_training(site: Site, rounds: int) -> bool:
    """A program that trains nothing starts a little later, and that is all."""
    times: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(3 * rounds):
        for inject, found in times.items():
            environment = site.environment(run=True, inject=inject)
            if not inject:
                del environment["PYTHONPATH"]
            found.append(1000 * start_s([sys.executable, "-c", "pass"], environment, site.folder))
    if site.log():
        raise SystemExit("the meter has timed a program that is no training")
    return show("no training, its start", times[False], times[True], "ms", MOST_START_MS)


def of_torch(site: Site, python: str, rounds: int) -> bool:
    """A training in PyTorch on CPUs, with nothing edited and with the two lines, each beside it as it is."""
    missed = False
    for kind, name in (("auto", "PyTorch, nothing edited"), ("meter", "PyTorch, the two lines")):
        pairs: list[list[float]] = []
        for _ in range(max(1, rounds // 3)):
            environment = site.environment(run=True, inject=kind == "auto")
            words = [python, "-c", TORCH, kind, str(TORCH_STEPS), str(PAIRS)]
            pairs += json.loads(printed(words, environment, site.folder))
            if "tracked_stats" not in site.log():
                raise SystemExit(f"the meter ({kind}) has timed nothing: there is nothing to compare")
        bare, ours = ([pair[side] for pair in pairs] for side in (0, 1))
        missed |= show(name, bare, ours, "us", MOST_STEP_US)
    return missed


def main() -> int:
    """Print the table. Returns 1 if a floor is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--torch", default=str(ROOT / ".venv-torch" / "bin" / "python"), help="a Python with PyTorch")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        site = Site(Path(scratch))
        missed = loops(site, options.rounds) | no_training(site, options.rounds)
        if Path(options.torch).exists():
            missed |= of_torch(site, options.torch, options.rounds)
        else:
            print("PyTorch                      is not installed: make setup-torch")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
