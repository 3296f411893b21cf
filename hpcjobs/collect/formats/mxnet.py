"""MXNet's Speedometer and scripts that print the same: Module, Gluon, GluonCV, Horovod's and NVIDIA's for MXNet.

    2019-06-18 18:15:31,835 Node[0] start with arguments Namespace(batch_size=208, gpus='0', kv_store='horovod', ...)
    2019-06-18 18:15:38,827 Node[0] Epoch[0] Batch [0-20]    Speed: 10356.65 samples/sec    accuracy=0.001145
    INFO:root:Epoch[0] Batch [20]    Speed: 1234.56 samples/sec    accuracy=0.1
    INFO:root:Epoch[0] Rank[3] Batch[20]    accuracy=0.1        Horovod's own example: its speed is the total
    [Epoch 0] speed: 1200 samples/sec    time cost: 100.5       GluonCV: a whole epoch

In MXNet's own examples a speed is of one worker, in Horovod's and NVIDIA's it is the total. The speed and the time
stamps give a batch. If that is the batch_size of the arguments, the speed is one worker's; if it is batch_size times
the workers, it is the total. Speeds of single workers are added up if all workers print theirs.
"""

from __future__ import annotations

import re
import statistics

from hpcjobs.collect.formats.reader import Findings, FormatReader
from hpcjobs.collect.lines import Line, seconds
from hpcjobs.collect.steady import Windows

_RATE = r"(\d+(?:\.\d+)?(?:e\+?\d+)?) samples/sec"
_SPEED = re.compile(
    r"(?:Node\[(\d+)\] )?Epoch ?\[(\d+)\](?: Batch ?\[(?:\d+-)?(\d+)\])?.{0,40}?\b[Ss]peed: " + _RATE
    + r"|\[Epoch (\d+)\].{0,40}?[Ss]peed: " + _RATE
)  # fmt: skip
_ARGUMENTS = re.compile(r"(?:Node\[(\d+)\] )?(?:start with arguments )?Namespace\((.*)")
_ARGUMENT = re.compile(r"(\w+)=('[^']*'|\"[^\"]*\"|[^,()\s]+)")
_RANK = re.compile(r"Epoch ?\[\d+\] Rank ?\[(\d+)\]")
_COST = re.compile(r"(?:Node\[(\d+)\] )?Epoch ?\[(\d+)\].{0,80}?Time cost ?= ?(\d+(?:\.\d+)?)")
# At most this many speeds are compared with their time stamps.
_KEPT = 500


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
        self.implied: list[float] = []  # batches, from speeds and time stamps


class MxnetReader(FormatReader):
    """Reads the logs that the text at the top of this file describes."""

    name = "mxnet"
    needles = (b"samples/sec", b"Namespace(", b"] Rank", b"Time cost")

    def __init__(self, findings: Findings) -> None:
        super().__init__(findings)
        self.run = _Run()

    def take(self, line: Line) -> None:
        text, run = line.text, self.run
        if match := _SPEED.search(text):
            if match[5]:
                self._speed(line, line.rank, int(match[5]), None, float(match[6]))
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
        elif match := _RANK.search(text):
            run.example = True
            run.workers.add(int(match[1]))
        elif (match := _COST.search(text)) and (match[1] or "0") == "0":
            run.costs.append(float(match[3]))

    def _speed(self, line: Line, worker: str, epoch: int, batch: int | None, speed: float) -> None:
        run = self.run
        last = run.at.get(worker)
        if last and epoch < last[0]:
            self._end()
            run, last = self.run, None
        run.line = run.line or line.number
        if speed <= 0:
            return
        if batch is None:
            run.epochs.setdefault(worker, Windows()).add(1.0, 1 / speed)
            return
        run.speeds.setdefault(worker, Windows()).add(1.0, 1 / speed)
        at = seconds(line.text) if len(run.implied) < _KEPT else None
        if last and last[0] == epoch and batch > last[1] and at is not None and last[2] is not None and at > last[2]:
            run.implied.append(speed * (at - last[2]) / (batch - last[1]))
        run.at[worker] = epoch, batch, at

    def _end(self) -> None:
        run, self.run = self.run, _Run()
        speeds = run.speeds or run.epochs
        if not speeds:
            return
        figure = "Speed of batches" if run.speeds else "Speed of epochs"
        rates = {worker: steady for worker, windows in speeds.items() if (steady := windows.steady())}
        about = run.arguments
        workers = len(run.workers) or (1 if about and _alone(about) else None)
        each = len(re.findall(r"\d+", about["gpus"])) if about.get("gpus") not in (None, "None") else None
        if each == 0:
            each = 1  # gpus='': the worker's CPU counts.
        gpus = workers * each if workers and each else workers if run.example else None
        batch = int(about["batch_size"]) if about.get("batch_size", "").isdigit() else None
        implied = statistics.median(run.implied) if run.implied else None
        own, why = _own(run, batch, workers, implied)
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
            self.findings.problem(run.line, why)
        whole = batch * workers if batch and workers else None
        self.add_run(
            run.line,
            figure,
            total=total,
            gpus=gpus,
            local_batch=batch // each if batch and each and batch % each == 0 else None,
            global_batch=whole,
            sd=first.sd if not own or len(rates) == 1 else None,
            steady=first,
            unit="images" if "image_shape" in about or "network" in about else "samples",
            device="cpu" if about.get("gpus") == "" or about.get("no_cuda") == "True" else "gpu",
            model=about.get("network") or about.get("model") or "",
            precision=about.get("dtype", ""),
            epoch_s=statistics.fmean(run.costs[1:] or run.costs) if run.costs else None,
            why=why,
        )

    def close(self) -> None:
        self._end()


def _alone(about: dict[str, str]) -> bool:
    """Whether there is only one worker, by the arguments."""
    return about.get("kv_store") in ("device", "local", "nccl", "None")


def _own(run: _Run, batch: int | None, workers: int | None, implied: float | None) -> tuple[bool, str]:
    """Whether a speed is one worker's own, and the problem to report if the log leaves that open."""
    if run.example or workers == 1:
        return False, ""
    if implied is not None and batch and workers:
        if abs(implied / batch - 1) < 0.2:
            return True, ""
        if abs(implied / (batch * workers) - 1) < 0.2:
            return False, ""
    if workers and len(run.speeds or run.epochs) > 1:
        return True, ""
    return False, "the log does not say whether a speed is one worker's or the total: it counts as the total"
