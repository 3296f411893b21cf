"""MXNet's Speedometer and scripts that print the same: Module, Gluon, GluonCV, Horovod's and NVIDIA's for MXNet.

    2019-06-18 18:15:31,835 Node[0] start with arguments Namespace(batch_size=208, gpus='0', kv_store='horovod', ...)
    2019-06-18 18:15:38,827 Node[0] Epoch[0] Batch [0-20]    Speed: 10356.65 samples/sec    accuracy=0.001145
    INFO:root:Epoch[0] Batch [20]    Speed: 1234.56 samples/sec    accuracy=0.1
    INFO:root:Epoch[0] Rank[3] Batch[20]    accuracy=0.1        Horovod's own example: its speed is the total
    [Epoch 0] speed: 1200 samples/sec    time cost: 100.5       GluonCV: a whole epoch
    [Epoch 0][Batch 99], Speed: 1167.8 samples/sec              GluonCV: of a batch
    Total batch size is set to 64 on 8 GPUs

In MXNet's own examples a speed is of one worker, in Horovod's and NVIDIA's it is the total. The speed and the times
of batches or epochs give a batch. If that is the batch_size of the arguments, the speed is one worker's; if it is
batch_size times the workers, it is the total. A batch_size that makes up the training set with the batches of an epoch
is the global batch. Speeds of single workers are added up if all workers print theirs. The number of workers that
print something is no number of workers, unless their speeds or batches confirm it.
"""

from __future__ import annotations

import math
import re
import statistics

from hpcjobs.collect.agreement import alike
from hpcjobs.collect.formats.reader import Findings, FormatReader
from hpcjobs.collect.gpu_lines import DEVICES
from hpcjobs.collect.lines import Line, seconds
from hpcjobs.collect.steady import Windows

_RATE = r"(\d+(?:\.\d+)?(?:e\+?\d+)?) samples/sec"
_SPEED = re.compile(
    r"(?:Node\[(\d+)\] )?Epoch ?\[(\d+)\](?: Batch ?\[(?:\d+-)?(\d+)\])?.{0,40}?\b[Ss]peed: " + _RATE
    + r"|\[Epoch (\d+)\].{0,40}?[Ss]peed: " + _RATE
)  # fmt: skip
_ARGUMENTS = re.compile(r"(?:Node\[(\d+)\] )?(?:start with arguments )?Namespace\((.*)")
_ARGUMENT = re.compile(r"(\w+)=('[^']*'|\"[^\"]*\"|[^,()\s]+)")
_TOTAL = re.compile(r"Total batch size is set to (\d+)")
_PLACE = re.compile(r"\[Epoch (\d+)\]\[Batch (\d+)\]")
_EPOCH_COST = re.compile(r"\[Epoch (\d+)\].{0,60}?(?:Training|[Tt]ime) cost: (\d+(?:\.\d+)?)")
# Samples of an epoch of training sets that GluonCV's scripts name: COCO's train2017 with and without empty images,
# Pascal VOC's 2007 and 2012 trainval, ImageNet.
_SETS = {"coco": (117266, 118287), "voc": (16551,), "imagenet": (1281167,)}
_RANK = re.compile(r"Epoch ?\[\d+\] Rank ?\[(\d+)\]")
_COST = re.compile(r"(?:Node\[(\d+)\] )?Epoch ?\[(\d+)\].{0,80}?Time cost ?= ?(\d+(?:\.\d+)?)")
# At most this many speeds are compared with their time stamps.
_KEPT = 500
# A line so many gaps before the newest of its epoch is of another run, and not another rank's copy.
_BACK = 3


class _Run:
    """One run."""

    def __init__(self) -> None:
        self.line = 0
        self.arguments: dict[str, str] = {}
        self.workers: set[int] = set()  # those that print their arguments or their rank
        self.example = False  # whether it is Horovod's example, which prints ranks
        self.speeds: dict[str, Windows] = {}  # worker: speeds of batches
        self.epochs: dict[str, Windows] = {}  # worker: speeds of epochs
        self.costs: list[float] = []  # s of each epoch
        self.at: dict[str, tuple[int, int, float | None]] = {}  # worker: epoch, batch and time of its newest speed
        self.gap = math.inf  # the fewest batches between two lines of a worker
        self.implied: list[float] = []  # batches, from speeds and time stamps
        self.whole = 0  # the batch over all GPUs that the script prints
        self.reached: dict[int, int] = {}  # epoch: the last batch that a line names, and one
        self.newest = 0.0  # speed


class MxnetReader(FormatReader):
    """Reads the logs that the text at the top of this file describes."""

    name = "mxnet"
    needles = (b"samples/sec", b"Namespace(", b"] Rank", b"ime cost", b"Training cost", b"Total batch size")

    def __init__(self, findings: Findings) -> None:
        super().__init__(findings)
        self.run = _Run()

    def take(self, line: Line) -> None:
        text, run = line.text, self.run
        if match := _SPEED.search(text):
            if match[5]:
                place = _PLACE.search(text)
                self._speed(line, line.rank, int(match[5]), int(place[2]) if place else None, float(match[6]))
                self._cost(text)
            else:
                batch = int(match[3]) if match[3] else None
                self._speed(line, match[1] or line.rank, int(match[2]), batch, float(match[4]))
        elif match := _ARGUMENTS.search(text):
            found = {key: value.strip("'\"") for key, value in _ARGUMENT.findall(match[2])}
            if "batch_size" not in found:
                return
            worker = match[1] or line.rank
            if worker in run.speeds or (run.speeds and not worker):
                self._end()
                run = self.run
            run.arguments = run.arguments or found
            if match[1]:
                run.workers.add(int(match[1]))
        elif match := _TOTAL.search(text):
            run.whole = run.whole or int(match[1])
        elif _EPOCH_COST.search(text):
            self._cost(text)
        elif match := _RANK.search(text):
            run.example = True
            run.workers.add(int(match[1]))
        elif (match := _COST.search(text)) and (match[1] or "0") == "0":
            run.costs.append(float(match[3]))

    def _cost(self, text: str) -> None:
        """Take the seconds of an epoch: with its speed and number of batches they give a batch."""
        run = self.run
        if match := _EPOCH_COST.search(text):
            batches = run.reached.get(int(match[1]))
            if batches and batches >= 10 and run.newest and len(run.implied) < _KEPT:
                run.implied.append(run.newest * float(match[2]) / batches)

    def _speed(self, line: Line, worker: str, epoch: int, batch: int | None, speed: float) -> None:
        run = self.run
        last = run.at.get(worker)
        back = last and batch is not None and epoch == last[0] and batch <= last[1] - _BACK * run.gap
        if last and (back or epoch < last[0]):
            self._end()
            self.anew(self.findings.before, line.number)
            run, last = self.run, None
        run.line = run.line or line.number
        if speed <= 0:
            return
        run.newest = speed
        if batch is not None:
            run.reached[epoch] = max(run.reached.get(epoch, 0), batch + 1)
        if batch is None:
            run.epochs.setdefault(worker, Windows()).add(1.0, 1 / speed)
            return
        run.speeds.setdefault(worker, Windows()).add(1.0, 1 / speed)
        at = seconds(line.text) if len(run.implied) < _KEPT else None
        if last and last[0] == epoch and batch > last[1] and at is not None and last[2] is not None and at > last[2]:
            run.implied.append(speed * (at - last[2]) / (batch - last[1]))
        if last and last[0] == epoch and batch > last[1]:
            run.gap = min(run.gap, batch - last[1])
        run.at[worker] = epoch, batch, at

    def _end(self) -> None:
        run, self.run = self.run, _Run()
        speeds = run.speeds or run.epochs
        if not speeds:
            return
        figure = "Speed of batches" if run.speeds else "Speed of epochs"
        rates = {worker: steady for worker, windows in speeds.items() if (steady := windows.steady())}
        about = run.arguments
        batch = int(about["batch_size"]) if about.get("batch_size", "").isdigit() else None
        implied = statistics.median(run.implied) if run.implied else None
        workers = self._workers(run, about, batch, implied)
        each = len(re.findall(r"\d+", about["gpus"])) if about.get("gpus") not in (None, "None") else None
        if each == 0:
            each = 1  # gpus='': the worker's CPU counts.
        gpus = workers * each if workers and each else workers if run.example else None
        own, why = self._own(run, batch, workers, implied)
        first = next(iter(rates.values()))
        total: float | None = first.rate
        if own and workers:
            figure += f" of {len(rates)} workers, added"
            total = sum(steady.rate for steady in rates.values()) if len(rates) == workers else None
            why = f"only {len(rates)} of {workers} workers print their speed" if total is None else why
        elif len({steady.rate for steady in rates.values()}) > 1:
            total, why = (
                None,
                f"{len(rates)} ranks print different speeds, and the log does not say whether each is one rank's own",
            )
        elif why:
            total = None
        whole = run.whole or None
        if not whole and batch and _is_global(run, about, batch):
            whole = batch
        elif not whole and batch and workers:
            whole = batch * workers
        local = batch // each if batch and each and batch % each == 0 and whole != batch else None
        self.add_run(
            run.line,
            figure,
            total=total,
            gpus=gpus,
            local_batch=local,
            global_batch=whole,
            sd=first.sd if total is not None and (not own or len(rates) == 1) else None,
            steady=first if total is not None else None,
            unit="images" if "image_shape" in about or "network" in about else "samples",
            device="cpu" if about.get("gpus") == "" or about.get("no_cuda") == "True" else "gpu",
            model=about.get("network") or about.get("model") or "",
            precision=about.get("dtype", ""),
            epoch_s=statistics.fmean(run.costs[1:] or run.costs) if run.costs else None,
            why=why,
        )

    def _workers(self, run: _Run, about: dict[str, str], batch: int | None, implied: float | None) -> int | None:
        """The number of workers: all that print, if their speeds or batches confirm it; else it is the world's."""
        if about and _alone(about):
            return 1
        count = len(run.workers)
        if count and run.workers == set(range(count)):
            shares = implied / batch if implied and batch else None
            speaking = len(run.speeds or run.epochs)
            if run.example or speaking == count or (shares and (alike(shares, count) or alike(shares, 1))):
                return count
        return None

    def _own(self, run: _Run, batch: int | None, workers: int | None, implied: float | None) -> tuple[bool, str]:
        """Whether a speed is one worker's own, and the problem to report if the log leaves that open."""
        about = run.arguments
        if run.example or workers == 1 or run.whole:
            return False, ""
        if batch and _is_global(run, about, batch):
            return False, ""
        if implied is not None and batch and workers:
            if alike(implied, batch):
                return True, ""
            if alike(implied, batch * workers):
                return False, ""
        if workers and len(run.speeds or run.epochs) > 1:
            return True, ""
        world = self.gpus(run.line, None)
        said = self.findings.world.statements
        launched = any(one.of == "all" and one.value > 1 and one.name != DEVICES for one in said)
        several = launched or len(run.workers) > 1 or about.get("horovod") == "True"
        if not several and "dist" not in about.get("kv_store", "") and about.get("kv_store") != "horovod":
            if not about:
                told = "the log does not say whether a speed is one worker's or the total, and shows one worker alone"
                self.findings.problem(run.line, f"{told}: it counts as the total")
            return False, ""
        if implied is not None and batch and world.gpus and alike(implied, batch * world.gpus):
            return False, ""
        return False, "the log does not say whether a speed is one worker's or the total"

    def close(self) -> None:
        self._end()


def _alone(about: dict[str, str]) -> bool:
    """Whether there is only one worker, by the arguments."""
    store = about.get("kv_store", about.get("kvstore"))
    return store in ("device", "local", "nccl", "None") and about.get("horovod") != "True"


def _is_global(run: _Run, about: dict[str, str], batch: int) -> bool:
    """Whether batch_size is over all GPUs: with the batches of an epoch it makes up the training set."""
    sizes = _SETS.get(about.get("dataset", ""), ())
    if about.get("num_examples", "").isdigit():
        sizes = (int(about["num_examples"]),)
    # The last line of an epoch comes up to an interval before its end.
    ended = [reached for epoch, reached in run.reached.items() if epoch < max(run.reached)]
    return any(0.8 < max(ended) * batch / size < 1.02 for size in sizes) if ended else False
