"""hpcjobs' own train.log, or several of them in one file.

The same figures as of a sweep's run folder (logs/mllog.py), which asks for run_stop with success; a log that ends
before it gives the rate of its timed windows, and says so.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence
from operator import add, mul, truediv
from typing import Any

import msgspec

from hpcjobs.base.contract import LogKey
from hpcjobs.collect import mllog, steady
from hpcjobs.collect.formats.reader import Findings, Room
from hpcjobs.collect.measurements import SteadyRate
from hpcjobs.collect.rates import outliers

FLAG_UNFINISHED = "unfinished"

# The line of a timed window as the trainer writes it, which most lines are: read by the thousand. What looks
# different, a warm-up too, is read like every other line. A line that was cut off cannot pass for one together with
# the next, for its commas would be too many.
_WINDOW = re.compile(
    rb":::MLLOG [^,]+, [^,]+, [^,]+, \"key\": \"tracked_stats\", [^,]+, \"step_ms\": ([^,]+), [^,]+,"
    rb" [^,]+, [^,]+, [^,]+, \"steps\": ([^,]+), [^,]+, \"warmup\": (false|true)\}\}\n"
)
_BEGINS = b'"hpcjobs_run"'
# More ms or steps than a window has.
_MOST = 1e15
_TRACKED = b'"tracked_stats"'
_MARK = b":::MLLOG "
_RULE = "windows that the trainer does not mark as warm-up"
_floats = msgspec.json.Decoder(list[float])


class _Entry(msgspec.Struct):
    """One line. `value` may be absent no more than `time_ms`."""

    key: str
    time_ms: float
    value: Any
    metadata: Any = None


_json = msgspec.json.Decoder(_Entry)

# Lines of these say nothing that is asked for here.
_IDLE = re.compile(
    rb":::MLLOG [^,]+, [^,]+, [^,]+, \"key\": \"(?:submission_benchmark|init_start|init_stop|seed|global_batch_size"
    rb"|train_samples|eval_samples|opt_name|opt_base_learning_rate)\""
)


def _apart(block: bytes) -> tuple[tuple[list[float], list[float]], bytes]:
    """(Steps, ms) of the timed windows, and the lines that are left, of which none is lost."""
    pieces = _WINDOW.split(block)
    steps, step_ms, warmup = pieces[2::4], pieces[1::4], pieces[3::4]
    cold = warmup.count(b"true")
    try:
        if b"false" in warmup[:cold]:  # Not those that come first.
            raise ValueError
        ms = _floats.decode(b"[" + b",".join(step_ms[cold:]) + b"]")
        alike = len(set(steps[cold:])) == 1
        counts = [float(steps[-1])] * len(ms) if alike else list(map(float, steps[cold:]))
        if counts and not (0 < min(ms) <= max(ms) < _MOST and 1 <= min(counts) <= max(counts) < _MOST):
            raise ValueError
    except ValueError:  # A figure that is none, say: the lines are read one by one.
        return ([], []), block
    return (counts, ms), b"".join(pieces[::4])


def _leads(block: bytes) -> bool:
    """Whether the run begins before its first window."""
    return _TRACKED not in block[: block.find(_BEGINS)]


class _Windows(steady.Windows):
    """The same figures, for many windows at once."""

    _found: steady.Steady | None = None

    def extend(self, steps: Sequence[float], step_ms: Sequence[float]) -> None:
        """Many windows, in order."""
        self._count += len(steps)
        done = 0
        while done < len(steps):
            free = steady.KEPT - len(self._steps)
            self._steps.extend(steps[done : done + free])
            self._step_ms.extend(step_ms[done : done + free])
            done += free
            if len(self._steps) == steady.KEPT:
                self._merge()

    def _merge(self) -> None:
        pairs = [self._steps[::2], self._steps[1::2], self._step_ms[::2], self._step_ms[1::2]]
        steps = array("d", map(add, pairs[0], pairs[1]))
        times = map(add, map(mul, pairs[0], pairs[2]), map(mul, pairs[1], pairs[3]))
        self._steps, self._step_ms = steps, array("d", map(truediv, times, steps))

    def steady(self) -> steady.Steady | None:
        """Asked for twice, it is reckoned once."""
        if self._found is None and self._count:
            total = sum(map(mul, self._steps, self._step_ms)) / sum(self._steps)
            self._found = steady.Steady(total, self._count, outliers(sorted(self._step_ms)))
        return self._found


class OwnRoom(Room):
    """See above."""

    name = "hpcjobs"
    needles = (_MARK,)

    def __init__(self, findings: Findings) -> None:
        super().__init__(findings)
        self._reset()

    def _reset(self) -> None:
        self.log = mllog.TrainLog()
        self.log.windows = self.windows = _Windows()
        self.begun = 0

    def feed(self, first: int, block: bytes, sign: int = 0) -> None:
        windows, rest = _apart(block)
        begins = rest.count(_BEGINS)
        if begins == 0 or (begins == 1 and not self.begun and _leads(block)):
            if begins:
                self.begun = first + block.count(b"\n", 0, block.find(_BEGINS))
            self._add(windows, rest)
            return
        begin, at = 0, block.find(_BEGINS)  # A run begins where another was.
        while at >= 0:
            start = block.rfind(b"\n", 0, at) + 1
            self._add(*_apart(block[begin:start]))
            first += block.count(b"\n", begin, start)
            if self.begun:
                self._end()
            begin, self.begun = start, first
            at = block.find(_BEGINS, at + 1)
        self._add(*_apart(block[begin:]))

    def _add(self, windows: tuple[list[float], list[float]], rest: bytes) -> None:
        """Windows, and lines of all kinds, of one run."""
        self.windows.extend(*windows)
        for raw in rest.split(b"\n"):
            at = raw.find(_MARK)
            if at >= 0 and not _IDLE.match(raw, at):
                self._event(raw[at + len(_MARK) :])

    def _event(self, text: bytes) -> None:
        try:
            entry = _json.decode(text)
            about = entry.metadata
            event = mllog.Event(entry.key, entry.time_ms / 1000, entry.value, about if isinstance(about, dict) else {})
            self.log.add(event)
        except (ValueError, TypeError, RecursionError, OverflowError):
            return

    def _end(self) -> None:
        log, windows, line = self.log, self.windows, self.begun
        self._reset()
        measured = mllog.measure(log)
        if measured is not None:
            more = {"hosts": measured.hosts, "flags": measured.flags, "first_step_at": measured.first_step_at}
            run = log.last(LogKey.RUN)
            about = run.value if run else {}
            self._told(line, windows, about, accuracy=measured.mean_auc, **more, **measured.figures())
            return
        run, stop = log.last(LogKey.RUN), log.last(LogKey.RUN_STOP)
        about = run.value if run and isinstance(run.value, dict) else {}
        status = stop.metadata.get("status") if stop else None
        why = f"the run ended as {status}" if status else "the log ends before run_stop"
        if windows.steady() is None:
            self.findings.problem(line, f"{why}, without a timed window")
            return
        self.findings.problem(line, f"{why}: its timed windows are taken")
        hosts = tuple(map(str, about["hosts"])) if isinstance(about.get("hosts"), list) else ()
        self._told(
            line, windows, about, hosts=hosts, flags=(FLAG_UNFINISHED,), precision=str(about.get("precision") or "")
        )

    def _told(self, line: int, windows: _Windows, about: dict[str, Any], **more: Any) -> None:
        found = windows.steady()
        assert found is not None
        batch = _whole(about.get("global_batch"))
        total = batch / found.step_ms * 1000 if batch else None
        rate = SteadyRate(total, None, found.windows, 0, found.outliers, 1, _RULE) if total else None
        self.tell(
            line,
            "tracked_stats of timed windows",
            total=total,
            gpus=_whole(about.get("gpus")),
            nodes=_whole(about.get("nodes")),
            local_batch=_whole(about.get("local_batch")),
            global_batch=batch,
            step_ms=found.step_ms,
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
            self.findings.problem(0, "no hpcjobs_run line: it is not known what ran")


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
