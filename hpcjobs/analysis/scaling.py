"""Runs become rows of the scaling table: means, intervals, speed-up, efficiency, losses, flags."""

from __future__ import annotations

import dataclasses
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from hpcjobs.analysis.attribution import is_slow, losses, parts_spread, slow_nodes
from hpcjobs.analysis.intervals import spread, student_interval, variation, welch_ratio
from hpcjobs.base import hostlist
from hpcjobs.base.columns import (
    FLAG_BASE_DISTURBED,
    FLAG_CONFOUNDED,
    FLAG_DISTURBED,
    FLAG_FEWER,
    FLAG_HARDWARE,
    FLAG_NO_BASELINE,
    FLAG_SAME_NODES,
    FLAG_SLOW_NODE,
    FLAG_SOFTWARE,
    FLAG_STARVED,
    FLAGS,
)
from hpcjobs.base.errors import InputError
from hpcjobs.base.metrics import Run, ScalingRow, Series, Spread
from hpcjobs.base.tabular import Combine, metrics_of
from hpcjobs.meter import PARTS

# Beyond this rank correlation of size and start time, a drift in time cannot be told from scaling.
CONFOUNDED = 0.7
Baseline = int | Literal["node"] | None


def table(runs: Iterable[Run], baseline: Baseline = None) -> list[ScalingRow]:
    """One row per GPU count, batch and parameter set, by params, then size. A failed size keeps its row.

    speed-up = X_n / X_b and efficiency = speed-up * b / n. X is the throughput, n the row's GPUs, b those of the base:
    the smallest measured size of the same series (the same experiment, params, unit and kind of scaling), or the
    `baseline`, which is a number of GPUs, or "node" for one full node. A series that was not measured at the baseline
    has no speed-up, and its rows have the flag no_baseline.

    Raises InputError if no series was measured at the baseline.
    """
    runs = _with_units(list(runs))
    points: dict[tuple[tuple[str, str, str], int, int, int], list[Run]] = defaultdict(list)
    for run in runs:
        points[run.group, run.gpus, run.local_batch or 0, run.global_batch or 0].append(run)
    slow = slow_nodes(runs)
    rows = _with_scaling([_row(points[key], slow) for key in sorted(points)])
    confounded = _confounded(runs)
    rows = [_flagged(row, FLAG_CONFOUNDED) if row.group in confounded else row for row in rows]
    rows, differing = _compared(rows, baseline), _differing(runs)
    for flag, groups in differing.items():
        rows = [_flagged(row, flag) if row.group in groups else row for row in rows]
    return rows


def _with_units(runs: Sequence[Run]) -> list[Run]:
    """The runs, those without a measurement in the unit of the others of their experiment and params.

    A run that ended before its log says what it counts keeps its place beside the sizes that it was planned with.
    """
    units: dict[tuple[str, str], str] = {}
    for run in runs:
        if run.unit and (run.throughput is not None or (run.experiment, run.params) not in units):
            units[run.experiment, run.params] = run.unit
    every = {run.unit for run in runs} - {""}
    alone = every.pop() if len(every) == 1 else ""
    return [
        run
        if run.unit or run.throughput is not None
        else dataclasses.replace(run, unit=units.get((run.experiment, run.params), alone))
        for run in runs
    ]


# --- one row -------------------------------------------------------------------------------------


def _row(runs: Sequence[Run], slow: set[str]) -> ScalingRow:
    measured = [run for run in runs if run.measured]
    rates = tuple(run.throughput for run in measured if run.throughput is not None)
    interval = student_interval(rates)
    combined: dict[str, Any] = {
        name: _COMBINED[about.combine](name, runs, measured)
        for name, about in metrics_of(ScalingRow).items()
        if about.combine is not None
    }
    row = ScalingRow(
        runs=len(measured),
        failed_runs=len(runs) - len(measured),
        rates=rates,
        throughput_low=interval[0] if interval else None,
        throughput_high=interval[1] if interval else None,
        cv=variation(rates),
        nodes_distinct=hostlist.count(run.nodelist for run in measured) or None,
        spreads=_spreads(measured),
        **combined,
    )
    if row.repeats_asked is not None and len(measured) < row.repeats_asked:
        row = _flagged(row, FLAG_FEWER)
    if hostlist.share_a_host(run.nodelist for run in measured):
        row = _flagged(row, FLAG_SAME_NODES)
    return _flagged(row, FLAG_SLOW_NODE) if is_slow(row) and row.slowest_node in slow else row


def _spreads(measured: Sequence[Run]) -> dict[str, Spread]:
    """The errors of the step and of its measured parts, by column: where there is an interval, what it comes from."""
    found = {"step_ms": spread(_known("step_ms", measured))}
    for name in (*PARTS, "waiting_ms"):
        having = [run for run in measured if getattr(run, name) is not None]
        found[name] = parts_spread(name, having[0]) if len(having) == 1 else spread(_known(name, having))
    return {name: error for name, error in found.items() if error is not None}


def _end(name: str, measured: Sequence[Run]) -> float | None:
    """An end of an interval: several runs show how runs differ; of a single one its passes show how blocks do."""
    part, _, end = name.rpartition("_")
    having = [run for run in measured if getattr(run, part) is not None]
    if len(having) == 1:
        own: float | None = getattr(having[0], name)
        return own
    interval = student_interval(_known(part, having))
    return interval[end == "high"] if interval else None


def _mean(name: str, runs: Iterable[Run]) -> float | None:
    known = _known(name, runs)
    return statistics.fmean(known) if known else None


def _sum(name: str, runs: Sequence[Run]) -> float | None:
    known = _known(name, runs)
    return sum(known) if len(known) == len(runs) else None


def _known(name: str, runs: Iterable[Run]) -> list[Any]:
    return [value for run in runs if (value := getattr(run, name)) is not None]


def _words(name: str, runs: Iterable[Run]) -> str:
    """Every word of the runs' texts once, in the order of their first appearance."""
    return " ".join(dict.fromkeys(word for run in runs for word in getattr(run, name).split()))


def _texts(name: str, runs: Iterable[Run]) -> str:
    return " | ".join(sorted({part for run in runs for part in getattr(run, name).split(" | ") if part}))


def _of_slowest_node(name: str, runs: Sequence[Run], measured: Iterable[Run]) -> Any:
    return getattr(max(measured, key=lambda run: run.slow_node_ms or 0.0, default=runs[0]), name)


# What each Combine does, with a column's name, all runs of a row, and those with a measurement.
_COMBINED: Mapping[Combine, Callable[[str, Sequence[Run], Sequence[Run]], Any]] = {
    Combine.SAME: lambda name, runs, measured: getattr(runs[0], name),
    Combine.MEAN: lambda name, runs, measured: _mean(name, measured),
    Combine.SUM: lambda name, runs, measured: _sum(name, runs),
    Combine.LARGEST: lambda name, runs, measured: max(_known(name, runs), default=None),
    Combine.WORDS: lambda name, runs, measured: _words(name, measured),
    Combine.ALL_WORDS: lambda name, runs, measured: _words(name, runs),
    Combine.HOSTS: lambda name, runs, measured: hostlist.union(getattr(run, name) for run in runs),
    Combine.TEXTS: lambda name, runs, measured: _texts(name, measured),
    Combine.INTERVAL: lambda name, runs, measured: _end(name, measured),
    Combine.SLOWEST_NODE: _of_slowest_node,
}


def _flagged(row: ScalingRow, flag: str) -> ScalingRow:
    """The row with one more flag. Flags stand in the order of columns.FLAGS, unknown ones last."""
    found = {*row.flags.split(), flag}
    known = [each for each in FLAGS if each in found]
    return dataclasses.replace(row, flags=" ".join([*known, *sorted(found - FLAGS.keys())]))


# --- rows that may be compared -------------------------------------------------------------------


def _with_scaling(rows: Sequence[ScalingRow]) -> list[ScalingRow]:
    """The rows with their kind of scaling, by the batches of all sizes of the same experiment and params.

    One local batch at all sizes is weak scaling, one global batch is strong scaling. Logs from elsewhere may have
    several of both: then a row belongs to the sizes that share its local batch, else to those that share its global
    batch. A row that shares neither is mixed. One size alone has no kind of scaling, nor has one of unknown batch.
    """
    groups: dict[tuple[str, str, str], list[ScalingRow]] = defaultdict(list)
    for row in rows:
        groups[row.group].append(row)
    return [dataclasses.replace(row, scaling=_scaling(row, groups[row.group])) for row in rows]


def _scaling(row: ScalingRow, group: Sequence[ScalingRow]) -> str:
    others = [other for other in group if other.gpus != row.gpus and other.local_batch is not None]
    if not others or row.local_batch is None or row.global_batch is None:
        return ""
    if any(other.local_batch == row.local_batch for other in others):
        return "weak"
    return "strong" if any(other.global_batch == row.global_batch for other in others) else "mixed"


def _compared(rows: Sequence[ScalingRow], baseline: Baseline) -> list[ScalingRow]:
    """The rows with speed-up, efficiency, their intervals, and the losses. Raises InputError if there is no base."""
    series: dict[Series, list[ScalingRow]] = defaultdict(list)
    for row in rows:
        if row.throughput is not None and row.scaling != "mixed":
            series[row.series].append(row)
    # The base of a strong series may also share its local batch with other sizes, and then its row says weak.
    for key, those in series.items():
        if key.scaling == "strong":
            those += [
                row
                for row in rows
                if (row.experiment, row.params, row.unit, row.global_batch) == (*key[:3], key.batch)
                and row.scaling == "weak"
                and row.throughput is not None
            ]
    bases = {key: _base(those, baseline) for key, those in series.items()}
    if series and baseline is not None and not any(bases.values()):
        sizes = ", ".join(map(str, sorted({row.gpus for row in rows if row.throughput is not None})))
        what = "one full node" if baseline == "node" else f"{baseline} GPUs"
        raise InputError(f"--baseline {baseline}: no measurement on {what}; measured: {sizes} GPUs")
    return [_against(row, bases.get(row.series), baseline) for row in rows]


def _base(rows: Sequence[ScalingRow], baseline: Baseline) -> ScalingRow | None:
    if baseline == "node":
        # A full node has as many ranks as the fullest node of the series.
        full = max((row.gpus_per_node or 0 for row in rows), default=0)
        return next((row for row in rows if row.nodes == 1 and row.gpus == full), None)
    if baseline is not None:
        return next((row for row in rows if row.gpus == baseline), None)
    return min(rows, key=lambda row: row.gpus)


def _against(row: ScalingRow, base: ScalingRow | None, baseline: Baseline) -> ScalingRow:
    if base is None or base.throughput is None:
        return _flagged(row, FLAG_NO_BASELINE) if baseline is not None else row
    if row.throughput is None:
        return dataclasses.replace(row, baseline_gpus=base.gpus)
    speedup, per_gpu = row.throughput / base.throughput, base.gpus / row.gpus
    welch = None if row is base else welch_ratio(row.rates, base.rates)
    if row is not base and {FLAG_DISTURBED, FLAG_STARVED} & set(base.flags.split()):
        row = _flagged(row, FLAG_BASE_DISTURBED)
    return dataclasses.replace(
        row,
        baseline_gpus=base.gpus,
        speedup=speedup,
        speedup_low=welch.low if welch else None,
        speedup_high=welch.high if welch else None,
        efficiency=speedup * per_gpu,
        efficiency_low=welch.low * per_gpu if welch else None,
        efficiency_high=welch.high * per_gpu if welch else None,
        **losses(row, base),
    )


# --- differences that spoil a comparison --------------------------------------------------------------


def start_correlation(runs: Iterable[Run]) -> float | None:
    """Spearman's rank correlation of size and start time over the measured runs whose start is known.

    None for fewer than two sizes or two starts, where it is not defined. (Spearman, Am. J. Psychology 15, 1904.)
    """
    known = [(run.gpus, run.start) for run in runs if run.throughput is not None and run.start is not None]
    sizes, starts = [gpus for gpus, _ in known], [start for _, start in known]
    if len(set(sizes)) < 2 or len(set(starts)) < 2:
        return None
    from scipy.stats import spearmanr

    return float(spearmanr(sizes, starts).statistic)


def _confounded(runs: Sequence[Run]) -> set[tuple[str, str, str]]:
    """The groups whose sizes ran at different times, so that a drift in time looks like scaling."""
    groups: dict[tuple[str, str, str], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.group].append(run)
    return {key for key, those in groups.items() if abs(start_correlation(those) or 0.0) > CONFOUNDED}


def _differing(runs: Iterable[Run]) -> dict[str, set[tuple[str, str, str]]]:
    """The groups whose measured runs differ in software or in GPUs, by the flag that says so."""
    found = {}
    for flag, name in ((FLAG_SOFTWARE, "software"), (FLAG_HARDWARE, "gpu_model")):
        known: dict[tuple[str, str, str], set[str]] = defaultdict(set)
        for run in runs:
            if run.throughput is not None and getattr(run, name):
                known[run.group].add(getattr(run, name))
        found[flag] = {group for group, values in known.items() if len(values) > 1}
    return found
