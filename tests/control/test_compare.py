"""A table compared with another sweep or a published table, as Markdown, and in Extra-P's format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hpcjobs.analysis.compare import compare_reference, compare_sweeps
from hpcjobs.analysis.extrap import extrap
from hpcjobs.analysis.scaling import table
from hpcjobs.base.errors import InputError
from hpcjobs.base.metrics import ScalingRow
from hpcjobs.collect.reference_tables import read_reference, references
from hpcjobs.report import tables
from tests.control.sweeps import run

SIZES = (1, 2, 4, 8)


def rows_of(rates: dict[int, list[float]], **more: object) -> list[ScalingRow]:
    return table(
        [run(gpus, rate, number, **more) for gpus, those in rates.items() for number, rate in enumerate(those, 1)]
    )


# --- another sweep -------------------------------------------------------------------------------


def test_a_difference_has_its_interval_and_whether_it_is_real() -> None:
    ours = rows_of({1: [100.0, 101.0, 99.0], 2: [220.0, 221.0, 219.0]})
    theirs = rows_of({1: [100.5, 99.5, 101.5], 2: [200.0, 201.0, 199.0]})
    same, better = compare_sweeps(ours, theirs)
    assert (better.gpus, better.ours, better.theirs, better.ratio) == (2, 220.0, 200.0, pytest.approx(1.1))
    assert better.low is not None
    assert better.high is not None
    assert 1.08 < better.low < 1.1 < better.high < 1.12
    assert (same.real, better.real) == (False, True)


def test_one_run_on_a_side_gives_a_difference_and_no_verdict() -> None:
    (found,) = compare_sweeps(rows_of({1: [100.0]}), rows_of({1: [90.0, 91.0]}))
    assert (found.ratio, found.low, found.p, found.real) == (pytest.approx(100 / 90.5), None, None, None)


def test_sizes_that_one_sweep_lacks_keep_their_line() -> None:
    ours, theirs = [*rows_of({1: [1.0], 2: [2.0]}), *table([run(4, None)])], rows_of({1: [1.0], 4: [4.0], 8: [8.0]})
    found = compare_sweeps(ours, theirs)
    assert [(each.gpus, each.ours, each.theirs, each.ratio) for each in found] == [
        (1, 1.0, 1.0, 1.0), (2, 2.0, None, None), (4, None, 4.0, None), (8, None, 8.0, None),
    ]  # fmt: skip


def test_other_params_and_other_batches_are_other_sizes() -> None:
    ours = rows_of({1: [1.0]}, params="a=1") + rows_of({1: [1.0]}, local_batch=8, global_batch=8)
    theirs = rows_of({1: [1.0]}, params="a=2") + rows_of({1: [1.0]}, local_batch=4, global_batch=4)
    with pytest.raises(InputError, match="no size was measured in both"):
        compare_sweeps(ours, theirs)


def test_holm_keeps_chance_from_being_called_real() -> None:
    """Of 2,000 pairs of sweeps that differ only by noise, Holm calls a difference real in at most 5 %."""
    random, wrong, naive = np.random.default_rng(7), 0, 0
    for _ in range(2000):
        found = compare_sweeps(
            *(rows_of({gpus: list(100 + random.standard_normal(4)) for gpus in SIZES}) for _ in "ab")
        )
        wrong += any(each.real for each in found)
        naive += any(each.p < 0.05 for each in found)
    assert wrong / 2000 < 0.055
    assert naive / 2000 > 0.12


def test_differences_as_a_markdown_table() -> None:
    text = tables.differences(
        compare_sweeps(rows_of({1: [110.0, 111.0]}), rows_of({1: [100.0, 101.0], 2: [1.0]}))
    ).markdown()
    _, _, one, two = text.splitlines()
    assert one.startswith("| 1 | 110.5 | 100.5 | +10.0% | ")
    assert two == "| 2 | - | 1.0 | - |  |  |"


# --- a published table ---------------------------------------------------------------------------


def test_the_articles_table_ships_and_has_its_source_named() -> None:
    name = "dell-c4140-v100-2019"
    assert name in references()
    assert f"`{name}.csv`" in (references()[name].parent / "SOURCES.md").read_text()
    article = read_reference(name)
    assert (article.throughput[1], article.throughput[16]) == (185.12, 1912.82)
    assert article.efficiency(16) == pytest.approx(0.6458, abs=1e-4)


def test_it_is_compared_with_any_table() -> None:
    article = read_reference("dell-c4140-v100-2019")
    found = compare_reference(rows_of({1: [370.24], 2: [700.0], 64: [9.0]}), article)
    assert [(each.gpus, each.ratio and round(each.ratio, 3)) for each in found] == [
        (1, 2.0), (2, 2.22), (64, None), (3, None), (4, None), (8, None), (12, None), (16, None),
    ]  # fmt: skip
    assert (found[1].efficiency, found[1].reference_efficiency) == (
        pytest.approx(700 / 370.24 / 2), pytest.approx(315.26 / 185.12 / 2),
    )  # fmt: skip
    cells = tables.beside(found, article)
    assert cells.header[:3] == ("GPUs", "images/s", article.name)
    assert cells.markdown().splitlines()[2] == "| 1 | 370.2 | 185.1 | 2.00 | 100.0% | 100.0% |"


def test_a_table_of_another_unit_is_not_compared_with_it() -> None:
    rows = table([run(1, 100.0), run(1, 9e6, unit="tokens", experiment="gpt")])
    found = compare_reference(rows, read_reference("dell-c4140-v100-2019"))
    assert [each.ours for each in found if each.ours is not None] == [100.0]
    with pytest.raises(InputError, match="dell-c4140-v100-2019: it counts images, and no run does"):
        compare_reference(rows[1:], read_reference("dell-c4140-v100-2019"))


def test_a_users_own_table(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("note,gpus,throughput\nx,2,90\ny,1,50\n")
    mine = read_reference(str(path))
    assert (mine.name, list(mine.throughput), mine.efficiency(2), mine.unit) == ("mine", [1, 2], 0.9, "images")
    path.write_text("gpus,images_per_sec\n1,50\n")  # the column's name up to version 0.1
    assert (read_reference(str(path)).throughput, read_reference(str(path)).unit) == ({1: 50.0}, "images")
    path.write_text("gpus,throughput,unit\n1,50,tokens\n")
    assert read_reference(str(path)).unit == "tokens"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("gpus,rate\n1,2\n", "line 2: expected numbers in the columns gpus and throughput"),
        ("gpus,throughput\n1,fast\n", "line 2: expected numbers"),
        ("gpus,throughput\n1,2\n1,3\n", "line 3: a second row for the size 1"),
        ("gpus,throughput\n0,3\n", "line 2: gpus and throughput must be above 0"),
        ("gpus,throughput\n1,nan\n", "line 2"),
        ("gpus,throughput,unit\n1,2,tokens\n2,3,samples\n", "line 3: a second unit, samples"),
        ("", "no rows"),
        ("\xff\xfe", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_an_invalid_reference_is_refused_by_name(tmp_path: Path, text: str | None, why: str) -> None:
    path = tmp_path / "mine.csv"
    if text is not None:
        path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r"mine\.csv") as caught:
        read_reference(str(path))
    assert why in str(caught.value)


def test_an_unknown_reference_names_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'dell-c4140-v100-2019'"):
        read_reference("dell-c4140-v100")


# --- Markdown ------------------------------------------------------------------------------------


def test_the_markdown_table_of_a_pull_request() -> None:
    more = {"input_wait_ms": 0.0, "allreduce_ms": 0.0, "skew_ms": 0.0, "score": 0.8, "score_name": "AUC (val)"}
    runs = [run(1, 100.0, 1, **more), run(1, 102.0, 2, **more)]
    slow = {**more, "allreduce_ms": 4.0, "flags": "throttled"}
    text = tables.markdown(table([*runs, run(2, 180.0, 1, **slow), run(2, None, 2), run(4, None)]))
    head, ruler, one, two, four, _, note, _, flag = text.splitlines()
    assert head == "| GPUs | runs | images/s | speed-up | efficiency | step ms | largest loss | AUC (val) | flags |"
    assert set(ruler) == set("| -:")
    assert one.startswith("| 1 | 2 of 2 | 101.0 (88.3 to 113.7) | 1.00 | 100.0% | 39.6 |  | 0.800 |")
    assert (
        two
        == "| 2 | 1 of 2 | 180.0 | 1.78 | 89.1% | 44.4 | all-reduce 4.0 ms (9.0 % of the step) | 0.800 | throttled |"
    )
    assert four.startswith("| 4 | 0 of 1 | - | - | - |")
    assert note == "Intervals are 95 %, over runs; that of a loss is over control blocks if one run measured it."
    assert flag == "- `throttled`: a GPU was slowed by heat or its power supply"


def test_special_characters_do_not_break_a_markdown_table() -> None:
    text = tables.markdown(table([run(1, 1.0, params="a=x|y<b>`*_")]))
    assert text.splitlines()[2].startswith(r"| a=x\|y\<b\>\`\*\_ | 1 | 1 of 1 |")


# --- Extra-P -------------------------------------------------------------------------------------


def test_extra_ps_text_format() -> None:
    """Extra-P 4.2.5 read a file like this one and found these points and means."""
    runs = [run(1, 100.0, 1, allreduce_ms=0.0), run(1, 80.0, 2, allreduce_ms=0.0), run(2, 160.0, allreduce_ms=-0.5)]
    assert extrap(table([*runs, run(4, None)])) == (
        "PARAMETER p\nPOINTS (1) (2)\nMETRIC time\n"
        "REGION step\nDATA 40.000000 50.000000\nDATA 50.000000\n"
        "REGION step->allreduce\nDATA 0.000000\nDATA -0.500000\n"
    )


def test_extra_p_takes_one_series() -> None:
    with pytest.raises(InputError, match="the table has 2 series"):
        extrap(table([run(1, 1.0, params="a=1"), run(1, 1.0, params="a=2")]))
    with pytest.raises(InputError, match="nothing is measured"):
        extrap(table([run(1, None)]))
