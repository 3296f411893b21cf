"""What the meter costs a training, each kind beside the same without it, in one run.

    .venv/bin/python benchmarks/meter.py [--rounds N] [--torch PYTHON]; exit code 1 if not every floor is held

A loop (no framework): a bare `for` over batches beside `for batch in meter.steps(batches)`, in a run (mode train,
windows of 5 steps) and outside of one. A script that is no training: `python -c pass` beside the same with what a job
script puts on PYTHONPATH. PyTorch on CPUs, where it is installed (.venv-torch, or --torch): a training as it is, with
nothing edited, and with the two lines.

Required: at most 20 us a step in a run, of a loop and of PyTorch; at most 1 us a step outside of a run; at most 15 ms
more at the start of a Python that imports no PyTorch, and then no step. A floor is held where the whole interval is at
or below it, missed where the whole interval is above it, and else not shown; all but "held" ends with exit code 1.
Control blocks, which a benchmark adds, are no part of it.

Of a loop and of a start the kinds run in turns. Of a loop each has a process of its own, of which the repetition with
the least CPU time counts. The figure is the median of the differences in each turn, with its 95 % interval.

Of PyTorch two processes differ by more than the meter costs (where their memory lies), and another program on the
machine changes what a step takes from one second to the next. So both kinds run in one process, side by side: two
loops are open, and 100 steps of the one follow 100 of the other, bare first in every second pair. CPU time counts, not
the time in which another program had the core. A process's figure is the median of the differences of its pairs. Pairs
of one process are not independent, so that the interval is from process to process: the median of nine processes'
figures, with its 95 % interval. No pair and no process is left out. Each change of sides makes the meter write what
waits, so it writes more often than in a training that only trains. What a busy machine does to the caches makes a step
dearer, with the meter and without; it is not taken off.
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
PAIRS = 50  # of a process with PyTorch
TORCH_STEPS = 100  # of one side of a pair
PROCESSES = 9  # of each kind of PyTorch
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

# A linear layer: the shortest step that PyTorch has. An optimizer without momentum, and loaders without workers. The
# loop without the meter has PyTorch as it is: its loader's methods are those that are patched, and no hook is set.
TORCH = """
import itertools, json, sys, time
import torch
from torch.optim import optimizer as optimizers
from torch.utils.data import DataLoader, TensorDataset, dataloader
how, steps, pairs = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
model = torch.nn.Linear(8, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
def unpatched(method):
    return getattr(method, "__wrapped__", method)
class BareIterator(dataloader._SingleProcessDataLoaderIter):
    __next__ = unpatched(dataloader._BaseDataLoaderIter.__next__)
class BareLoader(DataLoader):
    __iter__ = unpatched(DataLoader.__iter__)
    def _get_iterator(self):
        return BareIterator(self)
def data():
    return TensorDataset(torch.randn(16 * steps * (pairs + 2), 8))
bare = iter(BareLoader(data(), batch_size=16))
loader = DataLoader(data(), batch_size=16)
if how == "meter":
    import meter
    loader = meter.steps(loader, samples=16, model=model)
metered = iter(loader)
hooks = optimizers._global_optimizer_post_hooks
def some_steps(batches):
    began = time.process_time()
    for (x,) in itertools.islice(batches, steps):
        loss = model(x).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return 1e6 * (time.process_time() - began) / steps
def without():
    kept = dict(hooks)
    hooks.clear()
    took = some_steps(bare)
    hooks.update(kept)
    return took
some_steps(metered), without()
found = []
for pair in range(pairs):
    if pair % 2:
        first = without()
        found.append([first, some_steps(metered)])
    else:
        first = some_steps(metered)
        found.append([without(), first])
print(json.dumps(found))
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


def show(name: str, bare: list[float], ours: list[float], more: list[float], unit: str, most: float) -> bool:
    """Print one line: both times, and how much `more` the meter takes. Returns whether the floor is held."""
    found = median(more)
    verdict = "held" if found.high <= most else "missed" if found.low > most else "not shown"
    print(
        f"{name:28} bare {median(bare).value:9.3f} {unit}  with the meter {median(ours).value:9.3f} {unit}  "
        f"{found.value:+7.2f} {unit} ({found.low:+.2f} to {found.high:+.2f}; at most {most:g} {unit}: {verdict})",
        flush=True,
    )
    return verdict == "held"


def turns(name: str, bare: list[float], ours: list[float], unit: str, most: float) -> bool:
    """Show what ran in turns."""
    more = [with_it - without for without, with_it in zip(bare, ours, strict=True)]
    return show(name, bare, ours, more, unit, most)


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
    held = turns("a loop, outside of a run", times["bare"], times["off"], "us", MOST_OFF_US)
    return turns("a loop, in a run", times["bare"], times["run"], "us", MOST_STEP_US) and held


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
    return turns("no training, its start", times[False], times[True], "ms", MOST_START_MS)


def of_torch(site: Site, python: str, kind: str, name: str) -> bool:
    """A training in PyTorch on CPUs, beside it as it is."""
    bare, ours, more = [], [], []
    for _ in range(PROCESSES):
        environment = site.environment(run=True, inject=kind == "auto")
        words = [python, "-c", TORCH, kind, str(TORCH_STEPS), str(PAIRS)]
        pairs: list[tuple[float, float]] = json.loads(printed(words, environment, site.folder))
        if "tracked_stats" not in site.log():
            raise SystemExit(f"the meter ({kind}) has timed nothing: there is nothing to compare")
        bare.append(median([without for without, _ in pairs]).value)
        ours.append(median([with_it for _, with_it in pairs]).value)
        more.append(median([with_it - without for without, with_it in pairs]).value)
    return show(name, bare, ours, more, "us", MOST_STEP_US)


def main() -> int:
    """Print the table. Returns 1 if not every floor is held."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11, help="turns of a loop and of a start")
    parser.add_argument("--torch", default=str(ROOT / ".venv-torch" / "bin" / "python"), help="a Python with PyTorch")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        site = Site(Path(scratch))
        held = [loops(site, options.rounds), no_training(site, options.rounds)]
        if Path(options.torch).exists():
            held.append(of_torch(site, options.torch, "auto", "PyTorch, nothing edited"))
            held.append(of_torch(site, options.torch, "meter", "PyTorch, the two lines"))
        else:
            print("PyTorch                      is not installed: make setup-torch")
    return int(not all(held))


if __name__ == "__main__":
    sys.exit(main())
