"""The figures over the number of GPUs: throughput, efficiency, time to train."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from hpcjobs.analysis.intervals import student_interval
from hpcjobs.base.metrics import Run, ScalingRow
from hpcjobs.report.contents import Contents, Series, clean, listed, series
from hpcjobs.report.figures_style import (
    Drawing,
    add_legend,
    add_note,
    draw_interval,
    failed_marker,
    mark_failed,
    new_axes,
    series_style,
    set_size_axis,
    set_value_axis,
)
from hpcjobs.report.palette import GRID, QUIET

if TYPE_CHECKING:
    from hpcjobs.analysis.predict import Interval, Prediction

_KINDS = {
    "measured_to_target": "measured until the target was reached",
    "measured_fixed_epochs": "measured over a fixed number of epochs",
    "derived_fixed_epochs": "derived from the steady rate, for a fixed number of epochs",
}
_Entry = tuple[Any, str]
_Point = tuple[float, float | None, float | None]


@dataclasses.dataclass(frozen=True)
class _Plot:
    """What one of the figures shows of a row, of a prediction, and of the ideal; None where it has nothing."""

    of_row: Callable[[ScalingRow], _Point | None]
    of_prediction: Callable[[Prediction], Interval | None]
    ideal: Callable[[Series, int], float | None]


def throughput(contents: Contents) -> Drawing | None:
    """images/s with the ideal line, intervals, the model, and what is laid beside."""
    plot = _Plot(
        lambda row: _point(row.images_per_sec, row.images_per_sec_low, row.images_per_sec_high),
        lambda prediction: prediction.images_per_sec,
        lambda each, gpus: None if each.per_gpu is None else each.per_gpu * gpus,
    )
    unit = " and ".join(dict.fromkeys(each.unit for each in series(contents.rows)))
    beside = dict(contents.reference.images_per_sec) if contents.reference else {}
    return _drawing(contents, plot, "scaling", "Throughput", f"{unit}/s over all GPUs", beside)


def efficiency(contents: Contents) -> Drawing | None:
    """Speed-up per GPU of the base. One size alone has none."""
    plot = _Plot(
        lambda row: _point(row.efficiency, row.efficiency_low, row.efficiency_high),
        lambda prediction: None,
        lambda each, gpus: 1.0,
    )
    if not any(row.efficiency is not None and row.gpus != row.baseline_gpus for row in contents.rows):
        return None
    reference = contents.reference
    beside = {gpus: reference.efficiency(gpus) for gpus in reference.images_per_sec} if reference else {}
    return _drawing(contents, plot, "efficiency", "Efficiency", "efficiency, over the base", beside)


def time_to_train(contents: Contents) -> Drawing | None:
    """The whole training, in the unit that suits it; what was measured and what is derived are told apart."""
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
    note = listed([_KINDS.get(kind, kind) for kind in kinds])
    plot = _Plot(of_row, of_prediction, ideal)
    return _drawing(contents, plot, "time-to-train", "Time to train", f"time to train, {unit}", {}, note)


def _times(runs: Sequence[Run], row: ScalingRow) -> list[float]:
    key = (row.experiment, row.params, row.gpus, row.local_batch, row.global_batch)
    return [
        run.time_to_train_s
        for run in runs
        if (run.experiment, run.params, run.gpus, run.local_batch, run.global_batch) == key
        and run.images_per_sec is not None
        and run.time_to_train_s is not None
    ]


def _point(value: float | None, low: float | None, high: float | None) -> _Point | None:
    return None if value is None else (value, low, high)


# --- drawing -------------------------------------------------------------------------------------


def _drawing(
    contents: Contents, plot: _Plot, name: str, title: str, unit: str, beside: dict[int, float], note: str = ""
) -> Drawing | None:
    lines = series(contents.rows)
    others = series(contents.others)
    points = [plot.of_row(row) for each in (*lines, *others) for row in each.measured]
    ideals = [plot.ideal(each, row.gpus) for each in lines if each.connected for row in each.rows]
    values = [value for value in (*(point and point[0] for point in points), *ideals, *beside.values()) if value]
    if not any(plot.of_row(row) for each in lines for row in each.measured):
        return None
    figure, axes = new_axes(title)
    shares = name == "efficiency"
    run = [row.gpus for row in contents.rows]
    predictions = [] if shares else _predictions(contents, plot)
    if shares:
        axes.set_ylim(0, max(1.1, *(1.08 * value for value in values)))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    else:
        # A model that foretells nothing does not say how far the axis goes.
        set_value_axis(axes, values + [figure.value for _, _, figure in predictions if not figure.wide])
    ahead = [size for _, size, _ in predictions] + list(beside) + [row.gpus for row in contents.others]
    set_size_axis(axes, run, ahead)
    axes.set_ylabel(unit)
    entries: list[_Entry] = []
    parts: set[str] = set()
    said: list[str] = []
    for number, each in enumerate(lines):
        found = _line(axes, each, plot, series_style(number, each.connected))
        entries += found[0]
        parts |= found[1]
        said.append(found[2])
    # All ideals look alike: one entry, after the series, says what they are.
    ideal = [entry for entry in entries if entry[1] == "ideal"][:1]
    entries = [entry for entry in entries if entry[1] != "ideal"] + ideal
    if predictions:
        entries.append(_model(axes, predictions))
        parts |= {"model", "wide"} if any(figure.wide for _, _, figure in predictions) else {"model"}
    found_beside, said_beside = _beside(axes, contents, plot, beside, others)
    entries += found_beside
    said += said_beside
    if failed := [row.gpus for each in lines for row in each.failed if not _measured_at(lines, row.gpus)]:
        mark_failed(axes, failed, QUIET)
        entries.append((failed_marker(QUIET), "no measurement"))
        said.append(f"No measurement at {', '.join(map(str, sorted(set(failed))))} GPUs.")
    add_note(axes, contents.title, contents.rows)
    # Where the lines are not, as a rule: efficiencies stand above, throughputs rise to the right, times fall.
    places = {"scaling": "upper left", "efficiency": "lower left", "time-to-train": "upper right"}
    add_legend(figure, axes, entries, loc=places[name])
    return Drawing(name, title, _caption(name, parts, note), f"{title}: {unit}. {' '.join(said)}", figure)


def _measured_at(lines: Sequence[Series], gpus: int) -> bool:
    return len(lines) == 1 and any(row.gpus == gpus for row in lines[0].measured)


def _line(axes: Axes, each: Series, plot: _Plot, style: dict[str, Any]) -> tuple[list[_Entry], set[str], str]:
    """One series with its intervals and its ideal; the legend's entries, what was drawn, and the figures in words."""
    points = [(row.gpus, point) for row in each.measured if (point := plot.of_row(row))]
    if not points:
        return [], set(), ""
    parts: set[str] = set()
    entries: list[_Entry] = []
    ideal = [(row.gpus, plot.ideal(each, row.gpus)) for row in each.rows]
    whole = [(gpus, value) for gpus, value in ideal if value is not None]
    if each.connected and len({gpus for gpus, _ in whole}) > 1:
        (dots,) = axes.plot(*zip(*whole, strict=True), color=QUIET, linestyle=":", linewidth=1.6, zorder=1.5)
        entries.append((dots, "ideal"))
        parts.add("ideal")
    for gpus, (value, low, high) in points:
        if draw_interval(axes, gpus, value, low, high, style["color"]):
            parts.add("intervals")
    (drawn,) = axes.plot([gpus for gpus, _ in points], [point[0] for _, point in points], **style)
    values = "; ".join(f"{gpus} GPU{'s' * (gpus > 1)}: {_words(axes, point)}" for gpus, point in points)
    prefix = "" if each.label == "measured" else f"{each.label}: "
    return [(drawn, each.label), *entries], parts, f"{prefix}{values}."


def _words(axes: Axes, point: _Point) -> str:
    share = isinstance(axes.yaxis.get_major_formatter(), PercentFormatter)
    value, low, high = (None if each is None else f"{100 * each:.1f} %" if share else f"{each:,.4g}" for each in point)
    return f"{value}" if low is None or high is None else f"{value} ({low} to {high})"


def _predictions(contents: Contents, plot: _Plot) -> list[tuple[str, int, Interval]]:
    """The preferred model's figures: series, size, figure."""
    return [
        (f"{fitted.experiment} {fitted.params} {fitted.scaling}", prediction.gpus, figure)
        for fitted in contents.models
        for model in fitted.models[:1]
        for prediction in model.predictions
        if (figure := plot.of_prediction(prediction)) is not None
    ]


def _model(axes: Axes, predictions: Sequence[tuple[str, int, Interval]]) -> _Entry:
    handle: Any = None
    for key in dict.fromkeys(name for name, _, _ in predictions):
        those = [(gpus, figure) for name, gpus, figure in predictions if name == key]
        gpus = [size for size, _ in those]
        # A band may have no end, which no renderer draws.
        bottom, top = axes.get_ylim()
        low, high = ([min(top, max(bottom, getattr(figure, end))) for _, figure in those] for end in ("low", "high"))
        axes.fill_between(gpus, low, high, color=GRID, alpha=0.6, linewidth=0, zorder=1)
        (handle,) = axes.plot(
            gpus, [figure.value for _, figure in those], color=QUIET, linestyle=(0, (2, 1)), linewidth=1.4,
            marker="o", markersize=4, markerfacecolor="none", zorder=1.8,
        )  # fmt: skip
    return handle, "model, 95 % interval"


def _beside(
    axes: Axes, contents: Contents, plot: _Plot, beside: dict[int, float], others: Sequence[Series]
) -> tuple[list[_Entry], list[str]]:
    """A published table and another sweep, quiet and under the rest."""
    entries: list[_Entry] = []
    said: list[str] = []
    if beside and contents.reference:
        (line,) = axes.plot(*zip(*sorted(beside.items()), strict=True), **_quiet("*"))
        entries.append((line, clean(contents.reference.name)))
        said.append(f"{contents.reference.name} beside it.")
    for number, each in enumerate(others):
        points = [(row.gpus, point) for row in each.measured if (point := plot.of_row(row))]
        if not points:
            continue
        for gpus, (value, low, high) in points:
            draw_interval(axes, gpus, value, low, high, QUIET)
        look_of = _quiet("hHdp<>"[number % 6])
        (line,) = axes.plot([gpus for gpus, _ in points], [point[0] for _, point in points], **look_of)
        entries.append(
            (
                line,
                clean(contents.others_name)
                if each.label == "measured"
                else f"{clean(contents.others_name)}: {each.label}",
            )
        )
        said.append(f"{contents.others_name} beside it.")
    return entries, said


def _quiet(marker: str) -> dict[str, Any]:
    return {"color": QUIET, "marker": marker, "markersize": 7, "markerfacecolor": "none", "linewidth": 1}


def _caption(name: str, parts: set[str], note: str) -> str:
    ideals = {
        "scaling": "the base times the number of GPUs",
        "efficiency": "no loss",
        "time-to-train": "the base divided by the number of GPUs",
    }
    sentences = [f"{note[:1].upper()}{note[1:]}."] if note else []
    if "intervals" in parts:
        sentences.append("Bars are 95 % intervals over runs.")
    if "ideal" in parts:
        sentences.append(f"Dotted: {ideals[name]}.")
    if "model" in parts:
        sentences.append("Small rings and the band behind them: the fitted model, and where a run would be with 95 %.")
    if "wide" in parts:
        sentences.append("The sizes vary too much to foretell any: the band ends at the axes, not where it would.")
    return " ".join(sentences)
