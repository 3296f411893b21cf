"""What a column is: its unit, its meaning, its place in a table, and how the runs of a row combine in it.

The columns themselves, one entry each, are the fields of `hpcjobs.base.metrics`.
"""

from __future__ import annotations

import csv
import dataclasses
import datetime
import enum
import functools
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar, overload

# The columns of version 0.1. Their order is a promise to whoever reads them by number: a later column comes after
# all of these and says the version that it is there `since`.
FIRST = (
    *("run", "attempt", "state", "failure", "source"),
    *("experiment", "params", "gpus", "nodes", "gpus_per_node", "local_batch", "global_batch", "runs", "failed_runs"),
    *("throughput", "throughput_low", "throughput_high", "throughput_per_gpu"),
    *("speedup", "efficiency", "step_ms", "input_wait_ms", "allreduce_ms"),
    *("epoch_s", "time_to_train_s", "time_to_train_kind", "startup_s", "eval_s", "score"),
    *("predicted_throughput", "job_ids", "nodelist", "baseline_gpus", "scaling"),
    *("speedup_low", "speedup_high", "efficiency_low", "efficiency_high", "repeats_asked", "gpu_model", "precision"),
    *("skew_ms", "other_ms", "queue_s", "score_name", "nodes_distinct", "flags", "cv", "compute_ms", "slowest_rank_ms"),
    *("lost_ms", "lost_input_ms", "lost_allreduce_ms", "lost_skew_ms", "lost_compute_ms", "lost_other_ms"),
    *("lost_pct", "lost_input_pct", "lost_allreduce_pct", "lost_skew_pct", "lost_compute_pct", "lost_other_pct"),
    *("slowest_node", "slow_node_ms", "gradient_bytes", "software"),
    *("start", "windows", "outlier_windows"),
)


class Combine(enum.Enum):
    """How the runs of a row combine into one value. Runs without a measurement are left out unless it says so."""

    SAME = "the same in all runs"
    MEAN = "mean"
    SUM = "sum, failed runs too; empty if it is not known of one of them"
    LARGEST = "largest, failed runs too"
    WORDS = "every word once"
    ALL_WORDS = "every word once, failed runs too"
    HOSTS = "every node once, failed runs too"
    TEXTS = "every text once, sorted, with ` | ` between them"
    INTERVAL = "Student's 95 % interval over the runs that measured the part; of a single one, that of its passes"
    SLOWEST_NODE = "that of the run with the largest slow_node_ms"


@dataclasses.dataclass(frozen=True)
class Metric:
    """One column.

    `meaning` and `unit` are shown to users; a unit is a word or two, such as ms. `combine` is None where a column is
    not combined: it belongs to single runs alone, or the scaling table computes it. `heading` is that of the column
    in the terminal's table, empty where it is not shown there, and `form` the format of a figure that people read.
    `is_time` says that the value is a time in seconds since the epoch and is written as UTC, ISO 8601. `since` is the
    version that added the column, empty for those of FIRST.
    """

    meaning: str
    unit: str = ""
    combine: Combine | None = None
    heading: str = ""
    form: str = ""
    is_time: bool = False
    since: str = ""

    @property
    def described(self) -> str:
        """Unit and meaning in one text."""
        return f"{self.unit}: {self.meaning}" if self.unit else self.meaning

    def written(self, value: object) -> object:
        """The value as CSV and JSON have it."""
        if self.is_time and isinstance(value, (int, float)):
            return datetime.datetime.fromtimestamp(value, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        return value


def metric(meaning: str, unit: str = "", combine: Combine | None = None, **more: Any) -> dict[str, Metric]:
    """The metadata that makes a dataclass's field a column; the parameters are Metric's."""
    return {"metric": Metric(meaning, unit, combine, **more)}


_Value = TypeVar("_Value")


class Derived(Generic[_Value]):
    """A column that is computed from the fields of its row and read like one of them."""

    def __init__(self, compute: Callable[[Any], _Value], about: Metric) -> None:
        self.compute, self.metric = compute, about
        self.__doc__ = compute.__doc__

    @overload
    def __get__(self, row: None, owner: type) -> Derived[_Value]: ...

    @overload
    def __get__(self, row: object, owner: type) -> _Value: ...

    def __get__(self, row: object, owner: type) -> _Value | Derived[_Value]:
        return self if row is None else self.compute(row)


def derived(meaning: str, unit: str = "", **more: Any) -> Callable[[Callable[[Any], _Value]], Derived[_Value]]:
    """Makes a method a column; the parameters are Metric's."""
    return lambda compute: Derived(compute, Metric(meaning, unit, **more))


def metrics_of(kind: type) -> Mapping[str, Metric]:
    """The columns of a dataclass by name, in their order: FIRST, then by the version that added them."""
    return _metrics(kind)


@functools.cache
def _metrics(kind: type) -> Mapping[str, Metric]:
    found = {field.name: field.metadata["metric"] for field in dataclasses.fields(kind) if "metric" in field.metadata}
    for owner in reversed(kind.__mro__):
        found |= {name: each.metric for name, each in vars(owner).items() if isinstance(each, Derived)}
    return {name: found[name] for name in sorted(found, key=lambda name: _place(name, found[name]))}


def _place(name: str, about: Metric) -> tuple[tuple[int, ...], int]:
    if about.since:
        return tuple(map(int, about.since.split("."))), 0
    if name not in FIRST:
        raise ValueError(f"{name}: a column that is not in FIRST must say since which version it is there")
    return (), FIRST.index(name)


# --- swept keys ----------------------------------------------------------------------------------


def param_column(key: str) -> str:
    """The column of a swept key: param.KEY, also for a key params.KEY, which is a name of the user's own."""
    return f"param.{key.removeprefix('params.')}"


def with_params(columns: Iterable[str], params: Iterable[str]) -> list[str]:
    """The columns of a table, with a `param_column` after `flags` for each swept key of any row's `params`."""
    keys = {param_column(key) for text in params for key in swept(text)}
    found: list[str] = []
    for column in columns:
        found += [column, *sorted(keys)] if column == "flags" else [column]
    return found


def swept(params: str) -> dict[str, str]:
    """The keys and values of `k=v;k=v`. A value may hold a semicolon, and then no equals sign."""
    found: dict[str, str] = {}
    key = ""
    for part in params.split(";") if params else []:
        name, equals, value = part.partition("=")
        if equals:
            key = name
            found[key] = value
        elif key:
            found[key] += f";{part}"
    return found


# --- CSV -----------------------------------------------------------------------------------------


def to_csv(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> str:
    """CSV with a header; an unknown value is an empty field, a float has six significant digits."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(row.get(column)) for column in columns])
    return out.getvalue()


def _cell(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        return f"{value:.6g}" if isinstance(value, float) else str(value)
    # Some readers of CSV end a field at a carriage return or a NUL inside it, and spreadsheets run a formula.
    text = " ".join(value.replace("\0", " ").splitlines())
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t")) else text
