"""hpcjobs' own train.log, or several of them in one file.

The figures are the same as those of a sweep's run folder (mllog.measure), which needs run_stop with success. Of a
log that ends before it the rate of the timed windows counts, and a problem says so.
"""

from __future__ import annotations

import re
from operator import mul
from typing import Any

import msgspec

from hpcjobs.base.columns import FLAG_UNFINISHED
from hpcjobs.base.contract import LogKey
from hpcjobs.base.metrics import Measurement
from hpcjobs.collect import mllog, mlperf_lines
from hpcjobs.collect.formats.reader import Findings, FormatReader
from hpcjobs.collect.measurements import SteadyRate
from hpcjobs.collect.mllog import MOST
from hpcjobs.collect.steady import SteadyStep

# The line of a window as the trainer writes it. Most lines are such lines, so they are read by the thousand. A line
# that looks different is read by itself. Half a line and the next one do not match together: they have too many commas.
_WINDOW = re.compile(
    rb":::MLLOG [^,]+, [^,]+, [^,]+, \"key\": \"tracked_stats\", [^,]+, \"step_ms\": ([^,]+), [^,]+,"
    rb" [^,]+, [^,]+, [^,]+, \"steps\": ([^,]+), [^,]+, \"warmup\": (false|true)\}\}\n"
)
_BEGINS = b'"hpcjobs_run"'
_TRACKED = b'"tracked_stats"'
_RULE = "windows that the trainer does not mark as warm-up"
_floats = msgspec.json.Decoder(list[float])

# Lines with these keys hold nothing that is needed here.
_IDLE = re.compile(
    rb":::MLLOG [^,]+, [^,]+, [^,]+, \"key\": \"(?:init_start|init_stop|seed|global_batch_size"
    rb"|train_samples|eval_samples|opt_name|opt_base_learning_rate)\""
)


def _apart(block: bytes) -> tuple[tuple[list[float], list[float]], bytes]:
    """((steps, ms), rest): the figures of the timed windows, and all other lines of the block."""
    pieces = _WINDOW.split(block)
    steps, step_ms, warmup = pieces[2::4], pieces[1::4], pieces[3::4]
    cold = warmup.count(b"true")
    try:
        if b"false" in warmup[:cold]:  # The warm-up does not come first.
            raise ValueError
        ms = _floats.decode(b"[" + b",".join(step_ms[cold:]) + b"]")
        numbers = {text: float(text) for text in set(steps[cold:])}
        if numbers and not (0 < min(ms) <= max(ms) < MOST and all(1 <= number < MOST for number in numbers.values())):
            raise ValueError
        counts = [*numbers.values()] * len(ms) if len(numbers) == 1 else [numbers[text] for text in steps[cold:]]
    except ValueError:  # For example a figure that is not a number: all lines are read one by one.
        return ([], []), block
    return (counts, list(map(mul, counts, ms))), b"".join(pieces[::4])


def _leads(block: bytes) -> bool:
    """Whether the line that begins the run comes before its first window."""
    return _TRACKED not in block[: block.find(_BEGINS)]


class OwnReader(FormatReader):
    """Reads the logs that the text at the top of this file describes."""

    name = "hpcjobs"
    checks = False
    needles = (mlperf_lines.MARK,)

    def __init__(self, findings: Findings) -> None:
        super().__init__(findings)
        self._reset()

    def _reset(self) -> None:
        self.log = mllog.TrainLog()
        self.begun = 0

    def feed(self, first: int, block: bytes, sign: int = 0) -> None:
        windows, rest = _apart(block)
        begins = rest.count(_BEGINS)
        if begins == 0 or (begins == 1 and not self.begun and _leads(block)):
            if begins:
                self.begun = first + block.count(b"\n", 0, block.find(_BEGINS))
            self._add(windows, rest)
            return
        begin, at = 0, block.find(_BEGINS)  # A run begins within the block.
        while at >= 0:
            start = block.rfind(b"\n", 0, at) + 1
            self._add(*_apart(block[begin:start]))
            first += block.count(b"\n", begin, start)
            begin = start
            event = mlperf_lines.event(block[start : block.find(b"\n", at)].decode("utf-8", "replace"))
            if not self.begun or event is None or self.log.begins_another(event):
                if self.begun:
                    self._end()
                self.begun = first
            at = block.find(_BEGINS, at + 1)
        self._add(*_apart(block[begin:]))

    def _add(self, windows: tuple[list[float], list[float]], rest: bytes) -> None:
        """Windows, and lines of all kinds, of one run."""
        self.log.windows.extend(*windows)
        for raw in rest.split(b"\n"):
            at = raw.find(mlperf_lines.MARK)
            if at >= 0 and not _IDLE.match(raw, at):
                event = mlperf_lines.event(raw.decode("utf-8", "replace"))
                if event is not None:
                    self.log.add(event)

    def _end(self) -> None:
        log, line = self.log, self.begun
        self._reset()
        stop, found = log.last(LogKey.RUN_STOP), log.windows.steady_step()
        measured = mllog.measure(log)
        if measured is None:
            status = stop.metadata.get("status") if stop else None
            why = f"the run ended as {status}" if status else "the log ends before run_stop"
            if found is None:
                self.findings.problem(line, f"{why}, without a timed window")
                return
            self.findings.problem(line, f"{why}: its timed windows count")
            measured = mllog.measure_unfinished(log)
        self._run(line, found, log, measured)

    def _run(self, line: int, found: SteadyStep | None, log: mllog.TrainLog, measured: Measurement | None) -> None:
        about = log.about
        batch = _whole(about.get("global_batch"))
        more: dict[str, Any] = {"unit": log.unit, "flags": (FLAG_UNFINISHED,)}
        total = None
        if measured is not None:
            total = measured.throughput
            more = {"hosts": measured.hosts, "flags": measured.flags, "first_step_at": measured.first_step_at}
            more |= measured.figures()
        rate = SteadyRate(total, None, found.windows, 0, found.outliers, 1, _RULE) if total and found else None
        self.add_run(
            line,
            "tracked_stats of timed windows",
            total=total,
            gpus=_whole(about.get("gpus")),
            nodes=_whole(about.get("nodes")),
            local_batch=_whole(about.get("local_batch")),
            global_batch=batch,
            step_ms=found.step_ms if found else None,
            steady=rate,
            device=str(about.get("device") or ""),
            model=str(about.get("model") or ""),
            run=str(about.get("run") or ""),
            params=str(about.get("params") or ""),
            **more,
        )

    def close(self) -> None:
        if self.begun:
            self._end()
        else:
            self.findings.problem(0, "no hpcjobs_run line: what ran is not known")


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
