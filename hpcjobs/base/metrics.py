"""The one metric table: what is known of a run, and of a row of the scaling table. Each column is one field.

A field's metadata give its unit, its meaning, how the runs of a row combine in it, and where it is shown. runs.csv,
scaling-report.csv, their reader, the scaling table and docs/reference/columns.md come from them. A new metric is a
field (in Figures of log_figures.py if a log gives it, else in Point or Run of run_figures.py, or in ScalingRow here),
the code that measures it, and a test.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import NamedTuple

from hpcjobs.base.log_figures import Figures, Measurement
from hpcjobs.base.run_figures import MEASURED_COMMAND, Point, Run
from hpcjobs.base.tabular import Derived, Metric, metric

__all__ = ["LOSSES", "MEASURED_COMMAND", "Figures", "Measurement", "Point", "Run", "ScalingRow", "Series", "Spread"]


def _share_of(part: str) -> Callable[[ScalingRow], float | None]:
    return lambda row: row.share(part)


def _of_step(part: str) -> Metric:
    return Metric(f"lost_{part}ms / step_ms", "per cent")


def _low(name: str) -> dict[str, Metric]:
    return metric(
        f"lower end of the 95 % interval of {name} (Welch, from the errors of the part here and at the base); empty "
        "for the base, and if an error is not known",
        "ms",
        since="0.2",
    )


_HIGH = metric("upper end of that interval", "ms", since="0.2")


class Spread(NamedTuple):
    """The standard error of a mean, in the unit of its column, and the degrees of freedom that it is known with."""

    error: float
    freedom: float


class Series(NamedTuple):
    """What distinguishes rows that may be compared: experiment, params, unit, kind of scaling, and the fixed batch.

    `scaling` is empty and `batch` None for sizes whose batch is not known: they are compared with each other.
    """

    experiment: str
    params: str
    unit: str
    scaling: str
    batch: int | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScalingRow(Point):
    """One row of `scaling-report.csv`: a GPU count and parameter set over its repeats.

    `rates` are the throughputs of the runs with a measurement. `spreads` are the errors of step_ms and of the measured
    parts of the step, by the name of the column.
    """

    rates: tuple[float, ...] = ()
    spreads: Mapping[str, Spread] = field(default_factory=dict)
    runs: int = field(
        metadata=metric("runs with a measurement, or of which none was asked for", heading="runs", form="d")
    )
    failed_runs: int = field(metadata=metric("runs without a measurement", heading="failed", form="d"))
    throughput_low: float | None = field(
        default=None,
        metadata=metric(
            "lower end of the 95 % interval of throughput (Student, over runs); empty for fewer than two runs",
            "unit/s",
        ),
    )
    throughput_high: float | None = field(default=None, metadata=metric("upper end of that interval", "unit/s"))
    cv: float | None = field(
        default=None,
        metadata=metric("coefficient of variation of throughput over runs; empty for fewer than two runs", "fraction"),
    )
    speedup: float | None = field(
        default=None,
        metadata=metric(
            "throughput divided by that of the base, which is the smallest measured size of the same params and "
            "kind of scaling, or the one that --baseline names",
            heading="speed-up",
            form=".2f",
        ),
    )
    speedup_low: float | None = field(
        default=None,
        metadata=metric(
            "lower end of the 95 % interval of speedup (Welch, on the logarithm of throughput); empty for the "
            "base, and if the row or the base has fewer than two runs"
        ),
    )
    speedup_high: float | None = field(default=None, metadata=metric("upper end of that interval"))
    efficiency: float | None = field(
        default=None,
        metadata=metric("speedup x baseline_gpus / gpus", "fraction", heading="efficiency", form=".1%"),
    )
    efficiency_low: float | None = field(
        default=None,
        metadata=metric("lower end of the 95 % interval of efficiency; empty where speedup_low is", "fraction"),
    )
    efficiency_high: float | None = field(default=None, metadata=metric("upper end of that interval", "fraction"))
    baseline_gpus: int | None = field(
        default=None, metadata=metric("GPUs of the base, which speedup and efficiency compare with")
    )
    scaling: str = field(
        default="",
        metadata=metric(
            "weak (sizes share local_batch), strong (they share global_batch) or mixed (neither: the row is compared "
            "with nothing); empty for a single size or an unknown batch"
        ),
    )
    predicted_throughput: float | None = field(
        default=None, metadata=metric("throughput by the fitted model; empty if none is fitted", "unit/s")
    )
    nodes_distinct: int | None = field(
        default=None, metadata=metric("number of different nodes on which the measured runs ran")
    )
    lost_ms: float | None = field(
        default=None,
        metadata=metric(
            "part of a step beyond what the base would take for as much work per GPU: step_ms x (1 - efficiency). "
            "It is the sum of the next five; a part is empty unless it is measured both here and at the base",
            "ms",
        ),
    )
    lost_input_ms: float | None = field(
        default=None, metadata=metric("of lost_ms: the row waits longer for input than the base", "ms")
    )
    lost_allreduce_ms: float | None = field(
        default=None, metadata=metric("of lost_ms: all-reduce that no computing hides takes longer", "ms")
    )
    lost_skew_ms: float | None = field(
        default=None, metadata=metric("of lost_ms: a typical rank waits longer for the slowest rank", "ms")
    )
    lost_compute_ms: float | None = field(
        default=None, metadata=metric("of lost_ms: a typical rank computes longer", "ms")
    )
    lost_other_ms: float | None = field(
        default=None, metadata=metric("of lost_ms: what the parts do not explain", "ms")
    )

    lost_ms_low: float | None = field(
        default=None,
        metadata=metric(
            "lower end of the 95 % interval of lost_ms (Welch, over runs); empty for the base, and if the row or the "
            "base has fewer than two runs",
            "ms",
            since="0.2",
        ),
    )
    lost_ms_high: float | None = field(default=None, metadata=_HIGH)
    lost_input_ms_low: float | None = field(default=None, metadata=_low("lost_input_ms"))
    lost_input_ms_high: float | None = field(default=None, metadata=_HIGH)
    lost_allreduce_ms_low: float | None = field(default=None, metadata=_low("lost_allreduce_ms"))
    lost_allreduce_ms_high: float | None = field(default=None, metadata=_HIGH)
    lost_skew_ms_low: float | None = field(default=None, metadata=_low("lost_skew_ms"))
    lost_skew_ms_high: float | None = field(default=None, metadata=_HIGH)
    lost_compute_ms_low: float | None = field(default=None, metadata=_low("lost_compute_ms"))
    lost_compute_ms_high: float | None = field(default=None, metadata=_HIGH)

    lost_pct = Derived(_share_of(""), _of_step(""))
    lost_input_pct = Derived(_share_of("input"), _of_step("input_"))
    lost_allreduce_pct = Derived(_share_of("allreduce"), _of_step("allreduce_"))
    lost_skew_pct = Derived(_share_of("skew"), _of_step("skew_"))
    lost_compute_pct = Derived(_share_of("compute"), _of_step("compute_"))
    lost_other_pct = Derived(_share_of("other"), _of_step("other_"))

    @property
    def series(self) -> Series:
        """What the row may be compared within."""
        fixed = {"weak": self.local_batch, "strong": self.global_batch}
        return Series(self.experiment, self.params, self.unit, self.scaling, fixed.get(self.scaling))

    def share(self, part: str) -> float | None:
        """`lost_PART_ms`, or `lost_ms` of "", in per cent of the step."""
        lost: float | None = getattr(self, f"lost_{part}_ms" if part else "lost_ms")
        return None if lost is None or not self.step_ms else 100 * lost / self.step_ms


# The parts that lost_ms is the sum of.
LOSSES = ("input", "allreduce", "skew", "compute", "other")
