"""One line of an MLPerf log, in the forms of all versions."""

from __future__ import annotations

import math

import pytest

from hpcjobs.collect.mlperf_lines import event


@pytest.mark.parametrize(
    "line",
    [
        ':::MLL 1560881734.720 epoch_start: {"value": 4, "metadata": {"epoch_num": 1}}',
        ':::MLLOG {"time_ms": 1560881734720, "key": "epoch_start", "value": 4, "metadata": {"epoch_num": 1}}',
        ':::MLLOG {"time_ms": "1560881734720", "key": "epoch_start", "value": 4, "metadata": {"epoch_num": 1}}',
        ':::MLLOG {"time_s": 1560881734.72, "key": "epoch_start", "value": 4, "metadata": {"epoch_num": 1}}',
    ],
)
@pytest.mark.parametrize("prefix", ["", "[1,0]<stdout>:", "12: "])
def test_the_forms_of_a_line(prefix: str, line: str) -> None:
    found = event(f"{prefix}{line}\n")
    assert found is not None
    assert found == ("epoch_start", pytest.approx(1560881734.72), 4, {"epoch_num": 1})


def test_what_a_line_may_lack() -> None:
    assert event(':::MLLOG {"time_ms": 1000, "key": "run_stop"}') == ("run_stop", 1.0, None, {})
    assert event(':::MLLOG {"time_ms": 1000, "key": "run_stop", "metadata": [1]}') == ("run_stop", 1.0, None, {})


def test_a_figure_that_is_not_a_number_is_read() -> None:
    found = event(':::MLLOG {"time_ms": 1000, "key": "eval_accuracy", "value": NaN}')
    assert found is not None
    assert math.isnan(found.value)


@pytest.mark.parametrize(
    "line",
    [
        "chatter",
        ':::MLLOG {"key": "tracked_st',
        ':::MLLOG {"key": "run_stop", "value": 1}',
        ':::MLLOG {"time_ms": null, "key": "run_stop"}',
        ':::MLLOG {"time_ms": NaN, "key": "run_stop"}',
        ':::MLLOG {"time_ms": 1000}',
        ':::MLLOG {"a": ' * 5000 + "}",
        ":::MLL 1560881734.720 epoch_start: {]}",
    ],
)
def test_a_damaged_line_has_no_event(line: str) -> None:
    assert event(line) is None
