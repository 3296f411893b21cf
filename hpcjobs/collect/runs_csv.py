"""runs.csv: runs become its text, and come back from it or from the JSON that `hpcjobs collect --json` prints."""

from __future__ import annotations

import csv
import dataclasses
import datetime
import functools
import io
import json
import math
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hpcjobs.base.columns import RUN_COLUMNS
from hpcjobs.base.errors import InputError
from hpcjobs.base.metrics import Run
from hpcjobs.base.records import RunState, Tell
from hpcjobs.base.tabular import metrics_of, to_csv, with_params
from hpcjobs.chexnet.classes import auc_name
from hpcjobs.collect.sense import contradiction

# Columns of version 0.1 that have another name now. `auc_split` became a part of score_name.
_OLD_NAMES: Mapping[str, str] = {
    "images_per_sec": "throughput",
    "images_per_sec_low": "throughput_low",
    "images_per_sec_high": "throughput_high",
    "images_per_sec_per_gpu": "throughput_per_gpu",
    "predicted_images_per_sec": "predicted_throughput",
    "mean_auc": "score",
}
# What the batches and rates of a file count that has no column `unit`.
OLD_UNIT = "images"


def to_text(runs: Sequence[Run]) -> str:
    """The text of `runs.csv`."""
    return to_csv(with_params(RUN_COLUMNS, [run.params for run in runs]), [run.row() for run in runs])


def read_runs(text: str, source: str, tell: Tell = lambda line: None) -> list[Run]:
    """The runs of a runs.csv, or of a JSON list with its keys; `source` names it in errors.

    Only `gpus` must be there. Other columns may be missing or empty, which means not known; columns that Run does not
    have are ignored. Measured rows that are the same in every column are one run, and `tell` receives a line about
    them. Raises InputError if the text is neither CSV nor such JSON, a value is not what its column holds, or no run
    can have measured a rate.
    """
    text = text.removeprefix("\ufeff")  # the mark with which spreadsheets begin a file
    if text.lstrip()[:1] in ("[", "{"):
        try:
            rows = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(f"{source}: line {error.lineno}: not JSON: {error.msg}") from None
        except (ValueError, RecursionError) as error:
            raise InputError(f"{source}: cannot be read as JSON: {error}") from None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise InputError(f"{source}: expected a JSON list of objects, as `hpcjobs collect --json` prints")
    else:
        try:
            rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=_delimiter(text)))
        except csv.Error as error:
            raise InputError(f"{source}: not CSV: {error}") from None
    if not rows:
        raise InputError(f"{source}: holds no runs")
    first: dict[str, int] = {}
    runs, copies = [], []
    for number, row in enumerate(rows, 1):
        run = _read_run(row, f"{source}: run {number}")
        original = first.setdefault(repr(sorted(row.items(), key=str)), number)
        if original != number and run.throughput is not None:
            copies.append((number, original))
        else:
            runs.append(run)
    if copies:
        number, original = copies[0]
        more = f", and so are {len(copies) - 1} more" if len(copies) > 1 else ""
        tell(
            f"{source}: run {number} is a copy of run {original}, the same in every column{more}: copies are no "
            "repeats, so each run counts once"
        )
    return runs


def _delimiter(text: str) -> str:
    """What stands between the columns: a comma, or a semicolon or tab as spreadsheets of some languages write it."""
    header = text.partition("\n")[0]
    return max(",;\t", key=header.count)  # a comma if there is one column


def renamed(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of any version's runs.csv or scaling-report.csv, by the columns of this version.

    Up to version 0.1 every run trained on images: a row without `unit` counts them, and its score is a mean AUC.
    """
    found = {_OLD_NAMES[name]: value for name, value in row.items() if name in _OLD_NAMES}
    found |= {name: value for name, value in row.items() if name not in _OLD_NAMES}
    found.setdefault("unit", OLD_UNIT)
    split = found.pop("auc_split", None)
    if row.get("mean_auc") not in (None, ""):
        found.setdefault("score_name", auc_name(str(split or "")))
    return found


def _read_run(row: Mapping[str, Any], where: str) -> Run:
    row = renamed(row)
    fields: dict[str, Any] = {}
    for name, (read, unknown) in _readers().items():
        value = row.get(name)
        try:
            fields[name] = unknown if value is None or value == "" else read(str(value))
        except (ValueError, OverflowError):
            raise InputError(f"{where}: {name} is {value!r}: expected {RUN_COLUMNS[name]}") from None
    if not fields["gpus"] or fields["gpus"] < 1:
        raise InputError(f"{where}: no number of GPUs (gpus)")
    if fields["throughput"] is not None and not 0 < fields["throughput"] < math.inf:
        raise InputError(f"{where}: throughput is {fields['throughput']}: expected more than 0")
    if fields["state"] is None:
        fields["state"] = RunState.FAILED if fields["throughput"] is None else RunState.DONE
    run = Run(**fields)
    if wrong := contradiction(run, row):
        raise InputError(f"{where}: throughput is {run.throughput:g}: {wrong}")
    return run


@functools.cache
def _readers() -> Mapping[str, tuple[Callable[[str], object], object]]:
    """How to read each field of Run, and its value where it is not known: the field's default, else "" or None."""
    kinds, columns = typing.get_type_hints(Run), metrics_of(Run)
    found: dict[str, tuple[Callable[[str], object], object]] = {}
    for field in dataclasses.fields(Run):
        kind = kinds[field.name]
        unknown = field.default if field.default is not dataclasses.MISSING else "" if kind is str else None
        found[field.name] = _seconds if columns[field.name].is_time else _READ[kind], unknown
    return found


def _seconds(text: str) -> float:
    """Seconds since the epoch of a time stamp; one without a zone is UTC."""
    at = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    return (at if at.tzinfo else at.replace(tzinfo=datetime.timezone.utc)).timestamp()


def _number(text: str) -> float | None:
    number = float(text)
    return None if math.isnan(number) else number


def _whole(text: str) -> int | None:
    """A whole number. It may come as 4.0: pandas makes a column with gaps one of floats."""
    number = _number(text)
    if number is not None and not number.is_integer():
        raise ValueError(number)
    return None if number is None else int(number)


# By the type of a field.
_READ: Mapping[object, Callable[[str], object]] = {
    str: str,
    int: _whole,
    int | None: _whole,
    float | None: _number,
    RunState: RunState,
}
