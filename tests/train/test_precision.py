"""Intervals of simulated step times, whose true mean is known."""

import numpy as np
import pytest
from scipy.signal import lfilter

from hpcjobs.meter import agree, estimate, lag_one, next_check


def step_times(random: np.random.Generator, steps: int, correlation: float, spread: float) -> np.ndarray:
    """A first-order autoregression around 1, stationary from its first value."""
    noise = random.normal(size=steps) * np.sqrt(1 - correlation**2)
    noise[0] /= np.sqrt(1 - correlation**2)
    return 1 + spread * lfilter([1], [1, -correlation], noise)


def stopped(times: np.ndarray, goal: float):
    """The estimate at the first check that meets the goal, as a benchmark stops."""
    steps = 0
    while steps < len(times):
        steps = min(next_check(steps), len(times))
        found = estimate(times[:steps])
        if found is not None and found.relative <= goal:
            break
    return found, steps


@pytest.mark.parametrize("spread", [0.005, 0.02])
@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.6, 0.9])
def test_the_interval_holds_the_truth_however_the_steps_hang_together(correlation: float, spread: float):
    random = np.random.default_rng(3)
    found = [stopped(step_times(random, 3000, correlation, spread), 0.01)[0] for _ in range(1000)]
    covered = [abs(one.mean - 1) <= one.half_width for one in found if one is not None]
    assert len(covered) >= 990
    assert np.mean(covered) >= 0.93


@pytest.mark.parametrize("correlation", [0.0, 0.6, 0.9])
def test_where_the_default_limit_of_steps_is_too_few_there_is_no_interval_rather_than_a_wrong_one(correlation: float):
    random = np.random.default_rng(3)
    found = [stopped(step_times(random, 300, correlation, 0.02), 0.01)[0] for _ in range(1000)]
    wrong = [one is not None and abs(one.mean - 1) > one.half_width for one in found]
    assert np.mean(wrong) <= 0.07
    assert (np.mean([one is None for one in found]) > 0.9) == (correlation == 0.9)


def test_steady_steps_are_enough_after_twenty():
    found, steps = stopped(step_times(np.random.default_rng(1), 3000, 0.0, 0.005), 0.01)
    assert steps == found.batches == 20
    assert found.batch_length == 1
    assert found.relative < 0.01


def test_the_batches_grow_until_they_hang_together_no_more():
    times = step_times(np.random.default_rng(0), 4000, 0.9, 0.02)
    found = estimate(times)
    assert found.batch_length >= 8
    assert found.batches == 4000 // found.batch_length
    assert lag_one(times) > 0.8
    assert found.correlation < 0.2


def test_too_few_or_too_closely_related_steps_tell_nothing():
    assert estimate(np.random.default_rng(0).normal(1, 0.01, 19)) is None
    assert estimate(np.linspace(1, 2, 60)) is None


def test_a_constant_is_known_exactly():
    assert estimate([2.0] * 20) == (2.0, 0.0, 20, 1, 0.0)


def test_the_checks_stand_at_fixed_points():
    points = [0]
    for _ in range(5):
        points.append(next_check(points[-1]))
    assert points == [0, 20, 25, 31, 38, 47]


def test_the_warm_up_wants_three_windows_that_agree():
    assert not agree([1.0, 1.0], 0.02)
    assert agree([9.0, 1.0, 1.01, 1.0], 0.02)
    assert not agree([1.0, 1.03, 1.0], 0.02)
