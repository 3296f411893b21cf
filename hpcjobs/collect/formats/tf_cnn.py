"""TensorFlow's tf_cnn_benchmarks, from 2017 to its last version.

    Model:       resnet50                           the header, under Horovod printed by every rank
    Mode:        training
    Batch size:  896 global
                 448 per device
    Devices:     ['/gpu:0', '/gpu:1']               or horovod/gpu:1, or job:worker/replica:0/task1/gpu:0
    Variables:   replicated
    Step  Img/sec  total_loss
    10    images/sec: 3754.5 +/- 2.1 (jitter = 7.6)  7.824      the mean from step 1 on
    total images/sec: 3744.75                       over all workers, under Horovod printed by every rank

Each rank prints its own estimate of the total, and their mean counts. Lines of steps are of one worker, and Devices
are a worker's: with parameter servers the workers are global batch / (batch per device x devices), and only the total
is a rate of them all.
"""

from __future__ import annotations

import math
import re
from operator import mul, sub, truediv

from hpcjobs.collect.formats.reader import Findings, FormatReader, mean
from hpcjobs.collect.lines import WHOLE, Numbers, rank_of, spots
from hpcjobs.collect.steady import Windows, scaled

_FIGURE = b"images/sec: "
_STEP = re.compile(rb"(\d{1,12})\s+images/sec: (\d+(?:\.\d+)?) \+/- \d")
_TOTAL = re.compile(rb"total images/sec: (\d+(?:\.\d+)?)(?:" + WHOLE + rb"|$)")
_HEADER = {name: f"{name}:  ".encode() for name in ("Model", "Mode", "Devices", "Variables")}
_PER_DEVICE = re.compile(rb"(\d{1,12})(?:\.0)? per device")
_GLOBAL = re.compile(rb"(\d{1,12})(?:\.0)? global")
_GPU_MODEL = re.compile(rb"physical GPU \(device: \d+, name: ([^,\n]+),")

# A header is about 600 bytes long. Prefixes of ranks and lines of other ranks within it make it longer.
_BEFORE, _AFTER = 1024, 6144
_MARK = b"Batch size:  "

# A step so many gaps before the newest is of another run, and not another rank's copy.
_BACK = 3
# At most this many lines of steps are kept from one block to the next.
_KEPT = 4096


class _Run:
    """One run of the benchmark."""

    def __init__(self) -> None:
        self.line = 0
        self.header: dict[str, str] = {}
        self.headed: set[str] = set()  # ranks that have printed it; those without a prefix count as one
        self.local_batch: int | None = None
        self.global_batch: int | None = None
        self.first = ""  # the rank whose lines of steps count
        self.steps = [0]  # of its lines, in order
        self.means = [0.0]  # mean rate from step 1 up to each of `steps`
        self.gap = math.inf  # the fewest steps between two lines
        self.windows = Windows()
        self.many = False  # whether several ranks without a prefix print the same step
        self.ended: set[str] = set()  # ranks that have printed the total; those without a prefix count as one
        self.totals: list[float] = []

    def flush(self) -> None:
        """Add a window for the steps between each two lines: it follows from the means of both."""
        counts = list(map(sub, self.steps[1:], self.steps))
        sums = list(map(mul, self.steps, self.means))
        rates = list(map(truediv, map(sub, sums[1:], sums), counts))
        if rates and min(rates) > 0 and sum(rates) < math.inf:
            self.windows.extend(counts, list(map(truediv, counts, rates)))
        del self.steps[:-1], self.means[:-1]


class TfCnnReader(FormatReader):
    """Reads the logs that the text at the top of this file describes."""

    name = "tf_cnn_benchmarks"

    def __init__(self, findings: Findings) -> None:
        super().__init__(findings)
        self.run = _Run()
        self.before = b""  # the end of the block before
        self.open: tuple[bytes, bytes] | None = None  # the parts of a header that continues in the next block
        self.gpu_model = ""

    def feed(self, first: int, block: bytes, sign: int = 0) -> None:
        if self.open is not None:
            self._header(self.open[0], self.open[1] + block[:_AFTER])
            self.open = None
        if not self.gpu_model:
            at = block.find(b"physical GPU (")
            match = _GPU_MODEL.match(block, at) if at >= 0 else None
            self.gpu_model = match[1].decode("utf-8", "replace").strip() if match else ""
        numbers, mark = Numbers(block, first), block.find(_MARK)
        for begin, end in spots(block, (_FIGURE,), sign):
            while 0 <= mark < begin:
                self._found(block, mark)
                mark = block.find(_MARK, mark + 1)
            # The benchmark prints no carriage returns, so a line is not split at them.
            if match := _STEP.search(block, begin, end):
                rank = rank_of(block, begin, match.start()) if match.start() > begin else ""
                run, step = self.run, int(match[1])
                back = step <= (run.steps[-1] if run.totals else run.steps[-1] - _BACK * run.gap)
                if rank == run.first and back:
                    last, self.findings.before = self.findings.at, self.findings.at
                    run = self._next()
                    self.anew(last, numbers.at(begin))
                if not run.steps[-1]:
                    run.first, run.line = rank, numbers.at(begin)
                    self.findings.before = self.findings.at = run.line
                if rank == run.first and step > run.steps[-1]:
                    run.gap = min(run.gap, step - run.steps[-1])
                    run.steps.append(step)
                    run.means.append(float(match[2]))
                elif rank == run.first:
                    run.many = True
            elif match := _TOTAL.search(block, begin, end):
                self._total(numbers, begin, match)
        while mark >= 0:
            self._found(block, mark)
            mark = block.find(_MARK, mark + 1)
        self.before = block[-_BEFORE:]
        if len(self.run.steps) > _KEPT:
            self.run.flush()

    def _total(self, numbers: Numbers, begin: int, match: re.Match[bytes]) -> None:
        run, total = self.run, float(match[1])
        rank = rank_of(numbers.block, begin, match.start()) if match.start() > begin else ""
        many = run.many or run.header.get("Variables") == "horovod"
        if rank in run.ended and not many and total not in run.totals:
            run = self._next()  # Only the totals of several runs were kept.
        self.findings.before = self.findings.at = numbers.at(begin)
        run.line = run.line or self.findings.at
        run.ended.add(rank)
        run.totals.append(total)

    def _found(self, block: bytes, at: int) -> None:
        """Read the header around the line that gives the batch."""
        begin = block.rfind(b"\n", 0, at) + 1
        rank = rank_of(block, begin, at) if at > begin else ""
        if rank in self.run.headed and (self.run.totals or self.run.steps[-1]):
            self._next()
        self.run.headed.add(rank)
        before = self.before[at - _BEFORE :] + block[:at] if at < _BEFORE else block[at - _BEFORE : at]
        after = block[at : at + _AFTER]
        if at + _AFTER > len(block) and b"====\n" not in after:
            self.open = before, after
        self._header(before, after)

    def _header(self, before: bytes, after: bytes) -> None:
        """Read a header from its first line to its last; an earlier run's header may stand just before it."""
        run = self.run
        stop = after.find(b"====\n")
        after = after[:stop] if stop >= 0 else after
        text = before[max(before.rfind(b"Model:  "), 0) :] + after
        for name, word in _HEADER.items():
            at = text.find(word)
            if at >= 0 and name not in run.header:
                end = text.find(b"\n", at)
                value = text[at + len(word) : end if end >= 0 else None]
                run.header[name] = value.decode("utf-8", "replace").strip()
        batch, each = _GLOBAL.search(after), _PER_DEVICE.search(after)
        run.global_batch = run.global_batch or (int(batch[1]) if batch else None)
        run.local_batch = run.local_batch or (int(each[1]) if each else None)

    def _next(self) -> _Run:
        run, self.run = self.run, _Run()
        if not run.totals and not run.steps[-1]:
            return self.run
        about = run.header
        mode = about.get("Mode", "training").lower()
        if "train" not in mode:
            self.findings.problem(run.line, f"mode {mode}: not a training")
            return self.run
        devices = re.findall(r"'([^']+)'", about.get("Devices", ""))
        gpus, workers = len(devices) or None, 1
        if run.global_batch and run.local_batch and run.global_batch % run.local_batch == 0:
            shares = run.global_batch // run.local_batch
            if gpus is None or ("/job:worker" in devices[0] and shares % gpus == 0):
                gpus, workers = shares, shares // (gpus or shares)
        total = mean(run.totals) if run.totals else None
        # Under Horovod the line of a step is of one rank.
        ranks = len(devices) if about.get("Variables") == "horovod" else 1
        run.flush()
        steady = scaled(run.windows.steady(0, "all steps after the benchmark's own warm-up"), ranks)
        why = ""
        if total is None and workers > 1:
            steady = None
            why = (
                f"the log ends before the total: its lines of steps are of one of {workers} workers, and no rate of all"
            )
        elif total is None and "Variables" not in about:
            steady = None
            why = "the header is missing: lines of steps may be of one of several workers, and no rate of all"
        elif total is None:
            self.findings.problem(run.line, "the log ends before the total: the last line of steps counts")
            total = run.means[-1] * ranks
        self.add_run(
            run.line,
            "total images/sec" if run.totals else "images/sec of the last step",
            total=total,
            gpus=gpus,
            local_batch=run.local_batch,
            global_batch=run.global_batch,
            accumulation=1,
            why=why,
            sd=steady.sd if steady else None,
            steady=steady,
            unit="images",
            device="cpu" if devices and "cpu" in devices[0].lower() else "gpu",
            gpu_model=self.gpu_model,
            model=about.get("Model", ""),
        )
        return self.run

    def close(self) -> None:
        self._next()
