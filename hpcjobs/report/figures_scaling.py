"""The figures over the number of GPUs: throughput, efficiency, time to train."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from hpcjobs.analysis.intervals import student_interval
from hpcjobs.base.metrics import Run, ScalingRow
from hpcjobs.report.contents import Contents, Series, clean, listed, series, sizes, unit_of
from hpcjobs.report.figures_style import (
    Drawing,
    add_legend,
    add_note,
    draw_intervals,
    failed_marker,
    mark_failed,
    new_axes,
    series_style,
    set_size_axis,
    set_value_axis,
)
from hpcjobs.report.palette import GRID, QUIET

if TYPE_CHECKING:
    from hpcjobs.analysis.intervals import Interval
    from hpcjobs.analysis.predict import Prediction

_KINDS = {
    "measured_to_target": "measured until the target was reached",
    "measured_fixed_epochs": "measured over a fixed number of epochs",
    "measured_command": "measured over the whole command, its start-up included",
    "derived_fixed_epochs": "derived from the steady rate, for a fixed number of epochs",
}
# A value with the ends of its interval, if it has one.
_Point = tuple[float, float | None, float | None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Plot:
    """What one of the figures shows.

    `of_row`, `of_prediction` and `ideal` give the value of a row, of a prediction, and of ideal scaling at a number of
    GPUs; None if there is none. `reference` has the values of the published table. `ideal_is` and `note` are parts of
    the caption. `legend_at` is the corner where the lines leave room, as a rule.
    """

    name: str
    title: str
    unit: str
    of_row: Callable[[ScalingRow], _Point | None]
    of_prediction: Callable[[Prediction], Interval | None]
    ideal: Callable[[Series, int], float | None]
    ideal_is: str
    legend_at: str
    is_share: bool = False
    reference: Mapping[int, float] = dataclasses.field(default_factory=dict)
    note: str = ""


def throughput(contents: Contents) -> Drawing | None:
    """Throughput with the ideal line, intervals, the model, the published table and the other sweep."""
    plot = _Plot(
        name="scaling",
        title="Throughput",
        unit=f"{unit_of(contents.rows)}/s over all GPUs",
        of_row=lambda row: _point(row.throughput, row.throughput_low, row.throughput_high),
        of_prediction=lambda prediction: prediction.throughput,
        ideal=lambda each, gpus: None if each.per_gpu is None else each.per_gpu * gpus,
        ideal_is="the base times the number of GPUs",
        legend_at="upper left",
        reference=contents.reference.throughput if contents.reference else {},
    )
    return _drawing(contents, plot)


def efficiency(contents: Contents) -> Drawing | None:
    """The efficiency relative to the base. None if there is only one size."""
    if not any(row.efficiency is not None and row.gpus != row.baseline_gpus for row in contents.rows):
        return None
    reference = contents.reference
    plot = _Plot(
        name="efficiency",
        title="Efficiency",
        unit="efficiency, relative to the base",
        of_row=lambda row: _point(row.efficiency, row.efficiency_low, row.efficiency_high),
        of_prediction=lambda prediction: None,
        ideal=lambda each, gpus: 1.0,
        ideal_is="no loss",
        legend_at="lower left",
        is_share=True,
        reference={gpus: reference.efficiency(gpus) for gpus in reference.throughput} if reference else {},
    )
    return _drawing(contents, plot)


def time_to_train(contents: Contents) -> Drawing | None:
    """The time of the whole training, in a suitable unit. The caption says whether it was measured or derived."""
    known = [row.time_to_train_s for row in contents.rows if row.time_to_train_s is not None]
    if not known:
        return None
    divisor, unit = next(
        ((s, name) for s, name in ((86400, "days"), (3600, "hours"), (60, "minutes")) if max(known) >= 2 * s),
        (1, "seconds"),
    )

    def of_row(row: ScalingRow) -> _Point | None:
        found = student_interval(_times(contents.runs, row)) or (None, None)
        low, high = (None if end is None else max(0.0, end) / divisor for end in found)
        return None if row.time_to_train_s is None else (row.time_to_train_s / divisor, low, high)

    def of_prediction(prediction: Prediction) -> Interval | None:
        found = prediction.time_to_train_s
        return found and dataclasses.replace(
            found, value=found.value / divisor, low=found.low / divisor, high=found.high / divisor
        )

    def ideal(each: Series, gpus: int) -> float | None:
        timed = [row for row in each.rows if row.time_to_train_s is not None]
        base = next((row for row in timed if row.gpus == row.baseline_gpus), None)
        return None if base is None else (base.time_to_train_s or 0.0) / divisor * base.gpus / gpus

    kinds = sorted({word for row in contents.rows for word in row.time_to_train_kind.split()})
    plot = _Plot(
        name="time-to-train",
        title="Time to train",
        unit=f"time to train, {unit}",
        of_row=of_row,
        of_prediction=of_prediction,
        ideal=ideal,
        ideal_is="the base divided by the number of GPUs",
        legend_at="upper right",
        note=listed([_KINDS.get(kind, kind) for kind in kinds]),
    )
    return _drawing(contents, plot)


def _times(runs: Sequence[Run], row: ScalingRow) -> list[float]:
    key = (row.experiment, row.params, row.gpus, row.local_batch, row.global_batch)
    return [
        run.time_to_train_s
        for run in runs
        if (run.experiment, run.params, run.gpus, run.local_batch, run.global_batch) == key
        and run.throughput is not None
        and run.time_to_train_s is not None
    ]


def _point(value: float | None, low: float | None, high: float | None) -> _Point | None:
    return None if value is None else (value, low, high)


# --- drawing -------------------------------------------------------------------------------------


@dataclasses.dataclass
class _Drawn:
    """What has been drawn so far: the entries of the legend, the words for a screen reader, facts for the caption."""

    entries: list[tuple[Any, str]] = dataclasses.field(default_factory=list)
    words: list[str] = dataclasses.field(default_factory=list)
    ideal: Any = None
    has_intervals: bool = False
    has_model: bool = False
    is_model_too_wide: bool = False


def _drawing(contents: Contents, plot: _Plot) -> Drawing | None:
    lines, others = series(contents.rows), series(contents.others)
    if not any(plot.of_row(row) for each in lines for row in each.measured):
        return None
    figure, axes = new_axes(plot.title)
    predictions = _predictions(contents, plot)
    _set_axes(axes, contents, plot, predictions)
    drawn = _Drawn()
    for number, each in enumerate(lines):
        _draw_series(axes, each, plot, series_style(number, each.connected), drawn)
    if drawn.ideal is not None:
        # All ideal lines look alike, so one entry after the series explains them.
        drawn.entries.append((drawn.ideal, "ideal"))
    if predictions:
        _draw_model(axes, predictions, drawn)
    _draw_reference(axes, contents, plot, drawn)
    _draw_others(axes, contents, others, plot, drawn)
    if failed := [row.gpus for each in lines for row in each.failed if not _measured_at(lines, row.gpus)]:
        mark_failed(axes, failed, QUIET)
        drawn.entries.append((failed_marker(QUIET), "no measurement"))
        drawn.words.append(f"No measurement on {sizes(failed)}.")
    add_note(axes, contents.title, contents.rows)
    if len(drawn.entries) > 1 or any(each.label for each in lines):
        add_legend(figure, axes, drawn.entries, loc=plot.legend_at)
    description = f"{plot.title}: {plot.unit}. {' '.join(drawn.words)}"
    return Drawing(plot.name, plot.title, _caption(plot, drawn), description, figure)


def _set_axes(axes: Axes, contents: Contents, plot: _Plot, predictions: Sequence[tuple[str, int, Interval]]) -> None:
    """The axes cover all rows, the ideal lines, the other tables, and the predictions that are of use."""
    lines = series(contents.rows)
    points = [plot.of_row(row) for each in (*lines, *series(contents.others)) for row in each.measured]
    ideals = [plot.ideal(each, row.gpus) for each in lines if each.connected for row in each.rows]
    values = [
        value for value in (*(point and point[0] for point in points), *ideals, *plot.reference.values()) if value
    ]
    if plot.is_share:
        axes.set_ylim(0, max(1.1, *(1.08 * value for value in values)))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    else:
        set_value_axis(axes, values + [interval.value for _, _, interval in predictions if not interval.wide])
    not_run = [gpus for _, gpus, _ in predictions] + list(plot.reference) + [row.gpus for row in contents.others]
    set_size_axis(axes, [row.gpus for row in contents.rows], not_run)
    axes.set_ylabel(plot.unit)


def _measured_at(lines: Sequence[Series], gpus: int) -> bool:
    return len(lines) == 1 and any(row.gpus == gpus for row in lines[0].measured)


def _draw_series(axes: Axes, each: Series, plot: _Plot, style: dict[str, Any], drawn: _Drawn) -> None:
    """One series with its intervals and its ideal line."""
    points = [(row.gpus, point) for row in each.measured if (point := plot.of_row(row))]
    if not points:
        return
    ideal = [(row.gpus, value) for row in each.rows if (value := plot.ideal(each, row.gpus)) is not None]
    if each.connected and len({gpus for gpus, _ in ideal}) > 1:
        (drawn.ideal,) = axes.plot(*zip(*ideal, strict=True), color=QUIET, linestyle=":", linewidth=1.6, zorder=1.5)
    drawn.has_intervals = draw_intervals(axes, points, style["color"]) or drawn.has_intervals
    (line,) = axes.plot([gpus for gpus, _ in points], [point[0] for _, point in points], **style)
    drawn.entries.append((line, each.label or "measured"))
    values = "; ".join(f"{sizes([gpus])}: {_words(plot, point)}" for gpus, point in points)
    drawn.words.append(f"{each.label}: {values}." if each.label else f"{values}.")


def _words(plot: _Plot, point: _Point) -> str:
    value, low, high = (
        None if each is None else f"{100 * each:.1f} %" if plot.is_share else _plain(each) for each in point
    )
    return f"{value}" if low is None or high is None else f"{value} ({low} to {high})"


def _plain(value: float) -> str:
    """Four significant digits without an exponent: a rate of tokens has five digits or more."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _predictions(contents: Contents, plot: _Plot) -> list[tuple[str, int, Interval]]:
    """What the preferred models predict: series, number of GPUs, value with interval."""
    return [
        (f"{fitted.experiment} {fitted.params} {fitted.scaling}", prediction.gpus, interval)
        for fitted in contents.models
        for model in fitted.models[:1]
        for prediction in model.predictions
        if (interval := plot.of_prediction(prediction)) is not None
    ]


def _draw_model(axes: Axes, predictions: Sequence[tuple[str, int, Interval]], drawn: _Drawn) -> None:
    handle: Any = None
    for key in dict.fromkeys(name for name, _, _ in predictions):
        those = [(gpus, interval) for name, gpus, interval in predictions if name == key]
        gpus = [size for size, _ in those]
        # The band ends at the axes: it may be unbounded, and no renderer draws that.
        bottom, top = axes.get_ylim()
        low, high = ([min(top, max(bottom, getattr(each, end))) for _, each in those] for end in ("low", "high"))
        axes.fill_between(gpus, low, high, color=GRID, alpha=0.6, linewidth=0, zorder=1)
        (handle,) = axes.plot(
            gpus, [interval.value for _, interval in those], color=QUIET, linestyle=(0, (2, 1)), linewidth=1.4,
            marker="o", markersize=4, markerfacecolor="none", zorder=1.8,
        )  # fmt: skip
    drawn.entries.append((handle, "model, 95 % interval"))
    drawn.has_model = True
    drawn.is_model_too_wide = any(interval.wide for _, _, interval in predictions)


def _draw_reference(axes: Axes, contents: Contents, plot: _Plot, drawn: _Drawn) -> None:
    """The published table, in a muted colour."""
    if not contents.reference or not plot.reference:
        return
    (line,) = axes.plot(*zip(*sorted(plot.reference.items()), strict=True), **_muted("*"))
    drawn.entries.append((line, clean(contents.reference.name)))
    drawn.words.append(f"For comparison: {contents.reference.name}.")


def _draw_others(axes: Axes, contents: Contents, others: Sequence[Series], plot: _Plot, drawn: _Drawn) -> None:
    """The other sweep, in a muted colour."""
    for number, each in enumerate(others):
        points = [(row.gpus, point) for row in each.measured if (point := plot.of_row(row))]
        if not points:
            continue
        draw_intervals(axes, points, QUIET)
        style = _muted("hHdp<>"[number % 6])
        (line,) = axes.plot([gpus for gpus, _ in points], [point[0] for _, point in points], **style)
        name = clean(contents.others_name)
        drawn.entries.append((line, f"{name}: {each.label}" if each.label else name))
        drawn.words.append(f"For comparison: {contents.others_name}.")


def _muted(marker: str) -> dict[str, Any]:
    return {"color": QUIET, "marker": marker, "markersize": 7, "markerfacecolor": "none", "linewidth": 1}


def _caption(plot: _Plot, drawn: _Drawn) -> str:
    sentences = [f"{plot.note[:1].upper()}{plot.note[1:]}."] if plot.note else []
    if drawn.has_intervals:
        sentences.append("Bars are 95 % intervals over runs.")
    if drawn.ideal is not None:
        sentences.append(f"Dotted line: {plot.ideal_is}.")
    if drawn.has_model:
        sentences.append("Small rings: the fitted model. Band: the 95 % interval of one new run.")
    if drawn.is_model_too_wide:
        sentences.append("The sizes vary too much for a prediction. The band is cut off at the axes.")
    return " ".join(sentences)
