"""Tables: scaling-report.csv, and the tables that a terminal or a pull request shows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from hpcjobs.analysis.compare import Comparison, Difference
from hpcjobs.base.columns import FLAGS, REPORT_COLUMNS
from hpcjobs.base.files import write_atomic
from hpcjobs.base.metrics import LOSSES, ScalingRow
from hpcjobs.base.records import Reference
from hpcjobs.base.tabular import metrics_of, to_csv, with_params
from hpcjobs.report.contents import by_unit, score_name_of, singular, sizes, unit_of

if TYPE_CHECKING:  # predict imports scipy, which is slow, and `hpcjobs status` does not need it
    from hpcjobs.analysis.intervals import Interval
    from hpcjobs.analysis.predict import Model
    from hpcjobs.collect.inspector import Collective

SCALING_CSV = "scaling-report.csv"
LOSS_NAMES = {
    "input": "input",
    "allreduce": "all-reduce",
    "skew": "skew",
    "compute": "slower compute",
    "other": "unexplained",
}


def write_csv(folder: Path, rows: Sequence[ScalingRow]) -> Path:
    """Write scaling-report.csv, one row per GPU count and parameter set."""
    path = folder / SCALING_CSV
    columns = with_params(REPORT_COLUMNS, [row.params for row in rows])
    write_atomic(path, to_csv(columns, [row.row() for row in rows]))
    return path


@dataclasses.dataclass(frozen=True)
class Cells:
    """A table as text. The first `left` columns are words, aligned left; the others are figures, aligned right."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int = 0

    def terminal(self) -> Table:
        """For a terminal. Cells are plain text, for markup would swallow brackets."""
        grid = Table(box=None, header_style="bold", pad_edge=False)
        for number, name in enumerate(self.header):
            grid.add_column(name, justify="left" if number < self.left else "right")
        for row in self.rows:
            grid.add_row(*map(Text, row))
        return grid

    def markdown(self) -> str:
        """For GitHub and GitLab."""
        ruler = [":--" if number < self.left else "--:" for number in range(len(self.header))]
        lines = [[_escaped(cell) for cell in row] for row in (self.header, *self.rows)]
        return "".join(f"| {' | '.join(line)} |\n" for line in (lines[0], ruler, *lines[1:]))


def terminal(rows: Sequence[ScalingRow]) -> list[Table]:
    """For each unit, the columns that have a heading for a terminal, and the interval of throughput."""
    return [_terminal(those) for those in by_unit(rows).values()]


def _terminal(rows: Sequence[ScalingRow]) -> Table:
    names: list[str] = []
    columns: list[list[str]] = []
    for name, about in metrics_of(ScalingRow).items():
        if name == "score" and not _has_score(rows):
            continue
        if about.heading:
            names.append(about.heading.format(unit=unit_of(rows), score_name=score_name_of(rows)))
            columns.append([_score(row, names) if name == "score" else _of(row, name) for row in rows])
        if name == "throughput":
            names.append("95 % interval")
            columns.append([_between(row, name) or ("one run" if row.runs else "") for row in rows])
    return _with_keys(names, list(zip(*columns, strict=True)), rows).terminal()


def markdown(rows: Sequence[ScalingRow]) -> str:
    """The scaling table for a pull request: figures with 95 % intervals, the largest loss, and what the flags mean.

    There is one table for each unit.
    """
    text = "\n".join(_markdown(those) for those in by_unit(rows).values())
    raised = [flag for flag in FLAGS if any(flag in row.flags.split() for row in rows)]
    notes = "".join(f"- `{flag}`: {_escaped(FLAGS[flag])}\n" for flag in raised)
    intervals = "Intervals are 95 %, over runs; that of a loss is over control blocks if one run measured it."
    return f"{text}\n{intervals}\n" + (f"\n{notes}" if notes else "")


def _markdown(rows: Sequence[ScalingRow]) -> str:
    scored = [score_name_of(rows)] if _has_score(rows) else []
    names = (
        *("GPUs", "runs", f"{unit_of(rows)}/s", "speed-up", "efficiency", "step ms", "largest loss"),
        *(*scored, "flags"),
    )
    cells = [
        (
            _of(row, "gpus"),
            f"{row.runs} of {row.runs + row.failed_runs}",
            _with_interval(row, "throughput"),
            _with_interval(row, "speedup"),
            _with_interval(row, "efficiency"),
            _of(row, "step_ms"),
            _largest_loss(row),
            *([_score(row, names)] if scored else []),
            row.flags,
        )
        for row in rows
    ]
    return _with_keys(names, cells, rows).markdown()


def _has_score(rows: Sequence[ScalingRow]) -> bool:
    return any(row.score is not None for row in rows)


def _score(row: ScalingRow, names: Sequence[str]) -> str:
    """The score, with what it is where the heading does not say it."""
    name = "" if row.score_name in names else row.score_name
    return _of(row, "score") + (f" ({name})" if name and row.score is not None else "")


def differences(found: Sequence[Difference]) -> Cells:
    """Two sweeps, size by size, in one unit."""
    names = ("GPUs", f"{unit_of(found)}/s", "of the other", "difference", "95 % interval", "real")
    cells = [
        (
            str(each.gpus),
            _figure(each.ours, ".1f"),
            _figure(each.theirs, ".1f"),
            _change(each.ratio),
            f"{_change(each.low)} to {_change(each.high)}" if each.low is not None else "",
            {True: "yes", False: "no", None: "cannot be said"}[each.real] if each.ratio is not None else "",
        )
        for each in found
    ]
    return _with_params(names, cells, [each.params for each in found])


def beside(found: Sequence[Comparison], reference: Reference) -> Cells:
    """A scaling table beside the reference, size by size, in its unit."""
    name = reference.name
    names = ("GPUs", f"{unit_of([reference])}/s", name, "ratio", "efficiency", f"efficiency of {name}")
    cells = [
        (
            str(each.gpus),
            _figure(each.ours, ".1f"),
            _figure(each.reference, ".1f"),
            _figure(each.ratio, ".2f"),
            _figure(each.efficiency, ".1%"),
            _figure(each.reference_efficiency, ".1%"),
        )
        for each in found
    ]
    return _with_params(names, cells, [each.params for each in found])


def collectives(found: Sequence[Collective]) -> Cells:
    """What NCCL's Inspector recorded, a row for each run, operation and size."""
    names = (
        "run",
        "operation",
        "GPUs",
        "ranks",
        "bytes",
        "recorded",
        "median us",
        "slowest us",
        "algbw GB/s",
        "busbw GB/s",
    )
    cells = tuple(
        (
            each.run,
            each.op,
            *map(str, (each.gpus, each.ranks, each.size, each.count)),
            *(_figure(figure, ".1f") for figure in (each.time_us, each.slowest_us, each.algbw, each.busbw)),
        )
        for each in found
    )
    return Cells(names, cells, left=2)


def predictions(model: Model, unit: str) -> Cells:
    """What a model predicts for each size in `unit`/s and how well it predicts one that it was not fitted to."""
    left_out = {each.gpus: each.error for each in model.left_out}
    has_energy = any(each.energy_per_unit_j for each in model.predictions)
    names = (
        "GPUs",
        f"{unit or 'units'}/s",
        "95 % interval",
        "measured",
        "left out",
        "efficiency",
        "time to train",
        "GPU-hours",
        *([f"J/{singular(unit)}"] if has_energy else []),
    )
    cells = tuple(
        (
            str(each.gpus),
            _figure(each.throughput.value, ".1f"),
            _ends(each.throughput, ".1f"),
            _figure(each.measured, ".1f"),
            _error(left_out.get(each.gpus)),
            _figure(each.efficiency, ".1%"),
            _hours(each.time_to_train_s),
            _gpu_hours(each.gpu_hours),
            *([_joules(each.energy_per_unit_j)] if has_energy else []),
        )
        for each in model.predictions
    )
    return Cells(names, cells)


def doubt(model: Model) -> str:
    """A sentence that names the sizes whose predicted interval is too wide to be of use; empty if there are none."""
    wide = [each for each in model.predictions if each.throughput.wide]
    if not wide:
        return ""
    # A size that was run has its measurement, so only the others are named.
    where = sizes([each.gpus for each in wide if each.measured is None] or [each.gpus for each in wide])
    why = f"an interval's high end is more than {wide[0].throughput.WIDEST} times its low end"
    return f"these sizes vary too much to predict {where}: {why}"


# --- cells ---------------------------------------------------------------------------------------


def _with_keys(names: Sequence[str], cells: Sequence[tuple[str, ...]], rows: Sequence[ScalingRow]) -> Cells:
    """Adds a column for the batch after the GPUs if a size has several, and one for params at the front."""
    if len({(row.params, row.gpus) for row in rows}) < len(rows):
        names = (names[0], "batch/GPU", *names[1:])
        cells = [(cell[0], _of(row, "local_batch"), *cell[1:]) for cell, row in zip(cells, rows, strict=True)]
    return _with_params(names, cells, [row.params for row in rows])


def _with_params(names: Sequence[str], cells: Sequence[tuple[str, ...]], params: Sequence[str]) -> Cells:
    if not any(params):
        return Cells(tuple(names), tuple(cells))
    return Cells(("params", *names), tuple((text, *row) for text, row in zip(params, cells, strict=True)), left=1)


def _figure(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _error(value: float | None) -> str:
    # A predicted step of nearly no time gives an arbitrary rate, whose digits mean nothing.
    return "> +1000%" if value is not None and value > 10 else _figure(value, "+.1%")


def _of(row: ScalingRow, name: str) -> str:
    """A column of the row, as its metric formats it for people."""
    return _figure(getattr(row, name), metrics_of(ScalingRow)[name].form)


def _between(row: ScalingRow, name: str, form: str = "") -> str:
    """The interval of a column, `LOW to HIGH`, in its form unless another is given; empty without one."""
    low, high = getattr(row, f"{name}_low"), getattr(row, f"{name}_high")
    form = form or metrics_of(ScalingRow)[name].form
    return "" if low is None or high is None else f"{low:{form}} to {high:{form}}"


def _with_interval(row: ScalingRow, name: str) -> str:
    interval = _between(row, name)
    return f"{_of(row, name)} ({interval})" if interval else _of(row, name)


def _change(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio - 1:+.1%}"


def _ends(figure: Interval, form: str, factor: float = 1, is_time: bool = False) -> str:
    """The interval. One that is too wide shows its slow end alone: chance in a few resamples makes the fast end."""
    low, high = (format(end * factor, form) for end in (figure.low, figure.high))
    if not figure.wide:
        return f"{low} to {high}"
    return f"up to {high}" if is_time else f"{low} to > {figure.WIDEST} times"


def _hours(figure: Interval | None) -> str:
    """A time in h, min or s: the largest unit of which it is at least one."""
    if figure is None:
        return "-"
    units = ((3600, "h", ".2f"), (60, "min", ".1f"), (1, "s", ".3g"))
    seconds, unit, form = next((each for each in units if figure.value >= each[0]), units[-1])
    return f"{figure.value / seconds:{form}} {unit} ({_ends(figure, form, 1 / seconds, is_time=True)})"


def _gpu_hours(figure: Interval | None) -> str:
    if figure is None:
        return "-"
    form = ".1f" if figure.value >= 1 else ".2g"
    return f"{figure.value:{form}} ({_ends(figure, form, is_time=True)})"


def _joules(figure: Interval | None) -> str:
    return "-" if figure is None else f"{figure.value:.3g} ({_ends(figure, '.3g', is_time=True)})"


def _largest_loss(row: ScalingRow) -> str:
    """`all-reduce 12.0 ms (10.1 to 13.9; 3.4 % of the step)`; empty if nothing is lost or no part is measured."""
    parts = {part: getattr(row, f"lost_{part}_ms") for part in LOSSES}
    if not any(ms is not None for part, ms in parts.items() if part != "other"):
        return ""
    worst = max(LOSSES, key=lambda part: parts[part] or 0.0)
    share = row.share(worst)
    if not share or share <= 0:
        return ""
    between = _between(row, f"lost_{worst}_ms", ".1f") if worst != "other" else ""
    return f"{LOSS_NAMES[worst]} {parts[worst]:.1f} ms ({between}{'; ' if between else ''}{share:.1f} % of the step)"


def _escaped(text: str) -> str:
    """The text with Markdown escaped, so that nothing in it ends the cell or becomes HTML or a link."""
    for character in "\\`*_[]<>|~":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())
