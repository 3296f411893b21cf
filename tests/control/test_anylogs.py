"""Anyone's logs become runs of the same report, and what differs is never averaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcjobs.analysis.scaling import table
from hpcjobs.collect.anylogs import runs
from hpcjobs.collect.measurements import LogResult, Problem, SteadyRate, Throughput
from hpcjobs.collect.reading import read_log
from hpcjobs.report import tables
from tests.control.logs import train_log

SAMPLES = Path(__file__).parent / "logs_formats" / "samples"


def log(gpus: int | None, rate: float | None, **more: object) -> LogResult:
    one = Throughput(
        source=f"{gpus}.log",
        line=3,
        format="mxnet",
        figure="Speed",
        gpus=gpus,
        throughput=rate,
        **{"unit": "images", **more},
    )
    return LogResult(one.source, one.format, (one,))


def test_logs_of_several_sizes_make_a_table() -> None:
    steady = SteadyRate(100.0, None, 9, 1, 2, 1, "")
    found, problems = runs(
        [
            log(1, 100.0, model="resnet50", steady=steady, local_batch=8, global_batch=8),
            log(8, 700.0, model="resnet50", hosts=("a", "b"), local_batch=8, global_batch=64),
        ]
    )
    assert problems == []
    assert [(one.run, one.source, one.experiment) for one in found] == [
        ("1.log", "1.log:3", "resnet50"), ("8.log", "8.log:3", "resnet50"),
    ]  # fmt: skip
    assert (found[0].windows, found[0].outlier_windows) == (9, 2)
    assert (found[1].nodes, found[1].gpus_per_node, found[1].nodelist) == (2, 4, "a b")
    assert [(row.scaling, row.efficiency) for row in table(found)] == [("weak", 1.0), ("weak", 0.875)]


def test_precisions_and_gpus_are_never_averaged_and_units_never_compared() -> None:
    logs = [log(1, 100.0, precision="float32"), log(1, 180.0, precision="mixed_float16"), log(1, 9.0, unit="sequences")]
    found, _ = runs(logs)
    assert [(one.experiment, one.params) for one in found] == [
        ("mxnet", "precision=float32"), ("mxnet", "precision=mixed_float16"), ("mxnet", ""),
    ]  # fmt: skip
    assert [row.unit for row in table(found)] == ["sequences", "images", "images"]
    found, _ = runs([log(1, 100.0, gpu_model="V100"), log(2, 180.0, gpu_model="A100"), log(4, 300.0)])
    assert [one.params for one in found] == ["gpu_model=V100", "gpu_model=A100", ""]


def test_what_cannot_be_a_row_is_said() -> None:
    empty = LogResult("x.log", "", (), (Problem("x.log", 0, "empty"),))
    found, problems = runs([log(None, 100.0), log(4, None), empty])
    assert found == []
    assert [str(problem) for problem in problems] == [
        "None.log: the log does not say the number of GPUs: give --gpus N, or --gpus-from REGEX for its path",
        "4.log: the log does not say what makes its figure a rate (the batch)",
        "x.log: empty",
    ]


def test_our_own_log_says_the_same_as_in_its_run_folder(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    path.write_text(train_log(gpus=2))
    ((one,), _) = runs([read_log(path)])
    assert (one.gpus, one.global_batch, one.score, one.score_name) == (2, 8, 0.75, "AUC (val)")
    assert one.throughput == pytest.approx(160.0)


def test_real_logs_of_two_precisions_scale_each_for_itself() -> None:
    found, problems = runs(read_log(path) for path in sorted(SAMPLES.glob("tf_cnn_*.log.gz")))
    rows = table(found)
    assert problems == []
    # These logs do not say their precision, but the batch tells the two apart.
    assert {(row.local_batch, row.scaling) for row in rows} == {(224, "weak"), (448, "weak")}
    assert [row.throughput for row in rows if row.local_batch == 448] == [1888.37, 3744.75, 7479.90, 14815.25]
    assert [row.efficiency for row in rows if row.gpus == 8] == pytest.approx([0.978, 0.981], abs=1e-3)
    assert "| 8 | 448 | 1 of 1 | 14815.2 | 7.85 | 98.1% |" in tables.markdown(rows)
