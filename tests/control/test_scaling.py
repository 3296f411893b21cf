"""The scaling table: means, Student's interval, speed-up and efficiency, rows of failed sizes."""

from __future__ import annotations

import csv
from pathlib import Path

import pandas
import pytest

from hpcjobs import report
from hpcjobs.columns import REPORT_COLUMNS, RUN_COLUMNS
from hpcjobs.intervals import student_interval
from hpcjobs.records import Run, RunState
from hpcjobs.scaling import table


def run(gpus: int, rate: float | None, repeat: int = 1, params: str = "", **more: object) -> Run:
    state = RunState.DONE if rate else RunState.FAILED
    return Run(
        run=f"g{gpus:04d}-r{repeat:02d}", attempt="a001", state=state, failure="", source="", experiment="demo",
        params=params, gpus=gpus, nodes=-(-gpus // 4), gpus_per_node=min(gpus, 4), local_batch=4,
        global_batch=4 * gpus, images_per_sec=rate, **more,
    )  # fmt: skip


# The article's table: 185.12 images/s on 1 V100, 1912.82 on 16 (dell-c4140-v100-2019.csv).
ARTICLE = [run(1, 185.12), run(2, 315.26), run(4, 421.85), run(8, 1116.99), run(16, 1912.82)]


def test_speed_up_and_efficiency_of_the_article() -> None:
    rows = table(ARTICLE)
    assert [row.gpus for row in rows] == [1, 2, 4, 8, 16]
    assert rows[0].speedup == rows[0].efficiency == 1.0
    assert rows[4].speedup == pytest.approx(10.333, abs=0.001)
    assert rows[4].efficiency == pytest.approx(0.6458, abs=0.0001)
    assert rows[4].images_per_sec_per_gpu == pytest.approx(119.55, abs=0.01)


def test_the_base_is_the_smallest_measured_size_and_a_failed_size_keeps_its_row() -> None:
    rows = table([run(1, None), run(2, 100.0), run(4, 180.0), run(8, None)])
    assert [(row.gpus, row.runs, row.failed_runs) for row in rows] == [(1, 0, 1), (2, 1, 0), (4, 1, 0), (8, 0, 1)]
    assert rows[0].images_per_sec is None
    assert rows[0].speedup is None
    assert (rows[1].speedup, rows[1].efficiency) == (1.0, 1.0)
    assert (rows[2].speedup, rows[2].efficiency) == (pytest.approx(1.8), pytest.approx(0.9))


def test_params_are_never_mixed() -> None:
    rows = table([run(1, 100.0, params="a=1"), run(1, 50.0, params="a=2"), run(2, 90.0, params="a=2")])
    assert [(row.params, row.gpus, row.speedup) for row in rows] == [("a=1", 1, 1.0), ("a=2", 1, 1.0), ("a=2", 2, 1.8)]


def test_students_interval_of_three_repeats() -> None:
    # t(0.975, 2) = 4.303 of any table of Student's distribution; s of 9, 10, 11 is 1.
    low, high = student_interval([9.0, 10.0, 11.0]) or (0, 0)
    assert (low, high) == (pytest.approx(10 - 4.3027 / 3**0.5, abs=1e-4), pytest.approx(10 + 4.3027 / 3**0.5, abs=1e-4))
    assert student_interval([10.0]) is None
    (row,) = table([run(1, rate, repeat) for repeat, rate in enumerate([9.0, 10.0, 11.0], 1)])
    assert (row.runs, row.images_per_sec, row.images_per_sec_low) == (3, 10.0, low)


@pytest.mark.parametrize(
    ("starts", "flagged"),
    [
        ([0, 1, 2, 3, 4, 5], True),  # one size after the other
        ([5, 4, 3, 2, 1, 0], True),  # the largest first
        ([0, 3, 1, 4, 2, 5], False),  # repeat by repeat: 1, 2, 4 and again 1, 2, 4
        ([7, 7, 7, 7, 7, 7], False),  # all at once
        ([None] * 6, False),
    ],
)
def test_a_size_that_ran_at_its_own_time_is_flagged(starts: list[float | None], flagged: bool) -> None:
    runs = [
        run(gpus, 100.0 * gpus, repeat, start=start)
        for (gpus, repeat), start in zip([(g, r) for g in (1, 2, 4) for r in (1, 2)], starts, strict=True)
    ]
    assert [row.flags for row in table(runs)] == ["time_size_confounded" if flagged else ""] * 3


def test_only_the_params_that_are_confounded_are_flagged() -> None:
    mixed = [run(1, 1.0, params="a=1", start=5), run(2, 2.0, params="a=1", start=1), run(4, 4.0, params="a=1", start=6)]
    # A size that failed has no say.
    ordered = [run(n, float(n), params="a=2", start=n) for n in (1, 2, 4)] + [run(8, None, params="a=2", start=0)]
    flags = {(row.params, row.gpus): row.flags for row in table(mixed + ordered)}
    assert {params for (params, _), words in flags.items() if words} == {"a=2"}
    assert flags["a=2", 8] == "time_size_confounded"


def test_ids_and_nodes_are_listed_once() -> None:
    runs = [run(4, 1.0, 1, job_ids="5_0", nodelist="n1 n2"), run(4, 1.0, 2, job_ids="5_1", nodelist="n2 n3")]
    (row,) = table(runs)
    assert (row.job_ids, row.nodelist) == ("5_0 5_1", "n1 n2 n3")


def test_the_csv_is_read_by_pandas_without_options(tmp_path: Path) -> None:
    paths = report.write(tmp_path, table([*ARTICLE, run(32, None)]), title="article")
    assert [path.name for path in paths] == ["scaling-report.csv", "scaling.png", "scaling.svg"]
    frame = pandas.read_csv(tmp_path / "scaling-report.csv")
    assert list(frame.columns) == list(REPORT_COLUMNS)
    assert frame.efficiency[4] == pytest.approx(0.645804)
    assert pandas.isna(frame.images_per_sec[5])
    assert frame.gpus.dtype == "int64"
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")


def test_no_figure_for_a_table_without_a_measurement(tmp_path: Path) -> None:
    assert [path.name for path in report.write(tmp_path, table([run(1, None)]), title="x")] == ["scaling-report.csv"]


def test_the_contracts_columns_come_first_and_in_order() -> None:
    contract = [
        "experiment",
        "params",
        "gpus",
        "nodes",
        "gpus_per_node",
        "local_batch",
        "global_batch",
        "runs",
        "failed_runs",
        "images_per_sec",
        "images_per_sec_low",
        "images_per_sec_high",
        "images_per_sec_per_gpu",
        "speedup",
        "efficiency",
        "step_ms",
        "input_wait_ms",
        "allreduce_ms",
        "epoch_s",
        "time_to_train_s",
        "time_to_train_kind",
        "startup_s",
        "eval_s",
        "mean_auc",
        "predicted_images_per_sec",
        "job_ids",
        "nodelist",
    ]
    assert list(REPORT_COLUMNS)[: len(contract)] == contract
    assert list(RUN_COLUMNS)[:5] == ["run", "attempt", "state", "failure", "source"]


def test_a_comma_or_a_quote_in_a_field_survives(tmp_path: Path) -> None:
    report.write(tmp_path, table([run(1, 2.0, params='a="x,y"')]), title="x")
    with (tmp_path / "scaling-report.csv").open(newline="") as file:
        assert next(csv.DictReader(file))["params"] == 'a="x,y"'
