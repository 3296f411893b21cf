"""Runs become rows of the scaling table: means, intervals, speed-up, efficiency, losses, flags."""

from __future__ import annotations

import dataclasses
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from hpcjobs.analysis.attribution import is_slow, losses, slow_nodes
from hpcjobs.analysis.intervals import student_interval, variation, welch_ratio
from hpcjobs.base.columns import (
    FLAG_CONFOUNDED,
    FLAG_FEWER,
    FLAG_HARDWARE,
    FLAG_NO_BASELINE,
    FLAG_SAME_NODES,
    FLAG_SLOW_NODE,
    FLAG_SOFTWARE,
    FLAGS,
)
from hpcjobs.base.errors import InputError
from hpcjobs.base.records import Run, ScalingRow

# Rank correlation of size and start time beyond which the two cannot be told apart.
CONFOUNDED = 0.7
_MEANS = (
    *("step_ms", "input_wait_ms", "allreduce_ms", "epoch_s", "time_to_train_s", "startup_s", "eval_s", "mean_auc"),
    *("skew_ms", "queue_s", "compute_ms", "slowest_rank_ms", "gradient_bytes"),
)
Baseline = int | Literal["node"] | None


def table(runs: Iterable[Run], baseline: Baseline = None) -> list[ScalingRow]:
    """One row per GPU count, batch and parameter set, by params, then size. A failed size keeps its row.

    speed-up = X_n / X_b and efficiency = speed-up * b / n, with b the smallest measured size of the same
    series (the same experiment, params and kind of scaling), or the `baseline`: that many GPUs, or "node", one
    full node. A series that has no such measurement has no speed-up, and the flag no_baseline.

    Raises InputError where no series has it.
    """
    runs = list(runs)
    points: dict[tuple[str, str, int, int, int], list[Run]] = defaultdict(list)
    for run in runs:
        points[run.experiment, run.params, run.gpus, run.local_batch or 0, run.global_batch or 0].append(run)
    slow = slow_nodes(runs)
    rows = _told_apart([_row(points[key], slow) for key in sorted(points)])
    confounded = _confounded(runs)
    rows = [_flagged(row, FLAG_CONFOUNDED) if (row.experiment, row.params) in confounded else row for row in rows]
    return [_differing(row, runs) for row in _compared(rows, baseline)]


# --- one row -------------------------------------------------------------------------------------


def _row(runs: Sequence[Run], slow: set[str]) -> ScalingRow:
    first = runs[0]
    measured = [run for run in runs if run.images_per_sec is not None]
    rates = tuple(run.images_per_sec for run in measured if run.images_per_sec is not None)
    interval = student_interval(rates)
    asked = max((run.repeats_asked for run in runs if run.repeats_asked is not None), default=None)
    slowest = max(measured, key=lambda run: run.slow_node_ms or 0.0, default=first)
    means: dict[str, Any] = {name: _mean(getattr(run, name) for run in measured) for name in _MEANS}
    row = ScalingRow(
        experiment=first.experiment,
        params=first.params,
        gpus=first.gpus,
        nodes=first.nodes,
        gpus_per_node=first.gpus_per_node,
        local_batch=first.local_batch,
        global_batch=first.global_batch,
        runs=len(measured),
        failed_runs=len(runs) - len(measured),
        rates=rates,
        images_per_sec=statistics.fmean(rates) if rates else None,
        images_per_sec_low=interval[0] if interval else None,
        images_per_sec_high=interval[1] if interval else None,
        cv=variation(rates),
        time_to_train_kind=_words(run.time_to_train_kind for run in measured),
        job_ids=_words(run.job_ids for run in runs),
        nodelist=_words(run.nodelist for run in runs),
        nodes_distinct=len(_words(run.nodelist for run in measured).split()) or None,
        repeats_asked=asked,
        gpu_model=_texts(run.gpu_model for run in measured),
        precision=_words(run.precision for run in measured),
        auc_split=_words(run.auc_split for run in measured),
        software=_texts(run.software for run in measured),
        slowest_node=slowest.slowest_node,
        slow_node_ms=slowest.slow_node_ms,
        flags=_words(run.flags for run in runs),
        **means,
    )
    if asked is not None and len(measured) < asked:
        row = _flagged(row, FLAG_FEWER)
    if max(Counter(node for run in measured for node in set(run.nodelist.split())).values(), default=0) > 1:
        row = _flagged(row, FLAG_SAME_NODES)
    return _flagged(row, FLAG_SLOW_NODE) if is_slow(row) and row.slowest_node in slow else row


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _words(texts: Iterable[str]) -> str:
    """Every word of the texts once, in the order of their first appearance."""
    return " ".join(dict.fromkeys(word for text in texts for word in text.split()))


def _texts(texts: Iterable[str]) -> str:
    return " | ".join(sorted({part for text in texts for part in text.split(" | ") if part}))


def _flagged(row: ScalingRow, flag: str) -> ScalingRow:
    """The row with one more flag, in the order in which columns.FLAGS has them; those it does not know come last."""
    found = {*row.flags.split(), flag}
    known = [each for each in FLAGS if each in found]
    return dataclasses.replace(row, flags=" ".join([*known, *sorted(found - FLAGS.keys())]))


# --- rows that may be compared -------------------------------------------------------------------


def _told_apart(rows: Sequence[ScalingRow]) -> list[ScalingRow]:
    """The rows with their kind of scaling, by the batches of all sizes of the same experiment and params.

    One local batch at all sizes is weak scaling, one global batch strong. Where sizes have several of both,
    as logs from elsewhere may, a row goes with the sizes that share its local batch, else with those that share
    its global batch; one that shares neither is mixed. One size alone does not tell.
    """
    groups: dict[tuple[str, str], list[ScalingRow]] = defaultdict(list)
    for row in rows:
        groups[row.experiment, row.params].append(row)
    return [dataclasses.replace(row, scaling=_scaling(row, groups[row.experiment, row.params])) for row in rows]


def _scaling(row: ScalingRow, group: Sequence[ScalingRow]) -> str:
    others = [other for other in group if other.gpus != row.gpus]
    if not others or row.local_batch is None or row.global_batch is None:
        return ""
    if any(other.local_batch == row.local_batch for other in others):
        return "weak"
    return "strong" if any(other.global_batch == row.global_batch for other in others) else "mixed"


def _compared(rows: Sequence[ScalingRow], baseline: Baseline) -> list[ScalingRow]:
    """The rows with speed-up, efficiency, their intervals, and the losses. Raises InputError: no base anywhere."""
    series: dict[tuple[str, str, str, int | None], list[ScalingRow]] = defaultdict(list)
    for row in rows:
        if row.images_per_sec is not None and row.scaling != "mixed":
            series[row.series].append(row)
    # The base of a strong series may itself be counted among those of its local batch.
    for key, those in series.items():
        if key[2] == "strong":
            those += [
                row
                for row in rows
                if (row.experiment, row.params, row.global_batch) == (*key[:2], key[3])
                and row.scaling == "weak"
                and row.images_per_sec is not None
            ]
    bases = {key: _base(those, baseline) for key, those in series.items()}
    if series and baseline is not None and not any(bases.values()):
        sizes = ", ".join(map(str, sorted({row.gpus for row in rows if row.images_per_sec is not None})))
        what = "one full node" if baseline == "node" else f"{baseline} GPUs"
        raise InputError(f"--baseline {baseline}: no measurement on {what}; measured: {sizes} GPUs")
    return [_against(row, bases.get(row.series), baseline) for row in rows]


def _base(rows: Sequence[ScalingRow], baseline: Baseline) -> ScalingRow | None:
    if baseline == "node":
        # A node is full with as many ranks as any node of the series has.
        full = max((row.gpus_per_node or 0 for row in rows), default=0)
        return next((row for row in rows if row.nodes == 1 and row.gpus == full), None)
    if baseline is not None:
        return next((row for row in rows if row.gpus == baseline), None)
    return min(rows, key=lambda row: row.gpus)


def _against(row: ScalingRow, base: ScalingRow | None, baseline: Baseline) -> ScalingRow:
    if base is None or base.images_per_sec is None:
        return _flagged(row, FLAG_NO_BASELINE) if baseline is not None else row
    if row.images_per_sec is None:
        return dataclasses.replace(row, baseline_gpus=base.gpus)
    speedup, per_gpu = row.images_per_sec / base.images_per_sec, base.gpus / row.gpus
    welch = None if row is base else welch_ratio(row.rates, base.rates)
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


# --- what makes rows not comparable --------------------------------------------------------------


def start_correlation(runs: Iterable[Run]) -> float | None:
    """Spearman's rank correlation of size and start time over the measured runs, of which some start is known.

    None where it is not defined: fewer than two sizes or two starts. (Spearman, Am. J. Psychology 15, 1904.)
    """
    known = [(run.gpus, run.start) for run in runs if run.images_per_sec is not None and run.start is not None]
    sizes, starts = [gpus for gpus, _ in known], [start for _, start in known]
    if len(set(sizes)) < 2 or len(set(starts)) < 2:
        return None
    from scipy.stats import spearmanr

    return float(spearmanr(sizes, starts).statistic)


def _confounded(runs: Sequence[Run]) -> set[tuple[str, str]]:
    """The (experiment, params) whose sizes ran at times of their own."""
    by_params: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        by_params[run.experiment, run.params].append(run)
    return {key for key, those in by_params.items() if abs(start_correlation(those) or 0.0) > CONFOUNDED}


def _differing(row: ScalingRow, runs: Sequence[Run]) -> ScalingRow:
    """Flags for what must be alike in all runs of the same experiment and params."""
    those = [run for run in runs if (run.experiment, run.params) == (row.experiment, row.params)]
    for flag, name in ((FLAG_SOFTWARE, "software"), (FLAG_HARDWARE, "gpu_model")):
        known = {getattr(run, name) for run in those if run.images_per_sec is not None} - {""}
        if len(known) > 1:
            row = _flagged(row, flag)
    return row
