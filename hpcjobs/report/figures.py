"""Figures of a scaling table, as PNG and SVG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # login nodes have no screen

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter, ScalarFormatter, StrMethodFormatter

from hpcjobs.files import write_atomic
from hpcjobs.records import ScalingRow

# Okabe and Ito's palette, told apart by colour-blind readers; markers and dashes differ too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vPX"
_DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))


def write(folder: Path, rows: Sequence[ScalingRow], *, title: str) -> list[Path]:
    """Write scaling.png and scaling.svg: throughput with ideal line and intervals, and efficiency."""
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    figure.suptitle(title)
    left, right = figure.subplots(1, 2)
    measured = [row for row in rows if row.images_per_sec is not None]
    sizes = sorted({row.gpus for row in rows})
    keys = list(dict.fromkeys((row.experiment, row.params) for row in measured))
    for number, key in enumerate(keys):
        line = [row for row in measured if (row.experiment, row.params) == key]
        style = {
            "color": _COLOURS[number % len(_COLOURS)],
            "marker": _MARKERS[number % len(_MARKERS)],
            "linestyle": _DASHES[number % len(_DASHES)],
            "label": key[1] or "measured",
        }
        _throughput(left, line, style, ideal_label="ideal (linear from the smallest size)" if number == 0 else "")
        gpus = [row.gpus for row in line]
        right.plot(gpus, [row.efficiency for row in line], **style)
    left.set_ylabel("images/s over all GPUs")
    right.set_ylabel("efficiency")
    right.axhline(1.0, color="#777777", linestyle=":", linewidth=1)
    right.set_ylim(0, max(1.1, *(1.05 * (row.efficiency or 0) for row in measured)))
    right.yaxis.set_major_formatter(PercentFormatter(1.0))
    left.set_yscale("log", base=2)
    # Ticks where the first line's ideal throughput stands: one grid line is one size.
    unit = next((row.images_per_sec / row.gpus for row in measured if row.images_per_sec), 1.0)
    left.yaxis.set_major_locator(FixedLocator([unit * size for size in sizes]))
    left.yaxis.set_minor_locator(NullLocator())
    left.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}" if unit >= 10 else "{x:.3g}"))
    for axes in (left, right):
        axes.set_xlabel("GPUs (ranks)")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(FixedLocator(sizes))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.grid(True, alpha=0.3)
    left.legend(frameon=False)
    return [_save(figure, folder / f"scaling.{kind}") for kind in ("png", "svg")]


def _throughput(axes: Axes, line: Sequence[ScalingRow], style: Mapping[str, object], ideal_label: str) -> None:
    gpus = [row.gpus for row in line]
    rates = [row.images_per_sec or 0.0 for row in line]
    axes.plot(
        gpus,
        [rates[0] * size / gpus[0] for size in gpus],
        color="#777777",
        linestyle=":",
        linewidth=1.5,
        label=ideal_label or None,
    )
    axes.plot(gpus, rates, **style)  # type: ignore[arg-type]
    known = [row for row in line if row.images_per_sec_low is not None and row.images_per_sec_high is not None]
    middle = [row.images_per_sec or 0.0 for row in known]
    low = [rate - max(0.0, row.images_per_sec_low or 0.0) for row, rate in zip(known, middle, strict=True)]
    high = [(row.images_per_sec_high or 0.0) - rate for row, rate in zip(known, middle, strict=True)]
    axes.errorbar([row.gpus for row in known], middle, yerr=[low, high], fmt="none", capsize=4, ecolor=style["color"])  # type: ignore[arg-type]


def _save(figure: Figure, path: Path) -> Path:
    image = io.BytesIO()
    # No date in it: the same table gives the same file.
    figure.savefig(image, format=path.suffix[1:], dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    write_atomic(path, image.getvalue())
    return path
