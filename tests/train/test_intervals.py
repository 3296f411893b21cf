"""Intervals of AUCs against the slow way, and against what they promise."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from hpcjobs.chexnet.train.intervals import _Order, auc_intervals


def made_up(images: int, random: np.random.Generator, signal: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    labels = (random.random((images, 3)) < (0.3, 0.1, 0.5)).astype(np.uint8)
    # Rounded, so that there are ties.
    return labels, (random.normal(size=(images, 3)) + signal * labels).round(1)


def test_a_resample_scores_as_scikit_learn_scores_the_copies():
    random = np.random.default_rng(0)
    labels, predictions = made_up(200, random)
    times = random.integers(0, 4, 200)
    for c in range(3):
        expected = roc_auc_score(np.repeat(labels[:, c], times), np.repeat(predictions[:, c], times))
        (auc,) = _Order(labels[:, c], predictions[:, c]).auc(times[None].astype(np.float32))
        assert auc == pytest.approx(expected, abs=1e-12)


def test_images_of_one_patient_come_and_go_together():
    """Each image ten times says nothing new: told as one patient's it leaves the interval as it was."""
    labels, predictions = made_up(300, np.random.default_rng(1))
    patients = [str(i) for i in range(300)]
    once = auc_intervals(labels, predictions, patients, seed=1)
    ten = auc_intervals(labels.repeat(10, 0), predictions.repeat(10, 0), np.repeat(patients, 10).tolist(), seed=1)
    apart = auc_intervals(labels.repeat(10, 0), predictions.repeat(10, 0), [str(i) for i in range(3000)], seed=1)
    for one, same, narrow in zip(once, ten, apart, strict=True):
        assert same == pytest.approx(one, abs=0.01)
        assert narrow[1] - narrow[0] < 0.5 * (one[1] - one[0])


def test_what_is_undefined_has_no_interval_and_is_left_out_of_the_mean():
    labels, predictions = made_up(300, np.random.default_rng(2))
    patients = [str(i) for i in range(300)]
    whole = auc_intervals(labels[:, [0, 2]], predictions[:, [0, 2]], patients, seed=1)
    labels[:, 1] = 0
    first, none, third, mean = auc_intervals(labels, predictions, patients, seed=1)
    assert none is None
    assert [first, third, mean] == whole
    labels[:] = 0
    assert auc_intervals(labels, predictions, patients, seed=1) == [None] * 4


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    """AUC of two unit normals one apart: Phi(1 / sqrt 2) = 0.7602. A seeded 100 data sets of 400 patients."""
    random = np.random.default_rng(3)
    covered = 0
    for seed in range(100):
        labels = (random.random((400, 1)) < 0.3).astype(np.uint8)
        predictions = random.normal(size=(400, 1)) + labels
        (low, high), _ = auc_intervals(labels, predictions, [str(i) for i in range(400)], seed, resamples=200)
        covered += low <= 0.7602 <= high
    assert 88 <= covered <= 99
