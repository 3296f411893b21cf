"""The figure of the area under the ROC curve of each finding."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from hpcjobs.chexnet.classes import auc_name
from hpcjobs.report.contents import Contents, clean, listed
from hpcjobs.report.figures_style import Drawing, add_note, new_axes, series_style
from hpcjobs.report.palette import GRID, QUIET

# More groups than this cannot be distinguished. Then only the smallest and largest size of each params are shown.
_MOST = 7
_Key = tuple[str, str, int]


def auc(contents: Contents) -> Drawing | None:
    """One row per finding, one mark per size: the mean AUC over its runs, with the mean of their intervals."""
    split = "test" if any(line.get("split") == "test" and _number(line, "auc") for line in contents.auc) else "val"
    lines = [line for line in contents.auc if line.get("split") == split and _number(line, "auc") is not None]
    groups: dict[_Key, list[Mapping[str, Any]]] = {}
    for line in sorted(lines, key=_key):
        groups.setdefault(_key(line), []).append(line)
    if not groups:
        return None
    every = len(groups)
    groups = groups if every <= _MOST else _ends(groups)
    classes = list(dict.fromkeys(clean(str(line["class"])) for line in lines))
    classes.sort(key=lambda name: name == "mean")
    title = f"Area under the ROC curve, {split} split"
    figure, axes = new_axes(title, 1.6 + 0.4 * len(classes))
    entries, words, has_interval = [], [], False
    for number, (key, those) in enumerate(groups.items()):
        style = {**series_style(number, connected=False), "markersize": 5}
        shift = (number - (len(groups) - 1) / 2) * 0.7 / len(groups)
        means = {each: mean for each in classes if (mean := _mean(those, each))}
        for each, (_, low, high) in means.items():
            if low is not None and high is not None:
                has_interval = True
                axes.plot(
                    [low, high],
                    [classes.index(each) + shift] * 2,
                    color=style["color"],
                    linewidth=1.3,
                    solid_capstyle="butt",
                )
        at = [classes.index(each) + shift for each in means]
        (drawn,) = axes.plot([mean[0] for mean in means.values()], at, **style)
        name = _name(key, groups)
        entries.append((drawn, name))
        words.append(f"{name}: {', '.join(f'{each} {mean[0]:.3f}' for each, mean in means.items())}.")
    if shows_chance := axes.get_xlim()[0] < 0.6:
        axes.axvline(0.5, color=QUIET, linestyle=":", linewidth=1.4)
    axes.set_yticks(range(len(classes)), [name.replace("_", " ") for name in classes])
    axes.set_ylim(len(classes) - 0.4, -0.6)
    axes.grid(False, axis="y")
    for edge in range(1, len(classes)):
        axes.axhline(edge - 0.5, color=GRID, linewidth=0.6)
    axes.set_xlabel(f"AUC, {split} split")
    columns = 2 if any(key[1] for key in groups) else 5
    figure.legend(*zip(*entries, strict=True), loc="outside lower center", ncols=min(len(entries), columns))
    add_note(axes, contents.title, (), 36)
    caption = ("Dotted line: chance. " if shows_chance else "") + "Marks are means over the runs of a size."
    caption += " Bars are the means of their 95 % intervals, resampled by patient." if has_interval else ""
    if len(groups) < every:
        caption += " Only the smallest and largest sizes are shown; auc.csv has the others."
    # The table has the last AUC of the trainer, usually that of the validation split.
    tabled = {row.score_name for row in contents.rows if row.score is not None and row.score_name} - {auc_name(split)}
    if tabled:
        caption += f" The figure shows the {split} split, the table {listed(sorted(tabled))}."
    return Drawing("auc", title, caption, " ".join(words), figure)


def _key(line: Mapping[str, Any]) -> _Key:
    return str(line.get("experiment", "")), str(line.get("params", "")), int(line.get("gpus") or 0)


def _ends(groups: dict[_Key, list[Mapping[str, Any]]]) -> dict[_Key, list[Mapping[str, Any]]]:
    """The smallest and the largest size of each experiment and params."""
    kept: dict[_Key, None] = {}
    for key in groups:
        sizes = [other[2] for other in groups if other[:2] == key[:2]]
        if key[2] in (min(sizes), max(sizes)):
            kept[key] = None
    return {key: groups[key] for key in kept}


def _name(key: _Key, groups: Mapping[_Key, Any]) -> str:
    parts = [part for at, part in enumerate(key[:2]) if len({other[at] for other in groups}) > 1]
    return clean(", ".join(f"{part}" for part in [*parts, f"{key[2]} GPU{'s' * (key[2] != 1)}"] if part))


def _mean(lines: Sequence[Mapping[str, Any]], name: str) -> tuple[float, float | None, float | None] | None:
    those = [line for line in lines if clean(str(line["class"])) == name]
    values = [value for line in those if (value := _number(line, "auc")) is not None]
    ends = [(_number(line, "auc_low"), _number(line, "auc_high")) for line in those]
    known = [(low, high) for low, high in ends if low is not None and high is not None]
    if not values:
        return None
    low, high = (statistics.fmean(ends) for ends in zip(*known, strict=True)) if known else (None, None)
    return statistics.fmean(values), low, high


def _number(line: Mapping[str, Any], name: str) -> float | None:
    """A number of auc.csv. None if the cell is empty or not a number."""
    try:
        value = float(line.get(name) or "nan")
    except (TypeError, ValueError):
        return None
    return value if value == value else None
