"""Reads hpcjobs' own train.log: its MLPerf lines become a Measurement and a Progress."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hpcjobs.base.columns import FLAG_ALONE, FLAG_IMPRECISE, FLAG_LOADER, FLAG_NO_PARTS, FLAG_UNFINISHED, FLAG_UNSETTLED
from hpcjobs.base.contract import LogKey
from hpcjobs.base.files import is_absent, open_plain, read_json
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
# What the batches and rates of a log count that does not say it: that of the built-in trainer.
UNIT = "images"


class TrainLog:
    """What is kept of the events of a train.log after one pass: little, however long the log is."""

    def __init__(self, events: Iterable[Event] = ()):
        self._last: dict[str, Event] = {}
        self._begun: dict[str, float] = {}
        self._opened = 0
        # Steps, and the ms that they took, of each timed window after the warm-up.
        self.windows = Windows(_WINDOWS_KEPT)
        # Units of the timed windows that say their throughput, and the ms of these windows.
        self.units = self.units_ms = 0.0
        # Begin and end, in seconds since the epoch, of each stretch of timed windows.
        self.timed: list[tuple[float, float]] = []
        # Seconds of each epoch and each evaluation before run_stop; the test split is scored after it.
        self.epochs: list[float] = []
        self.evals: list[float] = []
        # Of the timed windows whose line says the time in the loader: their steps, and the ms of all of these.
        self._loader_steps, self._loader_ms = 0, 0.0
        # ms per step in the loader, of each rank whose meter-rNNN.json says it.
        self.loader_of_ranks: list[float] = []
        for event in events:
            self.add(event)

    @property
    def about(self) -> dict[str, Any]:
        """The value of hpcjobs_run, which says what ran; {} if it is missing."""
        run = self.last(LogKey.RUN)
        return run.value if run and isinstance(run.value, dict) else {}

    @property
    def unit(self) -> str:
        """What batches and rates count."""
        return str(self.about.get("unit") or UNIT)

    @property
    def ended(self) -> bool:
        """Whether the run says that it ended with success."""
        stop = self.last(LogKey.RUN_STOP)
        return stop is not None and stop.metadata.get("status") == "success"

    def last(self, key: str) -> Event | None:
        """The last event of that key, or None. Of eval_accuracy it is the last one before run_stop."""
        return self._last.get(key)

    def begins_another(self, event: Event) -> bool:
        """Whether the event of the log's next line is the first of another run.

        A meter writes hpcjobs_run anew when it knows more of the same run.
        """
        if event.key != LogKey.RUN or LogKey.RUN not in self._last:
            return False
        restates = isinstance(event.value, dict) and "meter" in event.value and self._opened < 2
        return not restates or LogKey.RUN_STOP in self._last

    @property
    def loader_ms(self) -> float | None:
        """ms per step in the loader, of the slowest rank that is known; rank 0's is that of its timed windows."""
        own = [self._loader_ms / self._loader_steps] if self._loader_steps else []
        return max(own + self.loader_of_ranks, default=None)

    def add(self, event: Event) -> None:
        """Take the event of the log's next line."""
        stopped = LogKey.RUN_STOP in self._last
        self._opened += event.key == LogKey.BENCHMARK
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
        rate = _number(window, "throughput")
        if rate is not None:
            self.units += rate * steps * step_ms / 1000
            self.units_ms += steps * step_ms
        waited = _finite(window.value.get("input_wait_ms"))
        if waited is not None and 0 <= waited < MOST:
            self._loader_steps += steps
            self._loader_ms += steps * waited
        begin = window.at - steps * step_ms / 1000
        if self.timed and begin - self.timed[-1][1] <= _ABUT_S:
            self.timed[-1] = self.timed[-1][0], window.at
        else:
            self.timed.append((begin, window.at))


def events(path: Path) -> Iterator[Event]:
    """The events of a log's whole lines, one at a time. A damaged line, or one of another program, is skipped.

    A file that is missing has none. Raises OSError if it is there and cannot be read now.
    """
    try:
        with open_plain(path) as file:
            while line := file.readline(_LONGEST):
                if mlperf_lines.MARK in line:
                    event = mlperf_lines.event(line.decode("utf-8", "replace"))
                    if event is not None:
                        yield event
    except OSError as error:
        if not is_absent(error):
            raise


def read(path: Path) -> TrainLog:
    """Read a whole train.log, once, with what each rank's meter left beside it."""
    log = TrainLog(events(path))
    add_notes(log, path.parent)
    return log


def add_notes(log: TrainLog, folder: Path) -> None:
    """Add what the meters of the run's ranks left in an attempt's folder, meter-rNNN.json."""
    ranks = _whole(log.about.get("gpus")) or 0
    for note in sorted(folder.glob("meter-r*.json")):
        said = read_json(note) or {}
        rank, waited = said.get("rank"), _finite(said.get("loader_ms"))
        # Beside those there may be ranks of an earlier, larger start.
        if isinstance(rank, int) and rank < ranks and waited is not None and waited >= 0:
            log.loader_of_ranks.append(waited)


def progress(log: TrainLog) -> Progress:
    """Steps done, steps planned, units/s of the newest window, and the epoch that the run is in."""
    window, about = log.last(LogKey.WINDOW), log.about
    found = Progress(0, about.get("steps"), unit=log.unit)
    if window is not None:
        found = Progress(
            window.metadata.get("step", 0), about.get("steps"), _number(window, "throughput"), unit=log.unit
        )
    epoch = log.last(LogKey.EPOCH_START)
    # train.steps ends a run that is cut short, so its epochs do not measure its progress.
    if epoch is not None and not about.get("cut_short"):
        found = dataclasses.replace(found, epoch=epoch.metadata.get("epoch_num"), epochs=about.get("epochs"))
    return found


def _number(event: Event, name: str) -> float | None:
    """A figure of an event's value, or None if it is missing, not finite or not above 0."""
    return _positive(event.value.get(name)) if isinstance(event.value, dict) else None


def _finite(value: Any) -> float | None:
    try:
        return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
    except OverflowError:  # an int that no float can hold
        return None


def _positive(value: Any) -> float | None:
    number = _finite(value)
    return number if number is not None and number > 0 else None


def measure(log: TrainLog, step_units: int | None = None) -> Measurement | None:
    """The measurement of a run that ended with success, or None.

    `step_units` is how many units all ranks together do in a step, if the log itself does not say it.

    The steady state is all windows that the trainer does not mark as warm-up (contract.warmup_steps has the rule).
    The rate is their work over their time, outliers included, so a longer window weighs more. The time to train
    is measured if the run met its target AUC or did all its epochs. It is derived, epochs x epoch_s, if the run was
    cut short or an earlier attempt began it.
    """
    return _measurement(log, step_units) if log.ended and log.last(LogKey.RUN_START) else None


def measure_unfinished(log: TrainLog, step_units: int | None = None) -> Measurement | None:
    """The same of a log that ends before its run does: its timed windows count, and a flag says so."""
    found = _measurement(log, step_units)
    return None if found is None else dataclasses.replace(found, flags=(*found.flags, FLAG_UNFINISHED))


def _measurement(log: TrainLog, step_units: int | None) -> Measurement | None:
    steady, about = log.windows.steady_step(), log.about
    gpus, local_batch, global_batch = (_whole(about.get(name)) for name in ("gpus", "local_batch", "global_batch"))
    if steady is None or gpus is None or (not about.get("unit") and None in (local_batch, global_batch)):
        return None
    throughput = _rate(log, steady.step_ms, global_batch or step_units)
    if throughput is None:
        return None
    epoch_s, total_s, kind = _time_to_train(log, about, throughput)
    accuracy, first, taken_apart = (log.last(key) for key in (LogKey.EVAL_ACCURACY, LogKey.FIRST_STEP, LogKey.CONTROL))
    score = _finite(accuracy.value) if accuracy else None
    parts = control_phases.parts(taken_apart.value if taken_apart else None)
    flags = [*_flags(log), *control_phases.flags(taken_apart.value if taken_apart else None)]
    # Of the repeats of a benchmark some have control blocks: two ways to know one column must not mix.
    if taken_apart is None and log.loader_ms is not None and about.get("mode") != "benchmark":
        parts["input_wait_ms"] = log.loader_ms
        flags.append(FLAG_LOADER)
    if about.get("exchanges") is False:
        flags.append(FLAG_ALONE)
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
        score=score,
        score_name=_score_name(accuracy) if accuracy and score is not None else "",
        unit=log.unit,
        gradient_bytes=_finite(about.get("gradient_bytes")),
        precision=str(about.get("precision") or ""),
        flops_per_unit=_positive(about.get("flops_per_unit")),
        flops_precision=str(about.get("flops_precision") or ""),
        hosts=tuple(map(str, about["hosts"])) if isinstance(about.get("hosts"), list) else (),
        flags=tuple(flags),
        **parts,
    )


def _rate(log: TrainLog, step_ms: float, global_batch: int | None) -> float | None:
    """Units per second over all ranks, or None if the log does not say how many a step has.

    A log that names its unit says the units of each window, which need not be those of a batch: tokens, or a batch that
    was not told.
    """
    if log.about.get("unit") and log.units_ms:
        return log.units / log.units_ms * 1000
    return global_batch / step_ms * 1000 if global_batch else None


def _score_name(accuracy: Event) -> str:
    """What is scored: as a meter names it, or else the mean AUC of the built-in trainer."""
    name = accuracy.metadata.get("name")
    return str(name) if name else auc_name(str(accuracy.metadata.get("split", "val")))


def _whole(value: Any) -> int | None:
    """A whole number above 0, or None."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _flags(log: TrainLog) -> Iterator[str]:
    """The flags that a benchmark raises on its own figures."""
    for key, good, flag in (
        (LogKey.WARMUP, "settled", FLAG_UNSETTLED),
        (LogKey.PRECISION, "reached", FLAG_IMPRECISE),
    ):
        event = log.last(key)
        if event is not None and isinstance(event.value, dict) and event.value.get(good) is False:
            yield flag
    stop = log.last(LogKey.RUN_STOP)
    if stop is not None and stop.metadata.get("parts_missing") is True:
        yield FLAG_NO_PARTS


def _time_to_train(log: TrainLog, about: dict[str, Any], rate: float) -> tuple[float | None, float | None, str]:
    epochs, images = about.get("epochs"), about.get("train_images")
    start, stop = log.last(LogKey.RUN_START), log.last(LogKey.RUN_STOP)
    if not isinstance(epochs, int) or not isinstance(images, int) or not log.ended or start is None or stop is None:
        return None, None, ""
    reached, whole_s = stop.metadata.get("reached"), stop.at - start.at
    if log.last(LogKey.RESUMED) or (about.get("cut_short") and not reached):
        return images / rate, epochs * images / rate, "derived_fixed_epochs"
    kind = "measured_to_target" if reached else "measured_fixed_epochs"
    # The first epoch also compiles and fills caches: it is left out if there are others.
    return (statistics.fmean(log.epochs[1:] or log.epochs) if log.epochs else None), whole_s, kind


def window_times(log: TrainLog) -> list[tuple[float, float]]:
    """Begin and end, in seconds since the epoch, of each stretch of windows after the warm-up, in order of time."""
    return log.timed
