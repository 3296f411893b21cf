"""The figure of where a step's time goes."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Patch

from hpcjobs.base.metrics import ScalingRow
from hpcjobs.report.contents import Contents, listed, series, sizes
from hpcjobs.report.figures_style import Drawing, add_note, new_axes
from hpcjobs.report.palette import COLOURS, INK, PAPER, QUIET

_TITLE = "Where a step's time goes"
# Standing bars beyond this many have no room for their names.
_MANY = 16
# From below: name, colour and hatch of each part.
_PARTS = (
    ("compute", COLOURS[0], ""),
    ("input wait", COLOURS[4], "//"),
    ("all-reduce", COLOURS[1], "\\\\"),
    ("skew", COLOURS[3], ".."),
    ("rest", "#9aa4af", "xx"),
)


def parts(row: ScalingRow) -> dict[str, float]:
    """The step in ms, taken apart; empty where nobody did. The parts sum to the step.

    A part below 0 is 0, and the others end at the step all the same: measured parts that are longer than it together
    are shortened alike. Typical computing beyond what they leave of the step is none of it: `rest` is then 0. Without
    it, computing is within the rest.
    """
    if row.step_ms is None or not (measured := _measured(row)):
        return {}
    waits = {name: max(0.0, ms) for name, ms in measured.items()}
    waits = {name: ms * _shortening(row) for name, ms in waits.items()}
    other = max(0.0, row.step_ms - sum(waits.values()))
    compute = min(max(0.0, row.compute_ms or 0.0), other)
    return {"compute": compute, **waits, "rest": other - compute}


def _measured(row: ScalingRow) -> dict[str, float]:
    """The parts beside computing, as the table has them."""
    found = {"input wait": row.input_wait_ms, "all-reduce": row.allreduce_ms, "skew": row.skew_ms}
    return {name: ms for name, ms in found.items() if ms is not None}


def _shortening(row: ScalingRow) -> float:
    """By what the measured parts are multiplied, so that they fit the step."""
    whole = sum(max(0.0, ms) for ms in _measured(row).values())
    return min(1.0, (row.step_ms or 0.0) / whole) if whole else 1.0


def _below(row: ScalingRow) -> dict[str, float]:
    """The parts that are visibly below 0: each is the difference of two measurements, and noise makes it so."""
    return {name: ms for name, ms in _measured(row).items() if ms <= -0.05}


def breakdown(contents: Contents) -> Drawing | None:
    """Stacked bars, one for each size that took its step apart; lying where there are many."""
    lines = [(each, [(row, found) for row in each.measured if (found := parts(row))]) for each in series(contents.rows)]
    lines = [(each, those) for each, those in lines if those]
    if not lines:
        return None
    count, is_alone = sum(len(those) for _, those in lines), len(lines) == 1
    lying = count > _MANY
    figure, axes = new_axes(_TITLE, 1.6 + 0.2 * count) if lying else new_axes(_TITLE)
    at, ticks, names, said = 0.0, [], [], []
    highest = max(sum(found.values()) for _, those in lines for _, found in those)
    for each, those in lines:
        said += [] if is_alone else [f"{each.label}:"]
        for row, found in those:
            _bar(axes, at, found, highest, lying, small=count > 8)
            ticks.append(at)
            label = "" if is_alone or not lying else f"{textwrap.shorten(each.label, 32, placeholder=' ...')}: "
            names.append(f"{label}{row.gpus:,}")
            said.append(_words(row, found))
            at += 1
        if not is_alone and not lying:
            label = textwrap.fill(each.label, max(8, 60 // len(lines)))
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
    (axes.set_yticks if lying else axes.set_xticks)(ticks, names, fontsize=8 if lying else None)
    (axes.set_ylim if lying else axes.set_xlim)(*((at - 0.9, -0.7) if lying else (-0.7, at - 0.9)))
    (axes.set_xlim if lying else axes.set_ylim)(0, highest * 1.1)
    axes.grid(False, axis="y" if lying else "x")
    axes.tick_params(axis="y" if lying else "x", length=0)
    (axes.set_xlabel if lying else axes.set_ylabel)("ms of one step")
    if lying:
        axes.set_ylabel("GPUs (ranks)")
    else:
        axes.set_xlabel("GPUs (ranks)", labelpad=4 if is_alone else 24)
    _legend(axes, [found for _, those in lines for _, found in those], contents)
    add_note(axes, contents.title, [row for _, those in lines for row, _ in those], 40 if is_alone or lying else 60)
    caption = "Exposed waiting only: what overlaps computing costs nothing. Skew is waiting for the slowest rank."
    caption += _adjusted([row for _, those in lines for row, _ in those])
    return Drawing("breakdown", _TITLE, caption, " ".join(said), figure)


def _adjusted(rows: Sequence[ScalingRow]) -> str:
    """What the bars do not show as it was measured."""
    below = {name: [row.gpus for row in rows if name in _below(row)] for name, _, _ in _PARTS}
    text = ""
    if named := [f"{name} on {sizes(where)}" for name, where in below.items() if where]:
        text += f" Measured below 0, by chance, and left out of the bars, which end at the step: {listed(named)}."
    if long := [row.gpus for row in rows if _shortening(row) < 0.9995]:
        text += f" The measured parts are longer than the step, and shortened to fit it, on {sizes(long)}."
    return text


def _bar(axes: Axes, at: float, found: Mapping[str, float], highest: float, lying: bool, small: bool) -> None:
    """One stacked bar with its sum at the end."""
    end = 0.0
    for name, colour, hatch in _PARTS:
        how: dict[str, Any] = {"color": colour, "hatch": hatch, "edgecolor": PAPER, "linewidth": 0}
        if lying:
            axes.barh(at, found.get(name, 0.0), 0.7, end, **how)
        else:
            axes.bar(at, found.get(name, 0.0), 0.7, end, **how)
        end += found.get(name, 0.0)
    place = (end + highest * 0.01, at) if lying else (at, end + highest * 0.015)
    ha, va = ("left", "center") if lying else ("center", "bottom")
    axes.text(*place, f"{end:.3g}", ha=ha, va=va, color=INK, fontsize=6.5 if small else 9)


def _legend(axes: Axes, bars: Sequence[Mapping[str, float]], contents: Contents) -> None:
    """The parts that any bar has, in the order in which they lie upon each other."""
    has_compute = any(row.compute_ms is not None for row in contents.rows)
    there = [part for part in _PARTS if any(found.get(part[0]) for found in bars)]
    handles = [Patch(facecolor=colour, hatch=hatch, edgecolor=PAPER, linewidth=0) for _, colour, hatch in there]
    names = ["compute and rest" if name == "rest" and not has_compute else name for name, _, _ in there]
    axes.legend(handles[::-1], names[::-1], loc="center left", bbox_to_anchor=(1.0, 0.5), handleheight=1.4)


def _words(row: ScalingRow, found: Mapping[str, float]) -> str:
    those = ", ".join(f"{name} {found[name]:.3g} ms" for name, _, _ in _PARTS if found.get(name))
    below = "".join(f"; {name} of {ms:.3g} ms left out" for name, ms in _below(row).items())
    return f"{sizes([row.gpus])}: {sum(found.values()):.3g} ms, of it {those}{below}."
