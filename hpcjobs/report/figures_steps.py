"""The figure of where a step's time goes."""

from __future__ import annotations

import textwrap

from matplotlib.patches import Patch

from hpcjobs.records import ScalingRow
from hpcjobs.report import figures_style as look
from hpcjobs.report.figures_style import Drawing
from hpcjobs.report.palette import COLOURS, INK, PAPER, QUIET
from hpcjobs.report.study import Study, series

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

    Typical computing beyond what the other parts leave of the step is none of it: `rest` is then 0. Without it,
    computing is within the rest.
    """
    if row.other_ms is None:
        return {}
    other = max(0.0, row.other_ms)
    compute = min(row.compute_ms or 0.0, other)
    measured = {"input wait": row.input_wait_ms, "all-reduce": row.allreduce_ms, "skew": row.skew_ms}
    found = {"compute": compute, **{name: ms for name, ms in measured.items() if ms is not None}}
    return {name: max(0.0, ms) for name, ms in {**found, "rest": other - compute}.items()}


def breakdown(study: Study) -> Drawing | None:
    """Stacked bars, one for each size that took its step apart."""
    lines = [(each, [(row, found) for row in each.measured if (found := parts(row))]) for each in series(study.rows)]
    lines = [(each, those) for each, those in lines if those]
    if not lines:
        return None
    figure, axes = look.axes_of("Where a step's time goes")
    at, ticks, names, said = 0.0, [], [], []
    size = 9 if sum(len(those) for _, those in lines) < 9 else 6.5
    highest = max(sum(found.values()) for _, those in lines for _, found in those)
    for each, those in lines:
        first = at
        for row, found in those:
            bottom = 0.0
            for name, colour, hatch in _PARTS:
                axes.bar(at, found.get(name, 0.0), 0.7, bottom, color=colour, hatch=hatch, edgecolor=PAPER, linewidth=0)
                bottom += found.get(name, 0.0)
            axes.text(at, bottom + highest * 0.015, f"{bottom:.3g}", ha="center", va="bottom", color=INK, fontsize=size)
            ticks.append(at)
            names.append(f"{row.gpus:,}")
            words = ", ".join(f"{name} {found[name]:.3g} ms" for name, _, _ in _PARTS if found.get(name))
            said.append(f"{row.gpus} GPU{'s' * (row.gpus > 1)}: {bottom:.3g} ms, of it {words}.")
            at += 1
        if len(lines) > 1:
            label = textwrap.fill(each.label, max(8, 60 // len(lines)))
            axes.text((first + at - 1) / 2, -0.1, label, ha="center", va="top", fontsize=8, color=QUIET,
                      transform=axes.get_xaxis_transform())  # fmt: skip
            said.insert(len(said) - len(those), f"{each.label}:")
        at += 0.6
    axes.set_xticks(ticks, names)
    axes.set_xlim(-0.7, at - 0.9)
    axes.set_ylim(0, highest * 1.1)
    axes.grid(False, axis="x")
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel("ms of one step")
    axes.set_xlabel("GPUs (ranks)", labelpad=4 if len(lines) == 1 else 24)
    there = {name for _, those in lines for _, found in those for name in found if found[name]}
    shown = [part for part in _PARTS if part[0] in there]
    split = any(row.compute_ms is not None for _, those in lines for row, _ in those)
    handles = [
        (Patch(facecolor=colour, hatch=hatch, edgecolor=PAPER, linewidth=0), _name(name, split))
        for name, colour, hatch in reversed(shown)
    ]
    axes.legend(*zip(*handles, strict=True), loc="center left", bbox_to_anchor=(1.0, 0.5), handleheight=1.4)
    look.note(axes, study.title, [row for _, those in lines for row, _ in those], 40 if len(lines) == 1 else 60)
    caption = "Exposed waiting only: what overlaps computing costs nothing. Skew is waiting for the slowest rank."
    return Drawing("breakdown", "Where a step's time goes", caption, " ".join(said), figure)


def _name(name: str, split: bool) -> str:
    return name if split or name != "rest" else "compute and rest"
