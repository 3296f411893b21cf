"""hpcjobs' own train.log gives the same figures as in a sweep's run folder."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpcjobs.base.contract import LogKey
from hpcjobs.collect import mllog
from hpcjobs.collect.measurements import Throughput
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


windows = st.lists(st.tuples(st.integers(1, 200), st.floats(0.5, 5000)), min_size=1, max_size=20)


def made(gpus: int, batch: int, unit: str, warmup: int, windows: list[tuple[int, float]]) -> str:
    """A train.log of windows (steps, ms of a step), of which the first `warmup` are marked so.

    Without a unit it is the trainer's. The meter's names its unit, and the units of each window: here half as many in
    each second one.
    """
    about = {"run": "g", "gpus": gpus, "local_batch": batch, "global_batch": batch * gpus, "hosts": ["n1"]}
    at, step, text = 1000.0, 0, line(LogKey.RUN, {**about, "unit": unit} if unit else about, 1000.0)
    text += line(LogKey.RUN_START, None, at) + line(LogKey.FIRST_STEP, None, at)
    for number, (steps, ms) in enumerate(windows):
        at, step = at + steps * ms / 1000, step + steps
        units = batch * gpus / (2 if unit and number % 2 else 1)
        value = {"throughput": units / ms * 1000, "step_ms": ms, "loss": 0.5}
        value |= {"input_wait_ms": 0.1} if unit else {}
        text += line(LogKey.WINDOW, value, at, step=step, steps=steps, epoch_num=1, warmup=number < warmup)
    text += line(LogKey.RUN_STOP, None, at, status="success")
    return as_written(text)


def lies_whole(text: str) -> list[dict[str, object]]:
    """The events whose lines lie whole in a text; the last may lack its end."""
    found = []
    for each in text.splitlines():
        try:
            found.append(json.loads(each.removeprefix(":::MLLOG ")))
        except ValueError:
            continue
    return [each for each in found if isinstance(each, dict)]


@given(
    windows=windows,
    warmup=st.integers(0, 3),
    gpus=st.sampled_from([1, 2, 16]),
    batch=st.integers(1, 64),
    unit=st.sampled_from(["", "tokens"]),
    begin=st.one_of(st.just(0.0), st.floats(0, 1)),
    end=st.one_of(st.just(1.0), st.floats(0, 1)),
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_log_cut_anywhere_gives_what_its_whole_windows_say(
    tmp_path: Path,
    windows: list[tuple[int, float]],
    warmup: int,
    gpus: int,
    batch: int,
    unit: str,
    begin: float,
    end: float,
) -> None:
    text = made(gpus, batch, unit, warmup, windows)
    cut = text[round(begin * len(text)) : round(end * len(text))]
    events = lies_whole(cut)
    ran = [at for at, each in enumerate(events) if each["key"] == LogKey.RUN]
    timed = [each for each in events[ran[0] :] if each["key"] == LogKey.WINDOW] if ran else []
    timed = [each for each in timed if not each["metadata"]["warmup"]]  # type: ignore[index]
    result = read(tmp_path, cut)
    if not timed:
        assert all(isinstance(one, Throughput) and one.throughput is None for one in result.measurements)
        assert result.problems
        return
    steps = [each["metadata"]["steps"] for each in timed]  # type: ignore[index]
    took = [each["value"]["step_ms"] * count for each, count in zip(timed, steps, strict=True)]  # type: ignore[index]
    rates = [each["value"]["throughput"] for each in timed]  # type: ignore[index]
    units = math.fsum(rate * ms for rate, ms in zip(rates, took, strict=True)) / 1000
    measured = one(result)
    assert (measured.gpus, measured.global_batch) == (gpus, batch * gpus)
    assert measured.step_ms == pytest.approx(math.fsum(took) / sum(steps))
    assert measured.throughput == pytest.approx(units / math.fsum(took) * 1000)
    assert measured.unit == (unit or "images")
    ended = any(each["key"] == LogKey.RUN_STOP for each in events)
    assert result.problems == () if ended else "the log ends before run_stop" in reasons(result)
