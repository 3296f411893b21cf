"""Reads what a meter in the loop of a command wrote, train.log, into the run's measurement and its progress."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

from hpcjobs.base.contract import LogKey
from hpcjobs.base.files import open_plain
from hpcjobs.base.metrics import Measurement
from hpcjobs.base.records import Progress
from hpcjobs.collect import mllog, mlperf_lines
from hpcjobs.collect.claims import Sizes
from hpcjobs.collect.command_logs import CommandLog
from hpcjobs.collect.mlperf_lines import Event
from hpcjobs.collect.pattern_log import counts_batch

# The beginning of a log, which says what runs, and its end, which says how far it is. In bytes.
_HEAD = 64 * 1024
_TAIL = 256 * 1024
NO_WINDOW = "holds no timed window after the warm-up"
NO_BATCH = "holds timed steps, and the meter saw no batch: give batch.local, the samples of a step on each rank, or "
NO_BATCH += "measure.unit=steps"
# Rates of one run that differ by more, as a fraction of the meter's, are not of the same.
_DIFFERS = 0.25


def read_meter_log(path: Path, known: Sizes, unit: str = "") -> CommandLog:
    """Read the whole log of a run that ended with success, in flat memory.

    `known` is the run's own size: a log that contradicts it gives no measurement. `unit` is what the run counts if the
    log does not say it. Of several trainings in the log, the last counts if the others did not end.
    """
    log, ended = mllog.TrainLog(), 0
    for event in mllog.events(path):
        if log.begins_another(event):
            ended += log.ended
            log = mllog.TrainLog()
        log.add(event)
    ended += log.ended
    mllog.add_notes(log, path.parent)
    if ended > 1:
        several = f"{path.name} holds {ended} trainings that ended, and which one is the run's is not known"
        return CommandLog(None, (), f"{several}: train once in a run", contradicted=True)
    one = mllog.measure(log) or mllog.measure_unfinished(log) or _without_batches(log, known.whole(), unit)
    if one is None:
        return CommandLog(None, (), f"{path.name} {NO_BATCH if log.windows.steady_step() else NO_WINDOW}")
    if why := _contradiction(log, one, known.whole()):
        return CommandLog(None, (), f"{path.name}: {why}", contradicted=True)
    if unit and not log.about.get("unit"):
        one = dataclasses.replace(one, unit=unit)
    if log.about.get("local_batch_varies") and not counts_batch(one.unit):
        # Such as tokens of texts of any length: no number stands for a step.
        one = dataclasses.replace(one, local_batch=None, global_batch=None)
    return CommandLog(one, (), "", timed=tuple(log.timed))


def _without_batches(log: mllog.TrainLog, known: Sizes, unit: str) -> Measurement | None:
    """The measurement of steps whose batches the meter did not see, such as those of a script that has no loader.

    The run says how much a step does, or it counts steps.
    """
    step_units = 1 if unit == "steps" else known.global_batch
    if not step_units:
        return None
    one = mllog.measure(log, step_units) or mllog.measure_unfinished(log, step_units)
    if one is None or unit == "steps":
        return None if one is None else dataclasses.replace(one, unit=unit)
    return dataclasses.replace(one, local_batch=known.local_batch, global_batch=known.global_batch)


def _contradiction(log: mllog.TrainLog, one: Measurement, known: Sizes) -> str:
    """How the log contradicts what is known of the run, or "".

    A step of several batches, whose gradients are accumulated, has that many times the run's batch.
    """
    if known.gpus and one.gpus != known.gpus:
        return f"it says {one.gpus} GPUs (ranks), the run has {known.gpus}"
    if not counts_batch(one.unit):
        return ""
    batches = log.about.get("accumulation")
    allowed = {1, batches if isinstance(batches, int) else 1}
    for what, said, right in (
        ("as batch of one GPU", one.local_batch, known.local_batch),
        ("as global batch", one.global_batch, known.global_batch),
    ):
        if said and right and said not in {right * times for times in allowed}:
            return f"it says {said} {what}, the run has {right}"
    return ""


def rates_differ(metered: Measurement, printed: Measurement | None) -> bool:
    """Whether the rate that a command prints contradicts the meter's. Rates of different units do not."""
    if printed is None or printed.unit != metered.unit:
        return False
    return abs(printed.throughput / metered.throughput - 1) > _DIFFERS


def meter_progress(path: Path, unit: str = "") -> Progress | None:
    """How far a run has come, by the first and the last lines of its log; None if the log does not say what runs."""
    try:
        with open_plain(path) as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(_HEAD)
            begin = max(len(head), size - _TAIL)
            file.seek(begin)
            tail = file.read(_TAIL)
    except OSError:
        return None
    # Without a gap both are one text.
    pieces = (head + tail,) if begin == len(head) else (head, tail[tail.find(b"\n") + 1 :])
    log = mllog.TrainLog(event for piece in pieces for event in _events(piece))
    if log.last(LogKey.RUN) is None:
        return None
    found = mllog.progress(log)
    return dataclasses.replace(found, unit=unit) if unit and not log.about.get("unit") else found


def _events(piece: bytes) -> Iterator[Event]:
    """The events of whole lines: one that is still being written has no end."""
    for line in piece[: piece.rfind(b"\n") + 1].split(b"\n"):
        if mlperf_lines.MARK in line and (event := mlperf_lines.event(line.decode("utf-8", "replace"))):
            yield event
