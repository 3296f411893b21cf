"""hpcjobs' own train.log gives the same figures as in a sweep's run folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcjobs.collect import mllog
from tests.control.logs import line, train_log
from tests.control.logs_formats.reading import one, read, reasons

FILE = '"metadata": {"file": "hpcjobs/chexnet/train/windows.py", "lineno": 34, "step"'


def as_written(text: str) -> str:
    """The lines as the trainer's library writes them, with file and line."""
    return text.replace('"metadata": {"step"', FILE)


@pytest.mark.parametrize("steps", [(50.0,), (40.0, 60.0, 50.0), tuple(50.0 + number % 7 for number in range(200))])
@pytest.mark.parametrize("written", [False, True])
def test_the_figures_are_those_of_a_sweep(tmp_path: Path, steps: tuple[float, ...], written: bool) -> None:
    text = train_log(gpus=4, step_ms=steps, steps=5 * len(steps) + 5)
    text = as_written(text) if written else text
    result = read(tmp_path, text)
    path = tmp_path / "some.log"
    expected = mllog.measure(mllog.read(path))
    assert expected is not None
    measured = one(result)
    assert result.format == "hpcjobs"
    for name in ("throughput", "step_ms", "epoch_s", "time_to_train_s", "time_to_train_kind", "eval_s", "hosts"):
        assert getattr(measured, name) == pytest.approx(getattr(expected, name)), name
    assert (measured.gpus, measured.local_batch, measured.global_batch) == (4, 4, 16)
    assert (measured.score, measured.score_name) == (expected.score, expected.score_name)
    assert measured.steady is not None
    assert (measured.steady.windows, measured.steady.outliers) == (expected.windows, expected.outlier_windows)
    assert result.problems == ()


def test_runs_in_one_file(tmp_path: Path) -> None:
    text = as_written(train_log(gpus=2, step_ms=(50.0,) * 9)) + as_written(train_log(gpus=8, step_ms=(80.0,) * 9))
    result = read(tmp_path, text)
    assert [(run.gpus, run.step_ms, run.line) for run in result.measurements] == [  # type: ignore[union-attr]
        (2, pytest.approx(50.0), 1),
        (8, pytest.approx(80.0), 20),
    ]


def test_a_log_cut_off_gives_its_windows_and_says_so(tmp_path: Path) -> None:
    text = as_written(train_log(step_ms=(50.0,) * 9))
    result = read(tmp_path, text[: text.index("epoch_stop")])
    assert (one(result).step_ms, one(result).flags) == (pytest.approx(50.0), ("unfinished",))
    assert one(result).time_to_train_s is None
    assert reasons(result) == "the log ends before run_stop: its timed windows count"
    aborted = read(tmp_path, as_written(train_log(status="aborted")))
    assert "the run ended as aborted" in reasons(aborted)
    none = read(tmp_path, text[: text.index("tracked_stats")])
    assert none.measurements == ()
    assert "without a timed window" in reasons(none)


def test_damaged_lines_are_skipped(tmp_path: Path) -> None:
    whole = as_written(train_log(step_ms=(50.0,) * 9))
    expected = one(read(tmp_path, whole))
    bad = whole.splitlines()[8].replace('"step_ms": 50.0', '"step_ms": 5o.0')
    infinite = line("tracked_stats", {"throughput": 1.0, "step_ms": float("inf")}, step=99, steps=5, warmup=False)
    late = line("tracked_stats", {"throughput": 1.0, "step_ms": 900.0}, step=98, steps=5, epoch_num=1, warmup=True)
    noisy = (
        "\x00garbage\n" + whole.replace("\n", f"\nchatter\n{bad}\n{infinite}{late}", 5) + ':::MLLOG {"key": "tracked_st'
    )
    measured = one(read(tmp_path, noisy))
    assert (measured.step_ms, measured.throughput) == (expected.step_ms, expected.throughput)
