"""A file of runs that somebody else wrote: copies in it, rates that nobody can have measured, a thousand sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.container import BarContainer

from hpcjobs.base.errors import InputError
from hpcjobs.collect.runs_csv import read_runs
from hpcjobs.report import figures
from hpcjobs.report.figures_style import TICKS
from tests.control.studies import study
from tests.control.sweeps import run
from tests.running import hpcjobs


def test_rows_that_are_the_same_in_every_column_are_copies_and_no_repeats(tmp_path: Path) -> None:
    rows = ["g1-r1,1,100", "g1-r2,1,101", "g2-r1,2,190", "g2-r1,2,190", "g1-r1,1,100"]
    told: list[str] = []
    text = "\n".join(["run,gpus,throughput", *rows, "g4-r1,4,", "g4-r1,4,"])
    runs = read_runs(text, "theirs.csv", told.append)
    # Two failures without a name of their own are two.
    assert [each.run for each in runs] == ["g1-r1", "g1-r2", "g2-r1", "g4-r1", "g4-r1"]
    assert told == [
        "theirs.csv: run 4 is a copy of run 3, the same in every column, and so are 1 more: copies are no repeats, so "
        "each run counts once"
    ]
    # A column that hpcjobs does not have tells two repeats of one rate apart.
    assert len(read_runs("gpus,throughput,day\n1,100,1\n1,100,2\n", "theirs.csv", told.append)) == 2
    assert len(told) == 1
    (tmp_path / "theirs.csv").write_text(text)
    for words in (("report", "--out", "o"), ("predict",)):
        said = hpcjobs(words[0], "--runs", "theirs.csv", *words[1:], cwd=tmp_path, code=None).stderr
        assert "--runs theirs.csv: run 4 is a copy of run 3" in said


@pytest.mark.parametrize(
    ("columns", "values", "why"),
    [
        ("throughput", "1e300", "no GPU does more than 4.5e+15 operations a second, and each would do as many units"),
        ("throughput", "1e-9", "one unit would take longer than a year"),
        ("throughput,mfu", "800,1.7", "mfu is 1.7: more than the peak of the GPU"),
        # 1.234 stands for 1,234 in some countries.
        ("throughput,global_batch,step_ms", "1.234,512,414.9", "global_batch 512 in step_ms 414.9 is 1234.03 a second"),
        ("throughput,throughput_per_gpu", "100,100", "throughput_per_gpu 100 on 8 GPUs is 800"),
    ],
)
def test_a_rate_that_no_run_can_have_measured_is_refused(columns: str, values: str, why: str) -> None:
    with pytest.raises(InputError) as error:
        read_runs(f"gpus,{columns}\n8,{values}\n", "theirs.csv")
    rate = float(values.partition(",")[0])
    assert str(error.value) == f"theirs.csv: run 1: throughput is {rate:g}: {why}"


def test_figures_that_agree_as_those_of_one_log_do_are_read() -> None:
    (each,) = read_runs("gpus,throughput,global_batch,step_ms,throughput_per_gpu\n8,900,64,80,112.5\n", "theirs.csv")
    assert each.throughput == 900  # 800 by the step: a tenth of its time is between the steps


def test_of_a_thousand_sizes_some_are_labelled_and_some_have_bars() -> None:
    """Each label and each bar takes milliseconds to draw: with one for each size, a report took 109 s of CPU time."""
    those = [
        run(
            gpus,
            100.0 * gpus,
            step_ms=100.0,
            input_wait_ms=2.0,
            compute_ms=90.0,
            local_batch=10,
            global_batch=10 * gpus,
        )
        for gpus in range(1, 1001)
    ]
    drawings = {each.name: each for each in figures.draw(study(those))}
    (axes,) = drawings["scaling"].figure.axes
    ticks = axes.get_xticks()
    assert 8 <= len(ticks) <= TICKS
    assert ticks[-1] == 1000
    assert len(axes.lines[-1].get_xdata()) == 1000
    (axes,) = drawings["breakdown"].figure.axes
    bars = {bar.get_y() for box in axes.containers if isinstance(box, BarContainer) for bar in box}
    assert len(bars) == 63
    assert "63 of 1,000 bars are shown; the table has all." in drawings["breakdown"].caption
    assert axes.get_yticklabels()[-1].get_text() == "1,000"
