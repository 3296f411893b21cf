"""Reads the log of a command's run, by the user's pattern or by a format, into the run's measurement."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NamedTuple

from hpcjobs.base.metrics import Measurement
from hpcjobs.collect.claims import Sizes
from hpcjobs.collect.measurements import LogResult, Problem, Throughput
from hpcjobs.collect.pattern import Pattern
from hpcjobs.collect.pattern_log import counts_batch, read_pattern
from hpcjobs.collect.reading import FORMATS, read_log

# Detect the format.
AUTO = "auto"
# Measurements of one log that differ by more are those of several runs.
_SAME = 0.01


class CommandLog(NamedTuple):
    """What a run's log says. `looked_for` is a sentence about what was not found; "" if there is a measurement.

    `timed`: begin and end, in seconds since the epoch, of each stretch of timed steps. `contradicted`: there is no
    measurement because the log contradicts the run, or itself.
    """

    measurement: Measurement | None
    problems: tuple[Problem, ...]
    looked_for: str
    timed: tuple[tuple[float, float], ...] = ()
    contradicted: bool = False


def read_command_log(path: Path, how: Pattern | str, known: Sizes, unit: str = "") -> CommandLog:
    """Read the whole log of a run that has ended, in flat memory.

    `how` is a pattern, the name of a format, or AUTO. `known` is the run's own size, as it was planned: it fills what
    the log does not say, and a figure of one GPU is multiplied by its GPUs. If the log contradicts it, there is no
    measurement. `unit` is what the run counts where a format does not say it. Raises InputError if a pattern is too
    slow, or there is no such format.
    """
    if isinstance(how, Pattern):
        return _by_pattern(path, how, known)
    result = read_log(path, None if how == AUTO else how, known=known.known())
    found = [one for one in result.measurements if isinstance(one, Throughput)]
    if not found:
        return CommandLog(None, result.problems, _nothing(path, how, result))
    if len(found) > 1 and not _alike(found):
        lines = ", ".join(str(one.line) for one in found[:5]) + (", ..." if len(found) > 5 else "")
        several = (
            f"{path.name} holds {len(found)} measurements (lines {lines}), and which one is the run's is not known"
        )
        return CommandLog(None, result.problems, f"{several}: give measure.pattern, or train once in a run")
    one = found[-1] if unit in ("", found[-1].unit) or found[-1].unit != "images" else _named(found[-1], unit)
    known = known.whole()
    contradiction = next(
        (
            f"the log's measurement in line {one.line} says {said} {what}, the run has {right}"
            for what, said, right in (
                ("GPUs", one.gpus, known.gpus),
                ("as batch of one GPU", one.local_batch, known.local_batch),
                ("as global batch", one.global_batch, known.global_batch),
            )
            if said and right and said != right
        ),
        "",
    )
    return _measured(path, one, known, result.problems, contradiction)


def _by_pattern(path: Path, how: Pattern, known: Sizes) -> CommandLog:
    read = read_pattern(path, how, known)
    one = read.throughput
    if one is not None:
        return _measured(path, one, known.whole(), read.result.problems, read.contradiction)
    if not read.matches.total:
        sentence = f"pattern {how.shown} matches no line of {path.name}"
        if not path.is_file():
            sentence = f"{path.name} is missing, so pattern {how.shown} has nothing to match"
    else:
        sentence = f"{path.name}: {read.result.problems[-1].reason}"
    return CommandLog(None, read.result.problems, sentence)


def _measured(
    path: Path, one: Throughput, known: Sizes, problems: tuple[Problem, ...], contradiction: str
) -> CommandLog:
    """The measurement of a run, with what is known of it where the log does not say it."""
    if contradiction:
        return CommandLog(None, problems, f"{path.name}: {contradiction}")
    sizes = Sizes(
        known.gpus or one.gpus,
        known.nodes or one.nodes,
        known.local_batch or one.local_batch,
        known.global_batch or one.global_batch,
    ).whole()
    batch = sizes.global_batch if counts_batch(one.unit) else None
    rate, step_ms = one.throughput, one.step_ms
    if rate is None and one.per_gpu and sizes.gpus:
        rate = one.per_gpu * sizes.gpus
    if rate is None and step_ms and batch:
        rate = batch / step_ms * 1000
    if step_ms is None and rate and batch:
        step_ms = batch / rate * 1000
    if rate is None or not sizes.gpus:
        why = problems[-1].reason if problems else "it gives no rate over all GPUs"
        return CommandLog(None, problems, f"{path.name}: {why}")
    measurement = Measurement(
        gpus=sizes.gpus,
        throughput=rate,
        local_batch=sizes.local_batch,
        global_batch=sizes.global_batch,
        step_ms=step_ms,
        windows=one.steady.windows if one.steady else None,
        outlier_windows=one.steady.outliers if one.steady else None,
        first_step_at=one.first_step_at,
        hosts=one.hosts,
        flags=one.flags,
        **one.figures(),
    )
    return CommandLog(measurement, problems, "")


def _named(one: Throughput, unit: str) -> Throughput:
    """The same in another unit: the format itself says none, so its figures count what the batch counts."""
    return dataclasses.replace(one, unit=unit)


def _alike(found: list[Throughput]) -> bool:
    """Whether the measurements are one run's, which several ranks or summaries print."""
    first = found[0]
    return all(
        (one.gpus, one.unit, one.model, one.global_batch) == (first.gpus, first.unit, first.model, first.global_batch)
        and one.throughput is not None
        and first.throughput is not None
        and abs(one.throughput / first.throughput - 1) <= _SAME
        for one in found
    )


def _nothing(path: Path, how: str, result: LogResult) -> str:
    if not path.is_file():
        return f"{path.name} is missing"
    if how != AUTO:
        return f"{path.name} holds no line of the format {how} that gives a rate"
    if result.measurements:
        return f"{path.name} measures collectives ({result.format}) and no training, and no pattern is given"
    if result.format:
        return f"{path.name} has the format {result.format}, but no line of it gives a rate, and no pattern is given"
    return f"{path.name} holds no line of a known format ({', '.join(FORMATS)}), and no pattern is given"
