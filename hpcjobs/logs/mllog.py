"""hpcjobs' own train.log: MLPerf `:::MLLOG` lines become a measurement and a progress."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hpcjobs.contract import LogKey
from hpcjobs.records import FLAG_IMPRECISE, FLAG_UNSETTLED, Measurement, Progress

_PREFIX = ":::MLLOG "


@dataclasses.dataclass(frozen=True)
class Event:
    """One log line. `at` is seconds since the epoch."""

    key: str
    at: float
    value: Any
    metadata: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class TrainLog:
    """The events of one train.log, in order."""

    events: tuple[Event, ...]

    def last(self, key: str) -> Event | None:
        """The last event of that key, or None."""
        return next((event for event in reversed(self.events) if event.key == key), None)

    def all(self, key: str) -> list[Event]:
        """All events of that key."""
        return [event for event in self.events if event.key == key]


def events(path: Path) -> Iterator[Event]:
    """Whole lines of a log, one at a time; a damaged or foreign line is passed over.

    A file that is missing or cannot be read has none.
    """
    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                at = line.find(_PREFIX)
                if at < 0:
                    continue
                try:
                    entry = json.loads(line[at + len(_PREFIX) :])
                    yield Event(entry["key"], entry["time_ms"] / 1000, entry["value"], entry.get("metadata") or {})
                except (ValueError, KeyError, TypeError):
                    continue
    except OSError:
        return


def read(path: Path) -> TrainLog:
    """Read a whole train.log."""
    return TrainLog(tuple(events(path)))


def progress(log: TrainLog) -> Progress:
    """Steps done, steps asked for, and images/s of the newest window."""
    run, window = log.last(LogKey.RUN), log.last(LogKey.WINDOW)
    steps = run.value.get("steps") if run and isinstance(run.value, dict) else None
    if window is None:
        return Progress(0, steps)
    return Progress(window.metadata.get("step", 0), steps, _number(window, "throughput"))


def _number(event: Event, name: str) -> float | None:
    value = event.value.get(name) if isinstance(event.value, dict) else None
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) and value > 0 else None


def measure(log: TrainLog) -> Measurement | None:
    """The measurement of a run that came to its end, or None.

    Steady state: all windows not marked as warm-up; images/s is their images over their time, so a
    longer window weighs more. A run that met its target AUC, or did all its epochs, gives its measured
    time to train; one that was cut short, or that an earlier attempt began, a derived one: epochs x epoch_s.
    """
    stop, start, run = log.last(LogKey.RUN_STOP), log.last(LogKey.RUN_START), log.last(LogKey.RUN)
    if stop is None or start is None or run is None or stop.metadata.get("status") != "success":
        return None
    try:
        about = dict(run.value)
        gpus, local_batch = int(about["gpus"]), int(about["local_batch"])
        global_batch = int(about["global_batch"])
        steps = [
            (event.metadata["steps"], _number(event, "step_ms"))
            for event in log.all(LogKey.WINDOW)
            if not event.metadata["warmup"]
        ]
    except (KeyError, TypeError, ValueError):
        return None
    timed = [(count, step_ms) for count, step_ms in steps if step_ms is not None and count > 0]
    if not timed:
        return None
    step_ms = sum(count * ms for count, ms in timed) / sum(count for count, _ in timed)
    images_per_sec = global_batch / step_ms * 1000
    epoch_s, total_s, kind = _time_to_train(log, about, images_per_sec, stop.at - start.at)
    # The test split is scored after run_stop.
    before = TrainLog(log.events[: log.events.index(stop)])
    accuracy = before.last(LogKey.EVAL_ACCURACY)
    first = log.last(LogKey.FIRST_STEP)
    evals = _intervals(before, LogKey.EVAL_START, LogKey.EVAL_STOP)
    return Measurement(
        gpus=gpus,
        local_batch=local_batch,
        global_batch=global_batch,
        images_per_sec=images_per_sec,
        step_ms=step_ms,
        windows=len(timed),
        epoch_s=epoch_s,
        time_to_train_s=total_s,
        time_to_train_kind=kind,
        first_step_at=first.at if first else None,
        eval_s=statistics.fmean(evals) if evals else None,
        mean_auc=float(accuracy.value) if accuracy and isinstance(accuracy.value, (int, float)) else None,
        hosts=tuple(str(host) for host in about.get("hosts", ())),
        flags=tuple(_flags(log)),
        **_parts(log),
    )


def _parts(log: TrainLog) -> dict[str, float]:
    """What the control phases of a benchmark found. A difference below 0 is one that chance hides."""
    control = log.last(LogKey.CONTROL)
    if control is None or not isinstance(control.value, dict):
        return {}
    names = ("input_wait_ms", "allreduce_ms", "skew_ms")
    found = {name: control.value.get(name) for name in names}
    return {name: float(ms) for name, ms in found.items() if isinstance(ms, (int, float)) and math.isfinite(ms)}


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
    resumed = log.last(LogKey.RESUMED)
    reached = log.last(LogKey.RUN_STOP).metadata.get("reached")  # type: ignore[union-attr]  # measure() has seen it
    if resumed or (about.get("cut_short") and not reached):
        return images / rate, epochs * images / rate, "derived_fixed_epochs"
    times = _intervals(log, LogKey.EPOCH_START, LogKey.EPOCH_STOP)
    kind = "measured_to_target" if reached else "measured_fixed_epochs"
    # The first epoch is cold: it compiles and fills caches.
    return (statistics.fmean(times[1:] or times) if times else None), whole_s, kind


def _intervals(log: TrainLog, start: str, stop: str) -> list[float]:
    """Seconds from each `start` to the `stop` that follows it."""
    lengths, begun = [], None
    for event in log.events:
        if event.key == start:
            begun = event.at
        elif event.key == stop and begun is not None:
            lengths.append(event.at - begun)
            begun = None
    return lengths


def window_times(log: TrainLog) -> list[tuple[float, float]]:
    """Begin and end, in seconds since the epoch, of each window of steps that is no warm-up. In order."""
    times = []
    for event in log.all(LogKey.WINDOW):
        steps, step_ms = event.metadata.get("steps"), _number(event, "step_ms")
        if isinstance(steps, int) and step_ms is not None and not event.metadata.get("warmup"):
            times.append((event.at - steps * step_ms / 1000, event.at))
    return times
