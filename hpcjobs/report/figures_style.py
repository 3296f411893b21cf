"""How figures look, and how they become files. The same table always gives the same bytes."""

from __future__ import annotations

import dataclasses
import functools
import io
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from hpcjobs.base.metrics import ScalingRow
from hpcjobs.report.contents import clean, flags_at, sizes
from hpcjobs.report.palette import COLOURS, GRID, INK, QUIET

# Series differ in marker and dashes as well as in colour. The lengths of the lists have no common divisor, so that
# hundreds of combinations differ.
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
DASHES: tuple[Any, ...] = ("-", "--", "-.", (0, (5, 1)), (0, (3, 1, 1, 1)))
# In inches. A phone shows a width of 5.3 at almost full size.
WIDTH, HEIGHT = 5.3, 3.9
# An axis has at most so many labels of sizes: each is drawn and measured several times, which takes milliseconds.
TICKS = 32
_SETTINGS: dict[str, Any] = {
    "font.family": ["DejaVu Sans", "sans-serif"],
    "font.size": 10.5,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    # A dollar sign in a name does not start a formula.
    "text.parse_math": False,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "hatch.linewidth": 0.6,
    # Text stays text: it can be searched and read aloud, and it is small.
    "svg.fonttype": "none",
    "svg.hashsalt": "hpcjobs",
}


@contextmanager
def settings() -> Iterator[None]:
    """Apply these figures' settings to matplotlib instead of the user's matplotlibrc. Restores the old ones at exit."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        # Any: newer versions of matplotlib type every key.
        parameters: Any = matplotlib.rcParams
        parameters.update(_SETTINGS)
        yield


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A figure with the name of its file. `caption` stands below it, `description` is its text for screen readers."""

    name: str
    title: str
    caption: str
    description: str
    figure: Figure

    def svg(self) -> str:
        """The figure as an SVG document."""
        return self._svg

    @functools.cached_property
    def _svg(self) -> str:  # both a file and the page show it
        image = io.BytesIO()
        with settings():
            self.figure.savefig(image, format="svg", metadata={"Date": None, "Creator": None})
        return image.getvalue().decode()

    def png(self) -> bytes:
        """The figure as a PNG image, 160 dots per inch."""
        image = io.BytesIO()
        with settings():
            self.figure.savefig(image, format="png", dpi=160, metadata={"Software": None})
        return image.getvalue()


def new_axes(title: str, height: float = HEIGHT) -> tuple[Figure, Axes]:
    """A new figure with one pair of axes. `height` is in inches."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, pad=10)
    return figure, axes


def series_style(number: int, connected: bool = True) -> dict[str, Any]:
    """Colour, marker and dashes of the series with that number. No line if the series is not `connected`."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": DASHES[number % len(DASHES)] if connected else "none",
        "markersize": 6,
        "linewidth": 1.8,
    }


def set_size_axis(axes: Axes, run: Sequence[int], beyond: Sequence[int] = ()) -> None:
    """A log2 axis of GPUs with a tick at each size of `run`. Sizes only in `beyond` have a muted tick in brackets.

    Of very many sizes only some have a tick.
    """
    known, others = sorted(set(run)), sorted(set(beyond) - set(run))
    everything = [*known, *others]
    known, others = _apart(known), _apart(others)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(known))
    axes.xaxis.set_major_formatter(FixedFormatter([f"{size:,}" for size in known]))
    axes.xaxis.set_minor_locator(FixedLocator(others) if others else NullLocator())
    axes.xaxis.set_minor_formatter(FixedFormatter([f"({size:,})" for size in others]) if others else NullFormatter())
    axes.tick_params(axis="x", which="minor", labelcolor=QUIET, labelsize=9)
    axes.set_xlim(min(everything) / 1.25, max(everything) * 1.25)
    axes.set_xlabel("GPUs (ranks)")


def _apart(sizes: Sequence[int]) -> list[int]:
    """The sizes that have a tick: all, or of more than TICKS some with room between them on a logarithmic axis."""
    if len(sizes) <= TICKS:
        return list(sizes)
    factor = (sizes[-1] / sizes[0]) ** (1 / (TICKS // 2))
    found = [sizes[-1]]
    for size in reversed(sizes):
        if size * factor <= found[-1]:
            found.append(size)
    return found[::-1]


def set_value_axis(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic axis if the values (above 0) span a factor of 3 or more, else a linear one from 0."""
    low, high = min(values), max(values)
    if high < 3 * low:
        axes.set_ylim(0, high * 1.15)
    else:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.5, high * 1.3)
        axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5) if high < 2000 * low else (1,)))
        axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def draw_intervals(
    axes: Axes, points: Iterable[tuple[float, tuple[float, float | None, float | None]]], colour: str
) -> bool:
    """Draw a bar from low to high for each (x, (value, low, high)) that has one. Returns whether any has."""
    whole = [(x, value, low, high) for x, (value, low, high) in points if low is not None and high is not None]
    if not whole:
        return False
    # A logarithmic axis has no 0: the bar then ends below the visible part of the axis.
    is_log = axes.get_yscale() == "log"
    below = [max(0.0, value - (max(low, value / 1000) if is_log else low)) for _, value, low, _ in whole]
    above = [max(0.0, high - value) for _, value, _, high in whole]
    axes.errorbar(
        [x for x, *_ in whole], [value for _, value, _, _ in whole], yerr=[below, above],
        fmt="none", ecolor=colour, elinewidth=1.5, capsize=4, capthick=1.5,
    )  # fmt: skip
    return True


def mark_failed(axes: Axes, gpus: Sequence[int], colour: str) -> None:
    """Draw a cross at the bottom of the figure for each size that was run but has no measurement."""
    axes.plot(
        list(gpus), [0.05] * len(gpus), transform=axes.get_xaxis_transform(), linestyle="none",
        marker="x", markersize=9, markeredgewidth=2.5, color=colour, clip_on=False,
    )  # fmt: skip


def failed_marker(colour: str) -> Line2D:
    """The cross, for the legend."""
    return Line2D([], [], linestyle="none", marker="x", markersize=8, markeredgewidth=2.5, color=colour)


def add_legend(figure: Figure, axes: Axes, entries: Sequence[tuple[Any, str]], **where: Any) -> None:
    """Add a legend of handles and names: inside the axes if it covers no data there, else below them."""
    # Passing the handles keeps names that begin with an underscore, which matplotlib would leave out.
    handles = [handle for handle, _ in entries]
    names = [textwrap.fill(textwrap.shorten(name, 150, placeholder=" ..."), 58) for _, name in entries]
    longest = max(map(len, names))
    if len(entries) <= 5 and longest <= 36:
        box = axes.legend(handles, names, **where)
        if not _covers(figure, axes, box):
            return
        box.remove()
    columns = 2 if longest < 28 else 1
    lines = sum(name.count("\n") + 1 for name in names)
    figure.set_figheight(HEIGHT + 0.17 * -(-lines // columns))
    figure.legend(handles, names, loc="outside lower center", ncols=columns)


def _covers(figure: Figure, axes: Axes, box: Legend) -> bool:
    """Whether the legend covers a line, a point or an interval."""
    figure.draw_without_rendering()
    under = box.get_window_extent().padded(4)  # room for the markers
    paths = [line.get_transform().transform_path(line.get_path()) for line in axes.lines]
    for bars in axes.collections:
        if isinstance(bars, LineCollection):
            paths += [bars.get_transform().transform_path(path) for path in bars.get_paths()]
    return any(path.intersects_bbox(under, filled=False) or under.count_contains(path.vertices) > 0 for path in paths)


def add_note(axes: Axes, title: str, rows: Sequence[ScalingRow], below: float = 40) -> None:
    """Write the title, and the flags of the rows with their sizes, `below` the axes (in points)."""
    every = {row.gpus for row in rows}
    notes = [flag if set(where) == every else f"{flag} on {sizes(where)}" for flag, where in flags_at(rows).items()]
    text = clean(f"{title}. Flags: {'; '.join(notes)}" if notes else title)
    # An annotation of the axes is part of the layout: it leaves room for this text, and for a legend below it.
    axes.annotate(
        textwrap.fill(text, 76), (0, 0), (-36, -below), xycoords="axes fraction", textcoords="offset points",
        va="top", fontsize=8, color=QUIET, annotation_clip=False,
    )  # fmt: skip
