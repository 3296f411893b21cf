"""Horovod's synthetic benchmarks for TensorFlow 1 and 2, Keras and PyTorch (also elastic), and copies of them.

    Model: ResNet50                                 by rank 0: in Horovod's own scripts no other rank prints
    Batch size: 32                                  per rank
    Number of GPUs: 8                               the number of ranks; CPUs with --no-cuda
    Iter #3: 612.1 img/sec per GPU                  one rank's images over its time
    Img/sec per GPU: 600.2 +-5.3                    mean over the Iter lines, and 1.96 of their standard deviations
    Total img/sec on 8 GPU(s): 4801.4 +-42.7        both of the line before, times the number of ranks: it checks this

The Keras scripts leave Iter #0 out of their mean. If every rank prints, each total is one rank's estimate, and their
mean counts. Totals in a row are separate runs, unless rank prefixes or repeated Iter lines show that several ranks
print the total of one run. After a total, a header with other figures, or with a rank where none had one, is another
run's.
"""

from __future__ import annotations

import re

from hpcjobs.collect.agreement import Figure, Kind
from hpcjobs.collect.formats.facts import coarse, half
from hpcjobs.collect.formats.reader import Findings, FormatReader, mean
from hpcjobs.collect.lines import WHOLE_OR_END, Line
from hpcjobs.collect.steady import Windows, scaled

_FIGURE = r"(\d+(?:\.\d+)?)" + WHOLE_OR_END + r"(?: ?(?:\+-|\+/-|±) ?(\d+(?:\.\d+)?))?"
_TOTAL = re.compile(rf"Total [Ii]mg/sec on (\d+) (\w+)\(s\): *{_FIGURE}")
_MEAN = re.compile(rf"\bImg/sec per /?(\w+)(?::\d+)?: *{_FIGURE}")
_ITER = re.compile(r"\bIter #(\d+): *(\d+(?:\.\d+)?) img/sec per /?(\w+)")
_ABOUT = re.compile(r"\b(?:Number of ([A-Z]PU)s: (\d+)|Batch size: (\d+)|Model: ([\w.-]+))\s*$")
_DEVIATIONS = 1.96


# An iteration so many before the newest is of another run, and not another rank's copy.
_BACK = 3


class _Run:
    """One run of the benchmark."""

    def __init__(self) -> None:
        self.line = 0
        self.about: set[tuple[str, int | None]] = set()  # (rank, group of _ABOUT) of what was printed
        self.model = self.device = ""
        self.batch: int | None = None
        self.gpus: int | None = None
        self.windows = Windows()
        self.first = ""  # the rank whose Iter lines count
        self.last: dict[str, int] = {}  # the newest Iter of each rank; ranks without a prefix count as one
        self.totalled: set[str] = set()  # ranks that have printed the total
        self.many = False  # whether several ranks without a prefix print the same Iter
        self.ended: set[str] = set()  # ranks that have printed their mean or the total
        self.means: list[float] = []  # images/s per GPU, of each rank that prints it
        self.totals: list[float] = []
        self.sds: list[float] = []  # of the totals
        self.half = 0.0  # the rounding error of the total, else of the mean


class HorovodReader(FormatReader):
    """Reads the logs that the text at the top of this file describes."""

    name = "horovod"
    needles = (b"img/sec", b"Img/sec per", b"Number of ", b"Batch size: ", b"Model: ")

    def __init__(self, findings: Findings) -> None:
        super().__init__(findings)
        self.run = _Run()

    def take(self, line: Line) -> None:
        text, run = line.text, self.run
        if match := _TOTAL.search(text):
            gpus, total = int(match[1]), float(match[3])
            copied = run.many or line.rank not in run.totalled or total in run.totals
            if run.totals and (gpus != run.gpus or not copied):
                run = self._next()  # Only the totals of several runs were kept.
            run.gpus, run.device = gpus, _device(match[2])
            run.totals.append(total)
            run.half = half(match[3].encode())
            run.totalled.add(line.rank)
            run.ended.add(line.rank)
            if match[4]:
                run.sds.append(float(match[4]) / _DEVIATIONS)
        elif match := _ITER.search(text):
            number, rate = int(match[1]), float(match[2])
            newest = run.last.get(line.rank, 0)
            if number == 0 and (newest or line.rank in run.ended):
                run = self._next()
            elif number <= newest - _BACK:  # Its head is lost.
                run = self._next()
                self.anew(self.findings.before, line.number)
            if not run.last:
                run.first = line.rank
            run.many = run.many or number == run.last.get(line.rank)
            run.last[line.rank] = number
            run.device = run.device or _device(match[3])
            if line.rank == run.first and rate > 0:
                run.windows.add(1.0, 1 / rate)
        elif match := _MEAN.search(text):
            if line.rank in run.totalled and not run.many:
                run = self._next()
            run.device = _device(match[1])
            run.means.append(float(match[2]))
            run.half = run.half or half(match[2].encode())
            run.ended.add(line.rank)
        elif match := _ABOUT.search(text):
            mark = (line.rank, match.lastindex)
            if (run.last or run.ended) and (mark in run.about or self._of_another(line, match)):
                run = self._next()
            run.about.add(mark)
            if match[1]:
                run.device, run.gpus = _device(match[1]), int(match[2])
            run.batch = int(match[3]) if match[3] else run.batch
            run.model = match[4] or run.model
            return
        else:
            return
        run.line = run.line or line.number

    def _of_another(self, line: Line, match: re.Match[str]) -> bool:
        """Whether a line of a header differs from what the run has, in its figure or in how ranks are named."""
        run = self.run
        known = {2: run.gpus, 3: run.batch, 4: run.model}
        at = match.lastindex or 0
        other = known.get(at) and str(known[at]) != match[at]
        return bool(other) or (bool(run.ended) and all(bool(rank) != bool(line.rank) for rank in run.ended))

    def _next(self) -> _Run:
        """Add the run, if it has a figure, and begin another."""
        run, self.run = self.run, _Run()
        steady = run.windows.steady()
        figure, total, per_gpu, sd = "", None, None, None
        figures: list[Figure] = []
        if run.totals:
            figure, total, sd = "Total img/sec", mean(run.totals), mean(run.sds) if run.sds else None
            if run.means:
                figures = [Figure(Kind.ONE, mean(run.means), run.line, "Img/sec per GPU", run.half)]
        elif run.means:
            figure, per_gpu = "Img/sec per GPU", mean(run.means)
        elif steady is not None:
            figure, per_gpu = "Iter # img/sec per GPU", steady.rate
            self.findings.problem(run.line, "the log ends before the benchmark's own mean: its Iter lines count")
        if figure:
            told, why = coarse(run.half / (total or per_gpu or 1), "rates")
            if told:
                self.findings.problem(run.line, told)
            if why:
                total = per_gpu = steady = None
                figures = []
            steady = scaled(steady, run.gpus)
            if total is None and steady is not None and run.gpus:
                sd = steady.sd
            self.add_run(
                run.line,
                figure,
                total=total,
                per_gpu=per_gpu,
                figures=figures,
                gpus=run.gpus,
                local_batch=run.batch,
                sd=sd,
                steady=steady,
                unit="images",
                device=run.device,
                model=run.model,
                why=why,
            )
        return self.run

    def close(self) -> None:
        self._next()


def _device(word: str) -> str:
    return "cpu" if word.upper() == "CPU" else "gpu"
