"""The steady state of windows: exact however many there are, with Hampel's outliers."""

from __future__ import annotations

import random
import statistics

import pytest

from hpcjobs.collect.steady import Windows, outliers


@pytest.mark.parametrize("count", [1, 7, 8, 9, 100, 1003])
@pytest.mark.parametrize("at_once", [1, 3, 50])
def test_joined_windows_keep_their_sums(count: int, at_once: int) -> None:
    draw = random.Random(count)
    steps = [float(draw.randint(1, 20)) for _ in range(count)]
    ms = [draw.uniform(10, 90) for _ in range(count)]
    windows = Windows(kept=8)
    for begin in range(0, count, at_once):
        if at_once == 1:
            windows.add(steps[begin], ms[begin])
        else:
            windows.extend(steps[begin : begin + at_once], ms[begin : begin + at_once])
    assert len(windows) < 8
    assert windows.lines * len(windows) <= count < windows.lines * (len(windows) + 1)
    step, rate = windows.steady_step(), windows.steady(0)
    assert step is not None
    assert rate is not None
    assert (step.step_ms, step.windows) == (pytest.approx(sum(ms) / sum(steps)), count)
    assert (rate.rate, rate.windows, rate.lines) == (
        pytest.approx(sum(steps) / sum(ms)),
        len(windows),
        windows.lines,
    )


def test_figures_that_are_not_finite_and_above_zero_are_left_out() -> None:
    windows = Windows()
    for work, time in ((1.0, 0.0), (0.0, 1.0), (-1.0, 1.0), (float("nan"), 1.0), (1.0, float("inf"))):
        windows.add(work, time)
    assert (len(windows), windows.steady(), windows.steady_step()) == (0, None, None)


@pytest.mark.parametrize("seed", range(20))
def test_outliers_are_those_of_hampels_identifier(seed: int) -> None:
    draw = random.Random(seed)
    figures = [draw.gauss(100, 3) + (draw.random() < 0.1) * 40 for _ in range(draw.randint(1, 200))]
    middle = statistics.median(figures)
    distances = [abs(figure - middle) for figure in figures]
    bound = max(3 * 1.4826 * statistics.median(distances), 0.01 * middle)
    assert outliers(sorted(figures)) == sum(distance > bound for distance in distances)


def test_nearly_equal_windows_have_no_outliers() -> None:
    assert outliers([100.0] * 50 + [100.9]) == 0
    assert outliers([100.0] * 50 + [101.1]) == 1
