"""95 % intervals of AUCs, resampled by patient because images of one patient are alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RESAMPLES = 1000
# Resamples at a time. It limits the memory to about 30 MB per 100,000 images.
_CHUNK = 50


def auc_intervals(
    labels: np.ndarray, predictions: np.ndarray, patients: Sequence[str], seed: int, resamples: int = RESAMPLES
) -> list[tuple[float, float] | None]:
    """Percentile intervals of each class's AUC and, last, of their mean; None if the AUC is undefined.

    `labels` (0 or 1) and `predictions` are [N, C], `patients` has the patient of each of the N images. Patients
    are drawn with replacement (cluster bootstrap: Rutter 2000, doi:10.1016/S1076-6332(00)80381-5).
    A resample without positives or without negatives of a class does not count for that class. The mean is over
    the classes that have both in the data.
    """
    _, patient_of = np.unique(np.asarray(patients), return_inverse=True)
    count = int(patient_of.max()) + 1 if len(patient_of) else 0
    orders = [_Order(labels[:, c], predictions[:, c]) for c in range(labels.shape[1])]
    if not any(order.is_defined for order in orders):
        return [None] * (len(orders) + 1)
    random = np.random.default_rng(seed)
    found = []
    for begin in range(0, resamples, _CHUNK):
        drawn = random.integers(count, size=(min(_CHUNK, resamples - begin), count))
        times = np.stack([np.bincount(row, minlength=count) for row in drawn]).astype(np.float32)
        weights = times[:, patient_of]
        found.append(np.stack([order.auc(weights) for order in orders], axis=1))
    scores = np.concatenate(found)
    defined = [order.is_defined for order in orders]
    mean = np.nanmean(scores[:, defined], axis=1)
    return [
        _interval(column) if known else None for column, known in zip([*scores.T, mean], [*defined, True], strict=True)
    ]


class _Order:
    """The images of one class in the order of their predictions: sorted once, weighted many times."""

    def __init__(self, labels: np.ndarray, predictions: np.ndarray):
        order = np.argsort(predictions, kind="stable")
        ranked, truth = predictions[order], labels[order] == 1
        self.is_defined = bool(0 < truth.sum() < len(truth))
        self.negatives, self.positives = order[~truth], order[truth]
        # For each positive: the number of negatives below it, and of those below or equal.
        values = ranked[~truth]
        self.below = np.searchsorted(values, ranked[truth], side="left")
        self.upto = np.searchsorted(values, ranked[truth], side="right")

    def auc(self, weights: np.ndarray) -> np.ndarray:
        """AUCs [R] (Mann-Whitney, ties half) with each image counted `weights` [R, N] times; NaN if undefined."""
        if not self.is_defined:
            return np.full(len(weights), np.nan)
        total = np.zeros((len(weights), len(self.negatives) + 1), np.float32)
        # Exact: these are whole numbers below 2**24.
        np.cumsum(weights[:, self.negatives], axis=1, out=total[:, 1:])
        own = weights[:, self.positives].astype(np.float64)
        wins = (own * (total[:, self.below].astype(np.float64) + total[:, self.upto])).sum(axis=1) / 2
        pairs = own.sum(axis=1) * total[:, -1]
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(pairs > 0, wins / pairs, np.nan)


def _interval(scores: np.ndarray) -> tuple[float, float] | None:
    known = scores[~np.isnan(scores)]
    if not len(known):
        return None
    low, high = np.percentile(known, (2.5, 97.5))
    return float(low), float(high)
