"""Columns say their units, and no flag is raised that has no meaning."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from hpcjobs.base import columns, tabular
from hpcjobs.base.metrics import Run, ScalingRow
from hpcjobs.chexnet.classes import AUC_COLUMNS, AUC_MEANINGS
from tests.control.sweeps import run

ROOT = Path(__file__).resolve().parents[2]


def test_every_column_of_auc_csv_has_a_meaning() -> None:
    assert tuple(AUC_MEANINGS) == AUC_COLUMNS


def test_every_flag_of_the_code_has_a_meaning() -> None:
    named = {value for name, value in vars(columns).items() if name.startswith("FLAG_")}
    assert named == set(columns.FLAGS)
    # The rooms of other formats have flags of their own.
    others = [path.read_text() for path in (ROOT / "hpcjobs").rglob("*.py")]
    raised = {value for text in others for value in re.findall(r'^FLAG_\w+ = "(\w+)"$', text, flags=re.MULTILINE)}
    assert raised == named


def test_columns_that_say_a_unit_have_it_in_their_meaning() -> None:
    for name, meaning in {**columns.REPORT_COLUMNS, **columns.RUN_COLUMNS}.items():
        for ending, unit in (("_ms", r"\bms\b"), ("_s", r"\bs\b"), ("_pct", "per cent"), ("_bytes", "bytes")):
            if name.endswith(ending):
                assert re.search(unit, meaning), name


def test_a_field_with_an_entry_is_a_column_and_later_versions_come_last() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class More(Run):
        newest: float = dataclasses.field(default=0.0, metadata=tabular.metric("of 9.10", since="9.10"))
        newer: float = dataclasses.field(default=0.0, metadata=tabular.metric("of 9.9", "ms", since="9.9"))
        noted: str = ""

        @tabular.derived("twice newer", "ms", since="9.9")
        def twice(self) -> float:
            return 2 * self.newer

    found = tabular.metrics_of(More)
    assert list(found) == [*columns.RUN_COLUMNS, "newer", "twice", "newest"]
    assert found["newer"].described == "ms: of 9.9"
    fields = {each.name: getattr(run(2, 4.0), each.name) for each in dataclasses.fields(Run)}
    assert list(More(**fields, newer=1.5).row().values())[-3:] == [1.5, 3.0, 0.0]


def test_a_later_column_must_say_since_when_it_is_there() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class More(Run):
        newer: float = dataclasses.field(default=0.0, metadata=tabular.metric("of some version"))

    with pytest.raises(ValueError, match="newer: a column that is not in FIRST must say since"):
        tabular.metrics_of(More)


def test_the_columns_of_the_first_version_are_all_there() -> None:
    assert set(tabular.FIRST) <= {*columns.REPORT_COLUMNS, *columns.RUN_COLUMNS}
    assert len(set(tabular.FIRST)) == len(tabular.FIRST)


def test_all_that_a_run_and_a_row_both_say_is_combined() -> None:
    """Else the row would be empty there. A derived column follows from the combined ones."""
    rows = tabular.metrics_of(ScalingRow)
    both = {each.name for each in dataclasses.fields(ScalingRow)} & {each.name for each in dataclasses.fields(Run)}
    assert {name for name, about in rows.items() if about.combine is not None} == both


def test_swept_keys() -> None:
    assert tabular.swept("") == {}
    assert tabular.swept("batch.local=4;data.dir=/a;b=c;lr=1") == {
        "batch.local": "4",
        "data.dir": "/a",
        "b": "c",
        "lr": "1",
    }
    assert tabular.swept("name=a;b") == {"name": "a;b"}
    assert tabular.with_params(["gpus", "flags", "cv"], ["b=1", "a=2;b=1"]) == [
        "gpus",
        "flags",
        "param.a",
        "param.b",
        "cv",
    ]
