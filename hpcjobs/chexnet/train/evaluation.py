"""Validation over all ranks: every image once, exact AUC per class, global cross-entropy."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import horovod.tensorflow as hvd
import numpy as np
import tensorflow as tf
from mlperf_logging.mllog.mllog import MLLogger

from hpcjobs.base.contract import ErrorCode, LogKey
from hpcjobs.base.files import write_atomic
from hpcjobs.chexnet.classes import AUC_COLUMNS, AUC_CSV, CLASSES
from hpcjobs.chexnet.train.failure import TrainError
from hpcjobs.chexnet.train.lean import without_pandas

Predict = Callable[[tf.Tensor], tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Scores of one split. `auc[i]` is None if class i has no positive or no negative image."""

    split: str
    images: int
    loss: float
    auc: tuple[float | None, ...]
    positives: tuple[int, ...]

    @property
    def mean_auc(self) -> float | None:
        """Mean over the classes whose AUC is defined; None if no AUC is defined."""
        defined = [value for value in self.auc if value is not None]
        return sum(defined) / len(defined) if defined else None

    @property
    def undefined(self) -> list[str]:
        """Classes that are left out of the mean."""
        return [name for name, value in zip(CLASSES, self.auc, strict=True) if value is None]


def predictor(model: tf.keras.Model) -> Predict:
    """The model in inference mode, compiled once for batches of any length."""
    signature = [tf.TensorSpec(model.input_shape, tf.uint8)]
    return tf.function(lambda pixels: model(pixels, training=False), input_signature=signature, autograph=False)


def evaluate(
    predict: Predict, batches: tf.data.Dataset, split: str, beat: Callable[[str], None] = lambda text: None
) -> Evaluation:
    """Score a split. `batches` are this rank's share, which may be empty. All ranks get the same result.

    `beat` is called after each batch. Collective. Raises TrainError (nan_loss) if a prediction is not a number.
    """
    truth, predictions = gather(predict, batches, beat)
    # Scored once, so that all ranks get exactly the same loss and lower the learning rate together.
    result = score(truth, predictions, split) if hvd.rank() == 0 else None
    return hvd.broadcast_object(result, root_rank=0, name="evaluation")


def gather(predict: Predict, batches: tf.data.Dataset, beat: Callable[[str], None]) -> tuple[np.ndarray, np.ndarray]:
    """Labels uint8 [N, 14] and predictions float32 [N, 14] of all ranks, in the order of the split. Collective."""
    images, labels = [np.zeros((0, len(CLASSES)), np.float32)], [np.zeros((0, len(CLASSES)), np.uint8)]
    for pixels, findings in batches:
        images.append(predict(pixels).numpy())
        labels.append(findings.numpy())
        beat(f"evaluation, {len(labels) - 1} batches")
    predictions = hvd.allgather(np.concatenate(images), name="predictions").numpy()
    return hvd.allgather(np.concatenate(labels), name="labels").numpy(), predictions


def score(labels: np.ndarray, predictions: np.ndarray, split: str) -> Evaluation:
    """Scores of `predictions` (probabilities, float [N, 14]) for `labels` (0 or 1, [N, 14]).

    AUC is the area under the ROC curve, with ties counted half (Mann-Whitney). The loss is the binary
    cross-entropy in nats, mean over images and classes, with probabilities clipped to 1e-7 from 0 and 1.
    Raises TrainError (nan_loss).
    """
    with without_pandas():
        from sklearn.metrics import roc_auc_score  # Here: it takes 40 MB, and only rank 0 needs it.

    if not np.isfinite(predictions).all():
        raise TrainError(ErrorCode.NAN_LOSS, f"predictions of the {split} split are not numbers: lower lr.base")
    p = np.clip(predictions.astype(np.float64), 1e-7, 1 - 1e-7)
    loss = -np.where(labels == 1, np.log(p), np.log1p(-p)).mean()
    positives = labels.sum(axis=0, dtype=np.int64)
    auc = [
        float(roc_auc_score(labels[:, i], predictions[:, i])) if 0 < positives[i] < len(labels) else None
        for i in range(len(CLASSES))
    ]
    return Evaluation(split, len(labels), float(loss), tuple(auc), tuple(int(count) for count in positives))


def log_result(log: MLLogger, result: Evaluation, where: dict[str, Any]) -> None:
    """Write the lines of train.log that end an evaluation; `where` has its epoch_num and split."""
    metadata = {**where, "images": result.images, "loss": result.loss, "undefined": result.undefined}
    log.event(LogKey.EVAL_ACCURACY, result.mean_auc, metadata=metadata)
    log.end(LogKey.EVAL_STOP, metadata=where)


# (low, high) or None for each class, then for the mean.
Intervals = Sequence[tuple[float, float] | None]


def write_auc(found: Sequence[tuple[Evaluation, Intervals | None]], attempt: Path) -> None:
    """Write auc.csv: for each split a row per class, then `mean` (with summed counts); an undefined AUC is empty."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(AUC_COLUMNS)
    for evaluation, intervals in found:
        rows = [
            *zip(CLASSES, evaluation.auc, evaluation.positives, strict=True),
            ("mean", evaluation.mean_auc, sum(evaluation.positives)),
        ]
        for (name, auc, positives), interval in zip(rows, intervals or [None] * len(rows), strict=True):
            negatives = evaluation.images * (len(CLASSES) if name == "mean" else 1) - positives
            figures = [f"{bound:.6f}" for bound in interval] if interval else ["", ""]
            table.writerow(
                [evaluation.split, name, "" if auc is None else f"{auc:.6f}", positives, negatives, *figures]
            )
    write_atomic(attempt / AUC_CSV, text.getvalue())
