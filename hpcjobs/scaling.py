"""Runs become rows of the scaling table: means, intervals, speed-up, efficiency."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Sequence

from hpcjobs.records import FLAG_CONFOUNDED, Run, ScalingRow

CONFIDENCE = 0.95
# Rank correlation of size and start time beyond which the two cannot be told apart.
CONFOUNDED = 0.7
_MEANS = (
    *("step_ms", "input_wait_ms", "allreduce_ms", "epoch_s", "time_to_train_s", "startup_s", "eval_s", "mean_auc"),
    "skew_ms",
)


def student_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Student's 95 % interval of the mean of `values`, mean -+ t(0.975, n - 1) s / sqrt(n).

    None below two values: one repeat says nothing of the spread. (Student, Biometrika 6, 1908.)
    """
    if len(values) < 2:
        return None
    # scipy takes 0.3 s to load, which a table of single runs need not pay.
    from scipy.stats import t

    half = t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.fmean(values)
    return mean - half, mean + half


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


def table(runs: Iterable[Run]) -> list[ScalingRow]:
    """One row per GPU count and parameter set, by params, then size. A failed size keeps its row.

    speed-up = X_n / X_b and efficiency = speed-up * b / n, with b the smallest measured size of the
    same experiment and params.
    """
    points: dict[tuple[str, str, int], list[Run]] = {}
    series: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        points.setdefault((run.experiment, run.params, run.gpus), []).append(run)
        series.setdefault((run.experiment, run.params), []).append(run)
    confounded = {key for key, those in series.items() if abs(start_correlation(those) or 0.0) > CONFOUNDED}
    rows = [_row(points[key], [FLAG_CONFOUNDED] if key[:2] in confounded else []) for key in sorted(points)]
    bases: dict[tuple[str, str], ScalingRow] = {}
    for row in rows:
        if row.images_per_sec is not None:
            bases.setdefault((row.experiment, row.params), row)
    return [_compare(row, bases.get((row.experiment, row.params))) for row in rows]


def _row(runs: Sequence[Run], flags: Iterable[str]) -> ScalingRow:
    first = runs[0]
    measured = [run for run in runs if run.images_per_sec is not None]
    rates = [run.images_per_sec for run in measured if run.images_per_sec is not None]
    rate = statistics.fmean(rates) if rates else None
    interval = student_interval(rates)
    means = {}
    for name in _MEANS:
        values = [value for run in measured if (value := getattr(run, name)) is not None]
        means[name] = statistics.fmean(values) if values else None
    return ScalingRow(
        experiment=first.experiment,
        params=first.params,
        gpus=first.gpus,
        nodes=first.nodes,
        gpus_per_node=first.gpus_per_node,
        local_batch=first.local_batch,
        global_batch=first.global_batch,
        runs=len(measured),
        failed_runs=len(runs) - len(measured),
        images_per_sec=rate,
        images_per_sec_low=interval[0] if interval else None,
        images_per_sec_high=interval[1] if interval else None,
        time_to_train_kind=_words(run.time_to_train_kind for run in measured),
        job_ids=_words(run.job_ids for run in runs),
        nodelist=_words(run.nodelist for run in runs),
        flags=_words([*(run.flags for run in runs), *flags]),
        **means,
    )


def _words(texts: Iterable[str]) -> str:
    """Every word of the texts once, in the order of their first appearance."""
    return " ".join(dict.fromkeys(word for text in texts for word in text.split()))


def _compare(row: ScalingRow, base: ScalingRow | None) -> ScalingRow:
    if row.images_per_sec is None or base is None or base.images_per_sec is None:
        return row
    speedup = row.images_per_sec / base.images_per_sec
    return dataclasses.replace(row, speedup=speedup, efficiency=speedup * base.gpus / row.gpus)
