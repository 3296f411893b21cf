"""Columns say their units, and no flag is raised that has no meaning."""

from __future__ import annotations

import re
from pathlib import Path

from hpcjobs.base import columns
from hpcjobs.chexnet.classes import AUC_COLUMNS, AUC_MEANINGS

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


def test_swept_keys() -> None:
    assert columns.swept("") == {}
    assert columns.swept("batch.local=4;data.dir=/a;b=c;lr=1") == {
        "batch.local": "4",
        "data.dir": "/a",
        "b": "c",
        "lr": "1",
    }
    assert columns.swept("name=a;b") == {"name": "a;b"}
    assert columns.with_params(["gpus", "flags", "cv"], ["b=1", "a=2;b=1"]) == [
        "gpus",
        "flags",
        "param.a",
        "param.b",
        "cv",
    ]
