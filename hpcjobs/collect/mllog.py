"""hpcjobs' own train.log: MLPerf `:::MLLOG` lines become a measurement and a progress."""

from __future__ import annotations

import dataclasses
import json
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
from hpcjobs.collect import control_phases
from hpcjobs.collect.steady import Windows

_PREFIX = b":::MLLOG "
# No line of ours is longer: of a file without line ends no more than this is held at a time.
_LONGEST = 1 << 20
# Windows that follow each other this closely, in seconds, are one stretch of time: stamps are whole milliseconds.
_ABUT_S = 0.005


@dataclasses.dataclass(frozen=True)
class Event:
    """One log line. `at` is seconds since the epoch."""

    key: str
    at: float
    value: Any
    metadata: dict[str, Any]


class TrainLog:
    """What one pass over the events of a train.log keeps: little, however long the log."""

    def __init__(self, events: Iterable[Event] = ()):
        self._last: dict[str, Event] = {}
        self._begun: dict[str, float] = {}
        self.windows = Windows()
        # Begin and end, in seconds since the epoch, of the stretches of timed windows.
        self.timed: list[tuple[float, float]] = []
        # Seconds of each, up to run_stop: the test split is scored after it.
        self.epochs: list[float] = []
        self.evals: list[float] = []
        for event in events:
            self.add(event)

    def last(self, key: str) -> Event | None:
        """The last event of that key, or None. Of a validation's accuracy: the last before run_stop."""
        return self._last.get(key)

    def add(self, event: Event) -> None:
        """The next line of the log."""
        stopped = LogKey.RUN_STOP in self._last
        if event.key == LogKey.WINDOW:
            self._time(event)
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

    def _time(self, window: Event) -> None:
        steps, step_ms = window.metadata.get("steps"), _number(window, "step_ms")
        if not isinstance(steps, int) or steps <= 0 or step_ms is None or window.metadata.get("warmup") is not False:
            return
        self.windows.add(steps, step_ms)
        begin = window.at - steps * step_ms / 1000
        if self.timed and begin - self.timed[-1][1] <= _ABUT_S:
            self.timed[-1] = self.timed[-1][0], window.at
        else:
            self.timed.append((begin, window.at))


def events(path: Path) -> Iterator[Event]:
    """Whole lines of a log, one at a time; a damaged or foreign line is passed over.

    A file that is missing or cannot be read has none.
    """
    try:
        with open_plain(path) as file:
            while line := file.readline(_LONGEST):
                at = line.find(_PREFIX)
                if at < 0:
                    continue
                try:
                    entry = json.loads(line[at + len(_PREFIX) :].decode("utf-8", "replace"))
                    about = entry.get("metadata")
                    metadata = about if isinstance(about, dict) else {}
                    yield Event(str(entry["key"]), entry["time_ms"] / 1000, entry["value"], metadata)
                except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                    continue
    except OSError:
        return


def read(path: Path) -> TrainLog:
    """Read a whole train.log, once."""
    return TrainLog(events(path))


def progress(log: TrainLog) -> Progress:
    """Steps done, steps asked for, images/s of the newest window, and the epoch it is in."""
    run, window = log.last(LogKey.RUN), log.last(LogKey.WINDOW)
    about = run.value if run and isinstance(run.value, dict) else {}
    found = Progress(0, about.get("steps"))
    if window is not None:
        found = Progress(window.metadata.get("step", 0), about.get("steps"), _number(window, "throughput"))
    epoch = log.last(LogKey.EPOCH_START)
    # Of a run that its steps cut short, epochs would be no measure.
    if epoch is not None and not about.get("cut_short"):
        found = dataclasses.replace(found, epoch=epoch.metadata.get("epoch_num"), epochs=about.get("epochs"))
    return found


def _number(event: Event, name: str) -> float | None:
    value = event.value.get(name) if isinstance(event.value, dict) else None
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) and value > 0 else None


def measure(log: TrainLog) -> Measurement | None:
    """The measurement of a run that came to its end, or None.

    Steady state: all windows that the trainer did not mark as warm-up (contract.warmup_steps has its rule);
    images/s is their images over their time, outliers kept, so a longer window weighs more. A run that met its
    target AUC, or did all its epochs, gives its measured time to train; one that was cut short, or that an
    earlier attempt began, a derived one: epochs x epoch_s.
    """
    stop, start, run = log.last(LogKey.RUN_STOP), log.last(LogKey.RUN_START), log.last(LogKey.RUN)
    steady = log.windows.steady()
    if stop is None or start is None or run is None or stop.metadata.get("status") != "success" or steady is None:
        return None
    try:
        about = dict(run.value)
        gpus, local_batch = int(about["gpus"]), int(about["local_batch"])
        global_batch = int(about["global_batch"])
    except (KeyError, TypeError, ValueError):
        return None
    if min(gpus, local_batch, global_batch) < 1:
        return None
    images_per_sec = global_batch / steady.step_ms * 1000
    epoch_s, total_s, kind = _time_to_train(log, about, images_per_sec, stop.at - start.at)
    accuracy, first, taken_apart = (log.last(key) for key in (LogKey.EVAL_ACCURACY, LogKey.FIRST_STEP, LogKey.CONTROL))
    auc = float(accuracy.value) if accuracy and isinstance(accuracy.value, (int, float)) else None
    gradient = about.get("gradient_bytes")
    return Measurement(
        gpus=gpus,
        local_batch=local_batch,
        global_batch=global_batch,
        images_per_sec=images_per_sec,
        step_ms=steady.step_ms,
        windows=steady.windows,
        outlier_windows=steady.outliers,
        epoch_s=epoch_s,
        time_to_train_s=total_s,
        time_to_train_kind=kind,
        first_step_at=first.at if first else None,
        eval_s=statistics.fmean(log.evals) if log.evals else None,
        mean_auc=auc,
        auc_split=str(accuracy.metadata.get("split", "val")) if accuracy and auc is not None else "",
        gradient_bytes=float(gradient) if isinstance(gradient, (int, float)) else None,
        precision=str(about.get("precision") or ""),
        hosts=tuple(map(str, about["hosts"])) if isinstance(about.get("hosts"), list) else (),
        flags=tuple(_flags(log)),
        **control_phases.parts(taken_apart.value if taken_apart else None),
    )


def _flags(log: TrainLog) -> Iterator[str]:
    """What a benchmark says of its own figures."""
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
    reached = log.last(LogKey.RUN_STOP).metadata.get("reached")  # type: ignore[union-attr]  # measure() has seen it
    if log.last(LogKey.RESUMED) or (about.get("cut_short") and not reached):
        return images / rate, epochs * images / rate, "derived_fixed_epochs"
    kind = "measured_to_target" if reached else "measured_fixed_epochs"
    # The first epoch is cold: it compiles and fills caches.
    return (statistics.fmean(log.epochs[1:] or log.epochs) if log.epochs else None), whole_s, kind


def window_times(log: TrainLog) -> list[tuple[float, float]]:
    """Begin and end, in seconds since the epoch, of each stretch of windows that are no warm-up. In order."""
    return log.timed
