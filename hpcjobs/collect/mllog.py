"""Reads hpcjobs' own train.log: its MLPerf lines become a Measurement and a Progress."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hpcjobs.base.columns import FLAG_IMPRECISE, FLAG_UNSETTLED
from hpcjobs.base.contract import LogKey
from hpcjobs.base.files import open_plain
from hpcjobs.base.metrics import Measurement
from hpcjobs.base.records import Progress
from hpcjobs.chexnet.classes import auc_name
from hpcjobs.collect import control_phases, mlperf_lines
from hpcjobs.collect.mlperf_lines import Event
from hpcjobs.collect.steady import Windows

# Longer than any line of the trainer. A file without line ends is read in pieces of this many bytes.
_LONGEST = 1 << 20
# Windows less than this many seconds apart are one stretch of time: time stamps are whole milliseconds.
_ABUT_S = 0.005
# Outliers are counted among up to this many windows before neighbours are joined.
_WINDOWS_KEPT = 1 << 16
# More steps, or ms, than any window has.
MOST = 1e15
# What the batches and rates of such a log count.
UNIT = "images"


class TrainLog:
    """What is kept of the events of a train.log after one pass: little, however long the log is."""

    def __init__(self, events: Iterable[Event] = ()):
        self._last: dict[str, Event] = {}
        self._begun: dict[str, float] = {}
        # Steps, and the ms that they took, of each timed window after the warm-up.
        self.windows = Windows(_WINDOWS_KEPT)
        # Begin and end, in seconds since the epoch, of each stretch of timed windows.
        self.timed: list[tuple[float, float]] = []
        # Seconds of each epoch and each evaluation before run_stop; the test split is scored after it.
        self.epochs: list[float] = []
        self.evals: list[float] = []
        for event in events:
            self.add(event)

    def last(self, key: str) -> Event | None:
        """The last event of that key, or None. Of eval_accuracy it is the last one before run_stop."""
        return self._last.get(key)

    def add(self, event: Event) -> None:
        """Take the event of the log's next line."""
        stopped = LogKey.RUN_STOP in self._last
        if event.key == LogKey.WINDOW:
            self._window(event)
        elif event.key in (LogKey.EPOCH_START, LogKey.EVAL_START):
            self._begun[event.key] = event.at
        elif event.key == LogKey.EPOCH_STOP:
            self._end(self.epochs, LogKey.EPOCH_START, event.at)
        elif event.key == LogKey.EVAL_STOP and not stopped:
            self._end(self.evals, LogKey.EVAL_START, event.at)
        if not (event.key == LogKey.EVAL_ACCURACY and stopped):
            self._last[event.key] = event

    def _end(self, lengths: list[float], start: str, at: float) -> None:
        begun = self._begun.pop(start, None)
        if begun is not None:
            lengths.append(at - begun)

    def _window(self, window: Event) -> None:
        steps, step_ms = window.metadata.get("steps"), _number(window, "step_ms")
        if not isinstance(steps, int) or not 0 < steps < MOST or step_ms is None or not step_ms < MOST:
            return
        if window.metadata.get("warmup") is not False:
            return
        self.windows.add(steps, steps * step_ms)
        begin = window.at - steps * step_ms / 1000
        if self.timed and begin - self.timed[-1][1] <= _ABUT_S:
            self.timed[-1] = self.timed[-1][0], window.at
        else:
            self.timed.append((begin, window.at))


def events(path: Path) -> Iterator[Event]:
    """The events of a log's whole lines, one at a time. A damaged line, or one of another program, is skipped.

    A file that is missing or cannot be read has none.
    """
    try:
        with open_plain(path) as file:
            while line := file.readline(_LONGEST):
                if mlperf_lines.MARK in line:
                    event = mlperf_lines.event(line.decode("utf-8", "replace"))
                    if event is not None:
                        yield event
    except OSError:
        return


def read(path: Path) -> TrainLog:
    """Read a whole train.log, once."""
    return TrainLog(events(path))


def progress(log: TrainLog) -> Progress:
    """Steps done, steps planned, images/s of the newest window, and the epoch that the run is in."""
    run, window = log.last(LogKey.RUN), log.last(LogKey.WINDOW)
    about = run.value if run and isinstance(run.value, dict) else {}
    found = Progress(0, about.get("steps"), unit=UNIT)
    if window is not None:
        found = Progress(window.metadata.get("step", 0), about.get("steps"), _number(window, "throughput"), unit=UNIT)
    epoch = log.last(LogKey.EPOCH_START)
    # train.steps ends a run that is cut short, so its epochs do not measure its progress.
    if epoch is not None and not about.get("cut_short"):
        found = dataclasses.replace(found, epoch=epoch.metadata.get("epoch_num"), epochs=about.get("epochs"))
    return found


def _number(event: Event, name: str) -> float | None:
    """A figure of an event's value, or None if it is missing, not finite or not above 0."""
    number = _finite(event.value.get(name)) if isinstance(event.value, dict) else None
    return number if number is not None and number > 0 else None


def _finite(value: Any) -> float | None:
    try:
        return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
    except OverflowError:  # an int that no float can hold
        return None


def _positive(value: Any) -> float | None:
    number = _finite(value)
    return number if number is not None and number > 0 else None


def measure(log: TrainLog) -> Measurement | None:
    """The measurement of a run that ended with success, or None.

    The steady state is all windows that the trainer does not mark as warm-up (contract.warmup_steps has the rule).
    images/s is their images over their time, outliers included, so a longer window weighs more. The time to train
    is measured if the run met its target AUC or did all its epochs. It is derived, epochs x epoch_s, if the run was
    cut short or an earlier attempt began it.
    """
    stop, start, run = log.last(LogKey.RUN_STOP), log.last(LogKey.RUN_START), log.last(LogKey.RUN)
    steady = log.windows.steady_step()
    if stop is None or start is None or run is None or stop.metadata.get("status") != "success" or steady is None:
        return None
    try:
        about = dict(run.value)
        gpus, local_batch = int(about["gpus"]), int(about["local_batch"])
        global_batch = int(about["global_batch"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    if min(gpus, local_batch, global_batch) < 1:
        return None
    throughput = global_batch / steady.step_ms * 1000
    epoch_s, total_s, kind = _time_to_train(log, about, throughput, stop.at - start.at)
    accuracy, first, taken_apart = (log.last(key) for key in (LogKey.EVAL_ACCURACY, LogKey.FIRST_STEP, LogKey.CONTROL))
    auc = _finite(accuracy.value) if accuracy else None
    return Measurement(
        gpus=gpus,
        local_batch=local_batch,
        global_batch=global_batch,
        throughput=throughput,
        step_ms=steady.step_ms,
        windows=steady.windows,
        outlier_windows=steady.outliers,
        epoch_s=epoch_s,
        time_to_train_s=total_s,
        time_to_train_kind=kind,
        first_step_at=first.at if first else None,
        eval_s=statistics.fmean(log.evals) if log.evals else None,
        score=auc,
        score_name=auc_name(str(accuracy.metadata.get("split", "val"))) if accuracy and auc is not None else "",
        unit=UNIT,
        gradient_bytes=_finite(about.get("gradient_bytes")),
        precision=str(about.get("precision") or ""),
        flops_per_unit=_positive(about.get("flops_per_unit")),
        flops_precision=str(about.get("flops_precision") or ""),
        hosts=tuple(map(str, about["hosts"])) if isinstance(about.get("hosts"), list) else (),
        flags=tuple(_flags(log)),
        **control_phases.parts(taken_apart.value if taken_apart else None),
    )


def _flags(log: TrainLog) -> Iterator[str]:
    """The flags that a benchmark raises on its own figures."""
    for key, good, flag in (
        (LogKey.WARMUP, "settled", FLAG_UNSETTLED),
        (LogKey.PRECISION, "reached", FLAG_IMPRECISE),
    ):
        event = log.last(key)
        if event is not None and isinstance(event.value, dict) and event.value.get(good) is False:
            yield flag


def _time_to_train(
    log: TrainLog, about: dict[str, Any], rate: float, whole_s: float
) -> tuple[float | None, float | None, str]:
    epochs, images = about.get("epochs"), about.get("train_images")
    if not isinstance(epochs, int) or not isinstance(images, int):
        return None, None, ""
    reached = log.last(LogKey.RUN_STOP).metadata.get("reached")  # type: ignore[union-attr]  # measure() checks it
    if log.last(LogKey.RESUMED) or (about.get("cut_short") and not reached):
        return images / rate, epochs * images / rate, "derived_fixed_epochs"
    kind = "measured_to_target" if reached else "measured_fixed_epochs"
    # The first epoch also compiles and fills caches: it is left out if there are others.
    return (statistics.fmean(log.epochs[1:] or log.epochs) if log.epochs else None), whole_s, kind


def window_times(log: TrainLog) -> list[tuple[float, float]]:
    """Begin and end, in seconds since the epoch, of each stretch of windows after the warm-up, in order of time."""
    return log.timed
