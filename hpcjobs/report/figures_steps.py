"""The figure that splits the time of a step into its parts."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Patch

from hpcjobs.analysis.attribution import not_told_apart
from hpcjobs.base.metrics import ScalingRow
from hpcjobs.report.contents import Contents, Series, listed, series, sizes
from hpcjobs.report.figures_style import Drawing, add_note, new_axes
from hpcjobs.report.palette import COLOURS, INK, PAPER, QUIET

_TITLE = "Where a step's time goes"
# More vertical bars than this have no room for their names: then the bars are horizontal.
_MANY = 16
# More bars than this nobody tells apart, and each takes tens of milliseconds.
_MOST = 64
# Name, colour and hatch of each part, from the bottom up.
_PARTS = (
    ("compute", COLOURS[0], ""),
    ("input wait", COLOURS[4], "//"),
    ("all-reduce", COLOURS[1], "\\\\"),
    ("skew", COLOURS[3], ".."),
    ("rest", "#9aa4af", "xx"),
)


def parts(row: ScalingRow) -> dict[str, float]:
    """The parts of the step in ms. They sum to the step. Empty if no part was measured.

    A part measured below 0 counts as 0. If the measured waits together are longer than the step, all are shortened by
    the same factor. `compute` is at most what the waits leave of the step. If it was not measured, it is in `rest`.
    """
    if row.step_ms is None or not (measured := _measured(row)):
        return {}
    waits = {name: max(0.0, ms) for name, ms in measured.items()}
    waits = {name: ms * _shortening(row) for name, ms in waits.items()}
    other = max(0.0, row.step_ms - sum(waits.values()))
    compute = min(max(0.0, row.compute_ms or 0.0), other)
    return {"compute": compute, **waits, "rest": other - compute}


# The column of each measured wait.
_WAITS = {"input wait": "input_wait_ms", "all-reduce": "allreduce_ms", "skew": "skew_ms"}


def _measured(row: ScalingRow) -> dict[str, float]:
    """The measured waits: all parts but computing, with the values of the table."""
    found = {name: getattr(row, column) for name, column in _WAITS.items()} | {"input wait": row.input_lost_ms}
    return {name: ms for name, ms in found.items() if ms is not None}


def _ends(row: ScalingRow) -> dict[str, tuple[float, float]]:
    """The ends of the 95 % intervals of the measured waits, where they are known."""
    found = {name: (getattr(row, f"{column}_low"), getattr(row, f"{column}_high")) for name, column in _WAITS.items()}
    return {name: ends for name, ends in found.items() if None not in ends}


def _shortening(row: ScalingRow) -> float:
    """The factor that makes the measured waits fit into the step; 1 if they do."""
    whole = sum(max(0.0, ms) for ms in _measured(row).values())
    return min(1.0, (row.step_ms or 0.0) / whole) if whole else 1.0


def _below(row: ScalingRow) -> dict[str, float]:
    """The parts visibly below 0. A part is the difference of two measurements, so that noise can make it negative."""
    return {name: ms for name, ms in _measured(row).items() if ms <= -0.05}


def breakdown(contents: Contents) -> Drawing | None:
    """Stacked bars, one for each size whose step was split. Many bars are drawn horizontally, and at most _MOST."""
    lines = [(each, [(row, found) for row in each.measured if (found := parts(row))]) for each in series(contents.rows)]
    lines = [(each, those) for each, those in lines if those]
    if not lines:
        return None
    every = sum(len(those) for _, those in lines)
    step = -(-every // _MOST)
    # The largest size is shown, and then each `step`th below it.
    lines = [(each, those[::-1][::step][::-1]) for each, those in lines[:_MOST]]
    count, is_alone = sum(len(those) for _, those in lines), len(lines) == 1
    is_horizontal = count > _MANY
    figure, axes = new_axes(_TITLE, 1.6 + 0.2 * count) if is_horizontal else new_axes(_TITLE)
    at, ticks, names, words = 0.0, [], [], []
    highest = max(sum(found.values()) for _, those in lines for _, found in those)
    for each, those in lines:
        words += [] if is_alone else [f"{_name(each)}:"]
        for row, found in those:
            _bar(axes, at, found, highest, is_horizontal, small=count > 8)
            _errors(axes, at, found, row, is_horizontal)
            ticks.append(at)
            label = f"{textwrap.shorten(_name(each), 32, placeholder=' ...')}: "
            names.append(f"{label if is_horizontal and not is_alone else ''}{row.gpus:,}")
            words.append(_words(row, found))
            at += 1
        if not is_alone and not is_horizontal:
            label = textwrap.fill(_name(each), max(8, 60 // len(lines)))
            middle = at - (len(those) + 1) / 2
            axes.text(
                middle,
                -0.1,
                label,
                transform=axes.get_xaxis_transform(),
                ha="center",
                va="top",
                fontsize=8,
                color=QUIET,
            )
        at += 0.6
    if is_horizontal:
        axes.set_yticks(ticks, names, fontsize=8)
        axes.set_ylim(at - 0.9, -0.7)
        axes.set_xlim(0, highest * 1.1)
        axes.set_xlabel("ms of one step")
        axes.set_ylabel("GPUs (ranks)")
    else:
        axes.set_xticks(ticks, names)
        axes.set_xlim(-0.7, at - 0.9)
        axes.set_ylim(0, highest * 1.1)
        axes.set_xlabel("GPUs (ranks)", labelpad=4 if is_alone else 24)
        axes.set_ylabel("ms of one step")
    axes.grid(False, axis="y" if is_horizontal else "x")
    axes.tick_params(axis="y" if is_horizontal else "x", length=0)
    rows = [row for _, those in lines for row, _ in those]
    _legend(axes, [found for _, those in lines for _, found in those], contents)
    add_note(axes, contents.title, rows, 40 if is_alone or is_horizontal else 60)
    caption = "Only exposed waiting counts: waiting that overlaps computing costs no time."
    caption += " Skew is waiting for the slowest rank."
    if any(map(_ends, rows)):
        caption += " Lines show 95 % intervals."
    if count < every:
        caption += f" {count} of {every:,} bars are shown; the table has all."
    caption += _adjusted(rows)
    return Drawing("breakdown", _TITLE, caption, " ".join(words), figure)


def _name(each: Series) -> str:
    return each.label or "measured"


def _adjusted(rows: Sequence[ScalingRow]) -> str:
    """Sentences about the parts that the bars do not show as they were measured."""
    below = {name: [row.gpus for row in rows if name in _below(row)] for name, _, _ in _PARTS}
    text = ""
    if named := [f"{name} on {sizes(where)}" for name, where in below.items() if where]:
        text += f" Measured below 0 by chance and left out of the bars: {listed(named)}."
    names = {column: name for name, column in _WAITS.items()} | {"compute_ms": "compute"}
    vague = {name: [row.gpus for row in rows if column in not_told_apart(row)] for column, name in names.items()}
    if named := [f"{name} on {sizes(where)}" for name, where in vague.items() if where]:
        text += f" Not told apart from nothing, because the control blocks differ: {listed(named)}."
    if long := [row.gpus for row in rows if _shortening(row) < 0.9995]:
        text += f" On {sizes(long)} the measured parts are longer than the step, and the bars shorten them to fit."
    return text


def _bar(axes: Axes, at: float, found: Mapping[str, float], highest: float, is_horizontal: bool, small: bool) -> None:
    """One stacked bar, with the sum of its parts at the end."""
    end = 0.0
    for name, colour, hatch in _PARTS:
        how: dict[str, Any] = {"color": colour, "hatch": hatch, "edgecolor": PAPER, "linewidth": 0}
        if is_horizontal:
            axes.barh(at, found.get(name, 0.0), 0.7, end, **how)
        else:
            axes.bar(at, found.get(name, 0.0), 0.7, end, **how)
        end += found.get(name, 0.0)
    place = (end + highest * 0.01, at) if is_horizontal else (at, end + highest * 0.015)
    ha, va = ("left", "center") if is_horizontal else ("center", "bottom")
    axes.text(*place, f"{end:.3g}", ha=ha, va=va, color=INK, fontsize=6.5 if small else 9)


def _errors(axes: Axes, at: float, found: Mapping[str, float], row: ScalingRow, is_horizontal: bool) -> None:
    """The interval of each wait as a line around the end of its part, beside those of the other parts."""
    end, aside = 0.0, -0.18
    for name, _, _ in _PARTS:
        end += found.get(name, 0.0)
        ends = _ends(row).get(name)
        # A part that the bar does not show as measured has no place for its interval.
        if ends is not None and found.get(name) and _shortening(row) >= 0.9995:
            lower, upper = (max(0.0, end + each - found[name]) for each in ends)
            draw = axes.hlines if is_horizontal else axes.vlines
            draw(at + aside, lower, upper, color=INK, linewidth=1)
        aside += 0.12


def _legend(axes: Axes, bars: Sequence[Mapping[str, float]], contents: Contents) -> None:
    """The parts that any bar has, in the order in which they are stacked."""
    has_compute = any(row.compute_ms is not None for row in contents.rows)
    there = [part for part in _PARTS if any(found.get(part[0]) for found in bars)]
    handles = [Patch(facecolor=colour, hatch=hatch, edgecolor=PAPER, linewidth=0) for _, colour, hatch in there]
    names = ["compute and rest" if name == "rest" and not has_compute else name for name, _, _ in there]
    axes.legend(handles[::-1], names[::-1], loc="center left", bbox_to_anchor=(1.0, 0.5), handleheight=1.4)


def _words(row: ScalingRow, found: Mapping[str, float]) -> str:
    between = {name: f" ({low:.3g} to {high:.3g})" for name, (low, high) in _ends(row).items()}
    those = ", ".join(f"{name} {found[name]:.3g} ms{between.get(name, '')}" for name, _, _ in _PARTS if found.get(name))
    below = "".join(f"; {name} of {ms:.3g} ms left out" for name, ms in _below(row).items())
    return f"{sizes([row.gpus])}: {sum(found.values()):.3g} ms, made up of {those}{below}."
