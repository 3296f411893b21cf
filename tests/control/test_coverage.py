"""Do the 95 % intervals of the table contain the truth? Simulated sweeps; docs/numbers.md has the results."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest

from hpcjobs.analysis.scaling import table
from tests.control.sweeps import run

# The true images/s of each size.
TRUTH = {1: 185.0, 2: 350.0, 4: 660.0, 8: 1200.0, 16: 2000.0}

# Draws the repeats of one size, as multiples of the truth. Their expectation is 1.
Noise = Callable[[np.random.Generator, int], np.ndarray]


class Coverage(NamedTuple):
    """The share of the intervals that contain the truth."""

    throughput: float
    speedup: float
    efficiency: float


def normal(random: np.random.Generator, repeats: int) -> np.ndarray:
    """3 % noise, independent from run to run."""
    return 1 + 0.03 * random.standard_normal(repeats)


def skewed(random: np.random.Generator, repeats: int) -> np.ndarray:
    """Each run is slowed by an exponential time, 5 % on average: most runs are fast and a few are slow."""
    mean = 0.95436  # the mean of 1 / (1 + 0.05 E) with E exponential: 20 e^20 E1(20)
    return 1 / (1 + 0.05 * random.exponential(size=repeats)) / mean


def clustered(share: float) -> Noise:
    """3 % noise. The nodes cause `share` of its variance, and all repeats of a size run on the same nodes."""

    def noise(random: np.random.Generator, repeats: int) -> np.ndarray:
        nodes, run = random.standard_normal(), random.standard_normal(repeats)
        return 1 + 0.03 * (share**0.5 * nodes + (1 - share) ** 0.5 * run)

    return noise


def cover(noise: Noise, repeats: int, sweeps: int) -> Coverage:
    random = np.random.default_rng(2019)
    held: list[list[bool]] = [[], [], []]
    for _ in range(sweeps):
        runs = [
            run(gpus, rate * factor, number)
            for gpus, rate in TRUTH.items()
            for number, factor in enumerate(noise(random, repeats), 1)
        ]
        for row in table(runs):
            truth, speedup = TRUTH[row.gpus], TRUTH[row.gpus] / TRUTH[1]
            held[0].append(row.throughput_low <= truth <= row.throughput_high)
            if row.gpus > 1:
                held[1].append(row.speedup_low <= speedup <= row.speedup_high)
                held[2].append(row.efficiency_low <= speedup / row.gpus <= row.efficiency_high)
    return Coverage(*(sum(each) / len(each) for each in held))


@pytest.mark.parametrize("repeats", [3, 5])
def test_intervals_hold_the_truth_in_95_per_cent_of_2000_sweeps(repeats: int) -> None:
    assert all(0.93 <= share <= 0.97 for share in cover(normal, repeats, sweeps=2000))


# The coverage if the assumptions do not hold, as in docs/numbers.md.
@pytest.mark.parametrize(
    ("noise", "repeats", "expected"),
    [
        (normal, 2, Coverage(0.95, 0.975, 0.975)),
        (skewed, 3, Coverage(0.90, 0.97, 0.97)),
        (skewed, 5, Coverage(0.90, 0.97, 0.97)),
        (clustered(0.25), 3, Coverage(0.91, 0.91, 0.91)),
        (clustered(0.5), 3, Coverage(0.84, 0.81, 0.81)),
        (clustered(0.5), 5, Coverage(0.68, 0.65, 0.65)),
    ],
)
def test_coverage_beyond_the_assumptions_is_as_documented(noise: Noise, repeats: int, expected: Coverage) -> None:
    assert list(cover(noise, repeats, sweeps=500)) == pytest.approx(list(expected), abs=0.03)
