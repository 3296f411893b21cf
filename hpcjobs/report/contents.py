"""What a report shows, and its series with their names. Figures, sentences and page share them. Pure."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from hpcjobs.base.columns import FLAGS
from hpcjobs.base.metrics import Run, ScalingRow
from hpcjobs.base.metrics import Series as Key
from hpcjobs.base.records import Reference

if TYPE_CHECKING:  # both import numpy or scipy, which are slow and which a table does not need
    from hpcjobs.analysis.compare import Difference
    from hpcjobs.analysis.predict import SeriesModels
    from hpcjobs.collect.inspector import Collective

# A log or a name may contain terminal colours and control characters. A page and an SVG must not.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
# More sizes than this are not listed in a sentence.
_LISTED = 12
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contents:
    """The scaling table and everything else that a report shows. An empty field has no figure and no section.

    `auc` has the rows of auc.csv, `tails` the last lines of each run's log, by the name of the run. `others` is the
    table of another sweep, `differences` the result of compare_sweeps for the two. `collectives` is what NCCL's
    Inspector recorded.
    """

    title: str
    rows: Sequence[ScalingRow]
    runs: Sequence[Run] = ()
    auc: Sequence[Mapping[str, Any]] = ()
    models: Sequence[SeriesModels] = ()
    reference: Reference | None = None
    others: Sequence[ScalingRow] = ()
    others_name: str = "the other sweep"
    differences: Sequence[Difference] = ()
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tails: Mapping[str, str] = dataclasses.field(default_factory=dict)
    collectives: Sequence[Collective] = ()

    @property
    def parts(self) -> list[Contents]:
        """The same for each unit of the rows: no table and no figure mixes units."""
        units = by_unit(self.rows)
        if len(units) < 2:
            return [self]
        return [
            dataclasses.replace(
                self,
                rows=rows,
                models=[each for each in self.models if each.unit == unit],
                reference=self.reference if self.reference and self.reference.unit == unit else None,
                others=[row for row in self.others if row.unit == unit],
                differences=[each for each in self.differences if each.unit == unit],
            )
            for unit, rows in units.items()
        ]


@dataclasses.dataclass(frozen=True)
class Series:
    """Rows that may be compared, the smallest first.

    `label` distinguishes the series from the others of the table; it is empty if there are no others. `name` identifies
    the series even if it is the only one.
    """

    rows: tuple[ScalingRow, ...]
    label: str
    name: str

    @property
    def measured(self) -> tuple[ScalingRow, ...]:
        """The sizes with a measurement."""
        return tuple(row for row in self.rows if row.throughput is not None)

    @property
    def failed(self) -> tuple[ScalingRow, ...]:
        """The sizes without one."""
        return tuple(row for row in self.rows if row.throughput is None)

    @property
    def connected(self) -> bool:
        """Whether a line through the sizes means anything."""
        sizes = [row.gpus for row in self.rows]
        return self.rows[0].scaling != "mixed" and len(set(sizes)) == len(sizes)

    @property
    def unit(self) -> str:
        """What is counted per second, such as samples."""
        return unit_of(self.rows)

    @property
    def per_gpu(self) -> float | None:
        """Throughput per GPU of the base, from any row that is compared with it."""
        row = next((row for row in self.measured if row.speedup and row.baseline_gpus), None)
        if row is None or row.throughput is None or row.speedup is None or row.baseline_gpus is None:
            return None
        return row.throughput / row.speedup / row.baseline_gpus


class _HasUnit(Protocol):
    @property
    def unit(self) -> str: ...


_T = TypeVar("_T", bound=_HasUnit)


def by_unit(rows: Iterable[_T]) -> dict[str, list[_T]]:
    """The rows of each unit, in the order in which the units appear first."""
    found: dict[str, list[_T]] = {}
    for row in rows:
        found.setdefault(row.unit, []).append(row)
    return found


def unit_of(rows: Iterable[_HasUnit]) -> str:
    """What the rates of rows of one unit count, `units` if the rows do not say it."""
    return clean(next((row.unit for row in rows), "")) or "units"


def cause_of(run: Run) -> tuple[str, str]:
    """(class of the failure of a run, the line that shows it), as runs.csv has both in one text."""
    cause, _, why = run.failure.partition(":")
    return cause.strip(), why.strip()


def singular(unit: str) -> str:
    """One of a unit: `image` of images; `unit` if it is not known."""
    return (clean(unit) or "units").removesuffix("s")


def score_name_of(rows: Iterable[ScalingRow]) -> str:
    """What is scored in these rows, `score` if they do not say it, or not all the same."""
    names = {row.score_name for row in rows if row.score is not None}
    return clean(names.pop()) if len(names) == 1 and names != {""} else "score"


def series(rows: Sequence[ScalingRow]) -> list[Series]:
    """The table's series. A size without a measurement stays in the series it was planned in."""
    groups: dict[Key, list[ScalingRow]] = {}
    for row in rows:
        groups.setdefault(row.series, []).append(row)
    differ = [name for name in Key._fields if len({getattr(key, name) for key in groups}) > 1]
    found = []
    for key, those in groups.items():
        label = _label(key, differ)
        rows_in_order = tuple(sorted(those, key=lambda row: (row.gpus, row.local_batch or 0)))
        found.append(Series(rows_in_order, label, label or clean(key.experiment)))
    return found


def _label(key: Key, differ: Sequence[str]) -> str:
    parts = [
        key.experiment if "experiment" in differ else "",
        key.params.replace(";", ", ") if "params" in differ else "",
    ]
    parts.append(key.unit if "unit" in differ else "")
    if "scaling" in differ or "batch" in differ:
        parts.append(kind(key.scaling, key.batch) if key.scaling else "")
    return clean(", ".join(part for part in parts if part)) or (key.experiment if differ else "")


def kind(scaling: str, batch: int | None) -> str:
    """The kind of scaling, with the batch that is fixed."""
    if scaling == "weak":
        return f"weak scaling, batch {batch} per GPU"
    return f"strong scaling, batch {batch} in all" if scaling == "strong" else "mixed batches"


def clean(text: str) -> str:
    """Text that a page and an SVG may contain: no terminal colours, no control characters, no lone surrogates."""
    lines = _ESCAPES.sub("", text).replace("\r\n", "\n")
    # As in a terminal, a carriage return overwrites the line: only its last version stays.
    lines = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines.split("\n"))
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", lines)


def sizes(numbers: Sequence[int]) -> str:
    """`8 GPUs`, `1 and 2 GPUs`, `1, 2 and 4 GPUs`; of many `50 sizes from 4 to 40000 GPUs`."""
    unique = sorted(set(numbers))
    if len(unique) > _LISTED:
        return f"{len(unique)} sizes from {unique[0]} to {unique[-1]} GPUs"
    return f"{listed([str(number) for number in unique])} GPU{'' if unique == [1] else 's'}"


def listed(words: Sequence[str]) -> str:
    """`a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""


def flags_at(rows: Sequence[ScalingRow]) -> dict[str, list[int]]:
    """Each flag of the rows, with the sizes that have it, in the order of columns.FLAGS."""
    raised = {flag: sorted({row.gpus for row in rows if flag in row.flags.split()}) for flag in FLAGS}
    for row in rows:
        for flag in row.flags.split():
            if flag not in FLAGS:
                raised.setdefault(flag, sorted({other.gpus for other in rows if flag in other.flags.split()}))
    return {flag: where for flag, where in raised.items() if where}
