"""The scaling table: means, Student's interval, speed-up and efficiency, rows of failed sizes."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas
import pytest
import scipy.stats

from hpcjobs.analysis.intervals import holm, student_interval, welch_ratio
from hpcjobs.analysis.scaling import table
from hpcjobs.base.columns import FLAGS, REPORT_COLUMNS, RUN_COLUMNS
from hpcjobs.base.errors import InputError
from hpcjobs.base.metrics import Run
from hpcjobs.report.write import write_report
from tests.control.sweeps import run

# The article's table: 185.12 images/s on 1 V100, 1912.82 on 16 (dell-c4140-v100-2019.csv).
ARTICLE = [run(1, 185.12), run(2, 315.26), run(4, 421.85), run(8, 1116.99), run(16, 1912.82)]


def test_speed_up_and_efficiency_of_the_article() -> None:
    rows = table(ARTICLE)
    assert [row.gpus for row in rows] == [1, 2, 4, 8, 16]
    assert rows[0].speedup == rows[0].efficiency == 1.0
    assert rows[4].speedup == pytest.approx(10.333, abs=0.001)
    assert rows[4].efficiency == pytest.approx(0.6458, abs=0.0001)
    assert rows[4].throughput_per_gpu == pytest.approx(119.55, abs=0.01)


def test_the_base_is_the_smallest_measured_size_and_a_failed_size_keeps_its_row() -> None:
    rows = table([run(1, None), run(2, 100.0), run(4, 180.0), run(8, None)])
    assert [(row.gpus, row.runs, row.failed_runs) for row in rows] == [(1, 0, 1), (2, 1, 0), (4, 1, 0), (8, 0, 1)]
    assert rows[0].throughput is None
    assert rows[0].speedup is None
    assert (rows[1].speedup, rows[1].efficiency) == (1.0, 1.0)
    assert (rows[2].speedup, rows[2].efficiency) == (pytest.approx(1.8), pytest.approx(0.9))


def test_params_are_never_mixed() -> None:
    rows = table([run(1, 100.0, params="a=1"), run(1, 50.0, params="a=2"), run(2, 90.0, params="a=2")])
    assert [(row.params, row.gpus, row.speedup) for row in rows] == [("a=1", 1, 1.0), ("a=2", 1, 1.0), ("a=2", 2, 1.8)]


@pytest.mark.parametrize("gpus", [1, 2])
def test_rates_of_different_units_are_never_averaged_or_compared(gpus: int) -> None:
    rows = table([run(1, 100.0), run(gpus, 9e6, unit="tokens")])
    assert [(row.unit, row.throughput, row.speedup) for row in rows] == [("images", 100.0, 1.0), ("tokens", 9e6, 1.0)]


def test_a_run_that_failed_before_it_said_its_unit_stays_beside_its_sizes() -> None:
    rows = table([run(1, 100.0, unit="tokens"), run(2, None, unit=""), run(4, 380.0, unit="tokens")])
    assert [(row.gpus, row.unit, row.baseline_gpus) for row in rows] == [
        (1, "tokens", 1), (2, "tokens", 1), (4, "tokens", 1),
    ]  # fmt: skip


def test_without_a_batch_sizes_are_compared_and_have_no_kind_of_scaling() -> None:
    unknown = {"local_batch": None, "global_batch": None}
    rows = table(
        [run(1, 100.0, **unknown), run(2, 180.0, **unknown), run(4, 300.0, **unknown), run(8, None, **unknown)]
    )
    assert [(row.scaling, row.step_ms, row.speedup, row.efficiency) for row in rows] == [
        ("", None, 1.0, 1.0), ("", None, 1.8, 0.9), ("", None, 3.0, 0.75), ("", None, None, None),
    ]  # fmt: skip
    assert rows[1].series == rows[0].series
    assert [row.row()["step_ms"] for row in rows] == [None] * 4
    # A size whose batch is known is compared with the others of known batch alone.
    rows = table([run(1, 100.0), run(2, 180.0), run(4, 300.0, **unknown), run(8, 500.0, **unknown)])
    assert [(row.scaling, row.baseline_gpus) for row in rows] == [("weak", 1), ("weak", 1), ("", 4), ("", 4)]
    rows = table([run(1, 100.0), run(4, 300.0, **unknown)])
    assert [(row.scaling, row.baseline_gpus) for row in rows] == [("", 1), ("", 1)]


def test_students_interval_of_three_repeats() -> None:
    # t(0.975, 2) = 4.303 of any table of Student's distribution; s of 9, 10, 11 is 1.
    low, high = student_interval([9.0, 10.0, 11.0]) or (0, 0)
    assert (low, high) == (pytest.approx(10 - 4.3027 / 3**0.5, abs=1e-4), pytest.approx(10 + 4.3027 / 3**0.5, abs=1e-4))
    assert student_interval([10.0]) is None
    (row,) = table([run(1, rate, repeat) for repeat, rate in enumerate([9.0, 10.0, 11.0], 1)])
    assert (row.runs, row.throughput, row.throughput_low) == (3, 10.0, low)


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
    paths = write_report(tmp_path, table([*ARTICLE, run(32, None)]), title="article")
    assert {"scaling-report.csv", "scaling.png", "scaling.svg"} <= {path.name for path in paths}
    frame = pandas.read_csv(tmp_path / "scaling-report.csv")
    assert list(frame.columns) == list(REPORT_COLUMNS)
    assert frame.efficiency[4] == pytest.approx(0.645804)
    assert pandas.isna(frame.throughput[5])
    assert frame.gpus.dtype == "int64"
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")


def test_no_figure_for_a_table_without_a_measurement(tmp_path: Path) -> None:
    written = write_report(tmp_path, table([run(1, None)]), title="x")
    assert [path.name for path in written] == ["scaling-report.csv", "report.html"]


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
        "throughput",
        "throughput_low",
        "throughput_high",
        "throughput_per_gpu",
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
        "score",
        "predicted_throughput",
        "job_ids",
        "nodelist",
    ]
    assert list(REPORT_COLUMNS)[: len(contract)] == contract
    assert list(RUN_COLUMNS)[:5] == ["run", "attempt", "state", "failure", "source"]


def test_a_comma_or_a_quote_in_a_field_survives(tmp_path: Path) -> None:
    write_report(tmp_path, table([run(1, 2.0, params='a="x,y"')]), title="x")
    with (tmp_path / "scaling-report.csv").open(newline="") as file:
        assert next(csv.DictReader(file))["params"] == 'a="x,y"'


# --- intervals of ratios -------------------------------------------------------------------------


def repeats(gpus: int, rates: list[float], **more: object) -> list[Run]:
    return [run(gpus, rate, number, **more) for number, rate in enumerate(rates, 1)]


def test_welchs_interval_is_scipys() -> None:
    ours, theirs = [120.0, 131.0, 125.0], [60.0, 61.5, 64.0, 59.0]
    ratio = welch_ratio(ours, theirs)
    test = scipy.stats.ttest_ind(np.log(ours), np.log(theirs), equal_var=False)
    low, high = np.exp(test.confidence_interval(0.95))
    assert ratio is not None
    assert (ratio.low, ratio.high, ratio.p) == pytest.approx((low, high, test.pvalue))
    assert welch_ratio([1.0], theirs) is welch_ratio(ours, [1.0]) is None
    same = welch_ratio([2.0, 2.0], [1.0, 1.0])
    assert same is not None
    assert (same.low, same.high) == (2.0, 2.0)


def test_speed_up_and_efficiency_have_intervals_and_the_base_is_exactly_one() -> None:
    base, row = table([*repeats(1, [98.0, 100.0, 102.0]), *repeats(4, [350.0, 360.0, 370.0])])
    assert (base.speedup, base.efficiency) == (1.0, 1.0)
    assert base.speedup_low is base.speedup_high is base.efficiency_low is base.efficiency_high is None
    assert row.speedup == pytest.approx(3.6)
    welch = welch_ratio([350.0, 360.0, 370.0], [98.0, 100.0, 102.0])
    assert welch is not None
    assert (row.speedup_low, row.speedup_high) == (welch.low, welch.high)
    assert (row.efficiency_low, row.efficiency_high) == pytest.approx((welch.low / 4, welch.high / 4))
    assert 3.3 < welch.low < 3.6 < welch.high < 3.9
    assert (base.cv, row.cv) == pytest.approx((0.02, 10 / 360))


def test_one_run_of_the_base_or_the_row_gives_no_interval() -> None:
    for runs in (
        [*repeats(1, [100.0]), *repeats(4, [350.0, 360.0])],
        [*repeats(1, [99.0, 100.0]), *repeats(4, [350.0])],
    ):
        _, row = table(runs)
        assert row.speedup is not None
        assert row.speedup_low is row.efficiency_high is None


def test_holms_steps() -> None:
    # 0.05 / 4, / 3, / 2: the third fails, and what comes after it does not count, however small its own bound.
    assert holm([0.04, 0.01, 0.03, 0.012]) == [False, True, False, True]
    assert holm([]) == []
    assert holm([0.05]) == [True]


# --- which sizes may be compared -----------------------------------------------------------------


def test_a_baseline_of_ones_own() -> None:
    runs = [run(1, 100.0), run(4, 300.0), run(8, 540.0)]
    rows = table(runs, baseline=4)
    assert [row.baseline_gpus for row in rows] == [4, 4, 4]
    assert [row.speedup for row in rows] == pytest.approx([1 / 3, 1.0, 1.8])
    assert [row.efficiency for row in rows] == pytest.approx([4 / 3, 1.0, 0.9])
    # Nodes of four: a full one is that of 4 GPUs.
    assert table(runs, baseline="node") == rows


def test_a_baseline_that_was_not_measured_is_refused_with_what_was() -> None:
    with pytest.raises(InputError, match=r"--baseline 2: no measurement on 2 GPUs; measured: 1, 4 GPUs"):
        table([run(1, 100.0), run(2, None), run(4, 300.0)], baseline=2)
    with pytest.raises(InputError, match="one full node"):
        table([run(1, 100.0), run(8, 500.0)], baseline="node")


def test_only_the_params_without_the_baseline_go_without() -> None:
    rows = table([run(1, 1.0, params="a=1"), run(2, 2.0, params="a=1"), run(1, 1.0, params="a=2")], baseline=2)
    assert [(row.params, row.speedup, row.flags) for row in rows] == [
        ("a=1", 0.5, ""), ("a=1", 1.0, ""), ("a=2", None, "no_baseline"),
    ]  # fmt: skip


def of_batch(gpus: int, local: int, rate: float) -> Run:
    return run(gpus, rate, local_batch=local, global_batch=local * gpus)


def test_weak_and_strong_scaling_are_told_by_the_batches() -> None:
    weak = table([of_batch(1, 8, 1.0), of_batch(2, 8, 2.0), of_batch(4, 8, 3.0)])
    strong = table([of_batch(1, 8, 1.0), of_batch(2, 4, 2.0), of_batch(4, 2, 3.0)])
    neither = table([of_batch(1, 8, 1.0), of_batch(2, 6, 2.0), of_batch(4, 5, 3.0)])
    alone = table([of_batch(4, 8, 1.0)])
    assert [row.scaling for row in (*weak, *strong)] == ["weak"] * 3 + ["strong"] * 3
    assert [row.speedup for row in (*weak, *strong)] == [1.0, 2.0, 3.0] * 2
    assert [(row.scaling, row.speedup) for row in neither] == [("mixed", None)] * 3
    assert [(row.scaling, row.speedup) for row in alone] == [("", 1.0)]


def test_weak_and_strong_scaling_in_one_table_are_never_mixed() -> None:
    weak = [of_batch(1, 8, 10.0), of_batch(2, 8, 19.0), of_batch(4, 8, 36.0)]
    strong = [of_batch(2, 4, 15.0), of_batch(4, 2, 20.0)]
    rows = table(weak + strong)
    assert [(row.gpus, row.local_batch, row.scaling, row.speedup) for row in rows] == [
        (1, 8, "weak", 1.0), (2, 4, "strong", 1.5), (2, 8, "weak", 1.9), (4, 2, "strong", 2.0), (4, 8, "weak", 3.6),
    ]  # fmt: skip


def test_runs_of_other_batches_are_no_repeats_of_each_other() -> None:
    rows = table([of_batch(2, 8, 10.0), of_batch(2, 4, 8.0)])
    assert [(row.local_batch, row.runs, row.throughput) for row in rows] == [(4, 1, 8.0), (8, 1, 10.0)]


def test_logs_without_a_batch_are_compared_all_the_same() -> None:
    rows = table([run(gpus, rate, local_batch=None, global_batch=None) for gpus, rate in ((1, 10.0), (2, 18.0))])
    assert [(row.scaling, row.speedup) for row in rows] == [("", 1.0), ("", 1.8)]


# --- flags ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nodelists", "distinct", "flag"),
    [
        (["n1", "n2"], 2, ""),
        (["n1", "n1"], 1, "same_nodes"),
        (["n1 n2", "n2 n3"], 3, "same_nodes"),
        (["", ""], None, ""),
    ],
)
def test_repeats_on_the_same_nodes_are_not_independent(nodelists: list[str], distinct: int | None, flag: str) -> None:
    (row,) = table([run(4, 1.0, number, nodelist=nodes) for number, nodes in enumerate(nodelists, 1)])
    assert (row.nodes_distinct, row.flags) == (distinct, flag)


def test_fewer_repeats_than_asked() -> None:
    runs = [run(1, 1.0, 1, repeats_asked=2), run(1, 1.1, 2, repeats_asked=2), run(2, 2.0, 1, repeats_asked=2)]
    rows = table([*runs, run(2, None, 2, repeats_asked=2), run(4, 1.0)])
    assert [(row.repeats_asked, row.flags) for row in rows] == [(2, ""), (2, "fewer_repeats"), (None, "")]


def test_differing_software_and_gpus_among_what_is_compared() -> None:
    old, new = {"software": "nccl 2.18"}, {"software": "nccl 2.20", "gpu_model": "A100"}
    runs = [run(1, 1.0, gpu_model="V100", **old), run(2, 2.0, **new), run(1, 1.0, params="a=1", **old)]
    # A failed run's software has no say.
    rows = table([*runs, run(2, None, params="a=1", **new)])
    assert [row.flags for row in rows] == ["software_differs gpus_differ"] * 2 + [""] * 2


@pytest.mark.parametrize("flag", ["blocks_disturbed", "ranks_wait_for_cpus"])
def test_a_disturbed_base_makes_the_efficiencies_of_its_rows_suspect(flag: str) -> None:
    """A base that another load slowed down: twice the ranks seem to do three times the work."""
    rows = table(
        [run(1, 10.0, flags=flag), run(2, 30.0), run(1, 10.0, params="a=1"), run(2, 20.0, params="a=1", flags=flag)]
    )
    assert [(row.efficiency, row.flags) for row in rows] == [
        (1.0, flag), (1.5, "base_disturbed"), (1.0, ""), (1.0, flag)
    ]  # fmt: skip


def test_flags_of_runs_and_rows_stand_together_once_and_known() -> None:
    runs = [
        run(2, 1.0, 1, nodelist="n1", flags="throttled shared_nodes"),
        run(2, 1.0, 2, nodelist="n1", flags="shared_nodes"),
    ]
    (row,) = table(runs)
    assert row.flags == "shared_nodes throttled same_nodes"
    assert set(row.flags.split()) <= FLAGS.keys()


# --- columns -------------------------------------------------------------------------------------


def test_the_added_columns_follow_the_contracts_in_order_and_all_have_a_meaning(tmp_path: Path) -> None:
    added = [
        "baseline_gpus",
        "scaling",
        "speedup_low",
        "speedup_high",
        "efficiency_low",
        "efficiency_high",
        "repeats_asked",
        "gpu_model",
        "precision",
        "skew_ms",
        "other_ms",
        "queue_s",
        "score_name",
        "nodes_distinct",
        "flags",
    ]
    columns = list(REPORT_COLUMNS)
    assert columns[27 : 27 + len(added)] == added
    assert all(REPORT_COLUMNS.values())
    assert all(RUN_COLUMNS.values())
    write_report(tmp_path, table([run(1, 1.0, params="batch.local=4;lr.base=0.1")]), title="x")
    frame = pandas.read_csv(tmp_path / "scaling-report.csv")
    at = list(frame.columns).index("flags")
    assert list(frame.columns[at + 1 : at + 4]) == ["param.batch.local", "param.lr.base", "cv"]
    assert (frame["param.batch.local"][0], frame["param.lr.base"][0]) == (4, 0.1)


def test_rows_that_sweep_other_keys_have_empty_cells(tmp_path: Path) -> None:
    write_report(tmp_path, table([run(1, 1.0, params="a=1"), run(1, 1.0, params="b=x;y")]), title="x")
    frame = pandas.read_csv(tmp_path / "scaling-report.csv")
    assert frame["param.a"].tolist()[0] == 1
    assert pandas.isna(frame["param.a"][1])
    assert frame["param.b"][1] == "x;y"


def test_a_field_never_breaks_its_line(tmp_path: Path) -> None:
    write_report(tmp_path, table([run(1, 2.0, nodelist="n1", software="a\rb\nc\0d")]), title="x")
    frame = pandas.read_csv(tmp_path / "scaling-report.csv")
    assert (len(frame), frame.software[0]) == (1, "a b c d")


def test_what_is_left_of_the_step_beside_its_parts() -> None:
    known = run(2, 80.0, input_wait_ms=10.0, allreduce_ms=5.0, skew_ms=1.0)  # a step of 100 ms
    assert known.other_ms == pytest.approx(84.0)
    assert run(2, 80.0).other_ms is None
