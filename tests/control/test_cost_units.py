"""The cost of a plan uses an earlier sweep's rate only if it counts the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcjobs.config import profiles
from hpcjobs.plan.estimate import _measured
from hpcjobs.plan.planning import Plan, Terms
from hpcjobs.study import make_plan
from hpcjobs.trainers.command_line import document_of

SWEEP = "version: 2\nsweep: one\nvariants:\n- experiment: {name: train, trainer: command}\ncluster: {name: local}\n"


def plan(*settings: str) -> Plan:
    document = document_of(["python", "train.py"])
    return make_plan([2], document, profiles.cluster("local"), 1, settings, Terms(), lambda text: None)


def earlier(tmp_path: Path, *units: str) -> None:
    report = tmp_path / "before" / "report"
    report.mkdir(parents=True)
    (report.parent / "sweep.yaml").write_text(SWEEP)
    rows = [f"2,{100 * number},0,{unit}\n" for number, unit in enumerate(units, 1)]
    (report / "scaling-report.csv").write_text("gpus,throughput,startup_s,unit\n" + "".join(rows))


@pytest.mark.parametrize(
    ("units", "settings", "known"),
    [
        (["tokens"], ["measure.unit=tokens"], True),
        (["tokens"], ["measure.unit=images"], False),
        (["tokens"], [], True),  # the log says what it counts
        (["tokens"], ["measure.pattern=(?P<throughput>.)"], False),  # samples, if nobody says what
        (["tokens", "images"], [], False),
    ],
)
def test_a_rate_of_another_unit_is_no_rate(units: list[str], settings: list[str], known: bool, tmp_path: Path) -> None:
    earlier(tmp_path, *units)
    rate = _measured(plan(*settings), tmp_path)
    assert (rate is not None) == known
    if rate is not None:
        assert (rate.of(2), rate.source) == (100, "the rate that before measured")
