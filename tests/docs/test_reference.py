"""docs/reference/ is what the code says, and leaves nothing out."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from hpcjobs.base import columns
from hpcjobs.base.columns import FLAGS, REPORT_COLUMNS, RUN_COLUMNS
from hpcjobs.chexnet.classes import AUC_MEANINGS
from hpcjobs.collect import failure_classes
from hpcjobs.config import Experiment, to_builtins
from hpcjobs.config.profiles import cluster, read
from hpcjobs.trainers.registry import experiment_in
from tests.docs.pages import ROOT, code

REFERENCE = ROOT / "docs" / "reference"


def generated() -> dict[str, str]:
    """What docs/generate.py would write now."""
    where = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert where is not None
    assert where.loader is not None
    module = importlib.util.module_from_spec(where)
    where.loader.exec_module(module)
    return module.pages()


@pytest.mark.parametrize("name", generated())
def test_a_page_is_what_the_code_says_now(name: str) -> None:
    kept = (REFERENCE / name).read_text()
    assert kept == generated()[name], f"docs/reference/{name} is not what the code says any more: run `make docs`"


def spans(name: str) -> set[str]:
    """What stands in code on a page."""
    return {each.text for each in code(REFERENCE / name) if each.kind == "span"}


def keys(data: Mapping[str, Any], sections: frozenset[str], above: str = "") -> Iterator[str]:
    """`partition`, `collect.job`, ...: of a section what is in it."""
    for key, value in data.items():
        if key in sections:
            yield from keys(value, frozenset(), f"{key}.")
        else:
            yield f"{above}{key}"


@pytest.mark.parametrize(
    ("page", "data", "sections"),
    [
        ("profile.md", to_builtins(cluster("c4140")), {"container", "collect"}),
        (
            "experiment.md",
            to_builtins(experiment_in(read(Experiment, "chexnet"))),
            {"model", "data", "augment", "batch", "train", "lr", "horovod", "measure"},
        ),
        (
            "experiment.md",
            to_builtins(experiment_in(read(Experiment, str(ROOT / "examples/torch_ddp/ddp.yaml")))),
            {"batch", "measure", "stop"},
        ),
    ],
)
def test_every_key_is_there(page: str, data: dict[str, Any], sections: set[str]) -> None:
    expected = set(keys(data, frozenset(sections)))
    assert expected <= spans(page)
    assert len(expected) > 20


def test_every_column_flag_and_class_of_failure_is_there() -> None:
    named = spans("columns.md")
    for known in (REPORT_COLUMNS, RUN_COLUMNS, AUC_MEANINGS, FLAGS):
        assert set(known) <= named
    assert {"throughput", "oversubscribed"} <= named
    assert set(failure_classes.FAILURE_CLASSES) <= spans("failures.md")


def test_a_key_that_the_code_gains_makes_the_page_out_of_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(columns.FLAGS, "haunted", "A ghost was in the machine.")
    assert "| `haunted` | A ghost was in the machine. |" in generated()["columns.md"]
    assert generated()["columns.md"] != (REFERENCE / "columns.md").read_text()
