"""One optimizer step over all ranks, compiled into one graph, within which the host does nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import horovod.tensorflow as hvd
import numpy as np
import tensorflow as tf

from hpcjobs.chexnet.train.augment import Augment


class Step:
    """Trains `model` with `optimizer` on batches of ((pixels, keys), labels), as from `input.train_batches`.

    Each rank computes the gradients of the mean loss of its own batch, in `passes` parts; all ranks
    apply the mean of the gradients. With a loss scale, the mean is checked for overflow, so that all
    ranks skip the same steps. `weights` are factors of the loss of a negative and of a positive
    label, float [2, 14] (see `class_weights`). `loss_sum`, on the device, is the sum of this rank's mean
    losses of the steps since it was set to 0. `on(images, labels)` is the same step on a given batch.
    `alone(images, labels)` is that step without the all-reduce: the ranks' weights then differ.
    """

    def __init__(
        self,
        model: tf.keras.Model,
        optimizer: tf.keras.optimizers.Optimizer,
        augment: Augment | None = None,
        *,
        passes: int = 1,
        clip_norm: float | None = None,
        weights: np.ndarray | None = None,
        compression: str = "none",
    ):
        self.model = model
        self.optimizer = optimizer
        self.augment = augment
        self.passes = passes
        self.clip_norm = clip_norm
        self.weights = None if weights is None else tf.constant(weights, tf.float32)
        self.compression = getattr(hvd.Compression, compression)
        self.loss_sum = tf.Variable(0.0, trainable=False, name="loss_sum")
        self._run = tf.function(lambda batches: self._step(*next(batches)), autograph=False)
        self.on = tf.function(self._step, autograph=False)
        self.alone = tf.function(lambda images, labels: self._step(images, labels, alone=True), autograph=False)

    @property
    def gradient_bytes(self) -> int:
        """Bytes of one step's gradients in the all-reduce: float32, or half of that with fp16 compression."""
        size = 2 if self.compression is hvd.Compression.fp16 else 4
        return size * sum(int(np.prod(variable.shape)) for variable in self.model.trainable_variables)

    def __call__(self, batches: Iterator[Any]) -> None:
        """Train on the next batch. Returns when the work has been handed to the device. Collective."""
        self._run(batches)

    def _step(self, images: tuple[tf.Tensor, tf.Tensor], labels: tf.Tensor, alone: bool = False) -> None:
        pixels, keys = images
        loss, gradients = self.gradients(pixels, keys, labels)
        self.apply(gradients if alone else self.reduce(gradients))
        self.loss_sum.assign_add(loss)

    def gradients(self, pixels: tf.Tensor, keys: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """This rank's mean loss and its gradients (scaled, if there is a loss scale)."""
        if self.augment is not None:
            pixels = self.augment(pixels, keys)
        losses: list[tf.Tensor] = []
        total: list[tf.Tensor] = []
        for part, truth in zip(tf.split(pixels, self.passes), tf.split(labels, self.passes), strict=True):
            with tf.GradientTape() as tape:
                loss = self.loss(truth, self.model(part, training=True)) / self.passes
                scaled = self.optimizer.get_scaled_loss(loss) if self._is_scaled else loss
            found = tape.gradient(scaled, self.model.trainable_variables)
            total = [one + two for one, two in zip(total, found, strict=True)] if total else found
            losses.append(loss)
        return tf.add_n(losses), total

    def reduce(self, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """The mean of the gradients over the ranks. Each is sent as soon as it is known, while others are computed."""
        return [
            hvd.allreduce(gradient, op=hvd.Average, compression=self.compression, name=f"gradient.{index}")
            for index, gradient in enumerate(gradients)
        ]

    def apply(self, gradients: list[tf.Tensor]) -> None:
        """Unscale the gradients, clip them, and apply them."""
        if self._is_scaled:
            gradients = self.optimizer.get_unscaled_gradients(gradients)
        if self.clip_norm is not None:
            gradients, _ = tf.clip_by_global_norm(gradients, self.clip_norm)
        self.optimizer.apply_gradients(zip(gradients, self.model.trainable_variables, strict=True))

    def loss(self, labels: tf.Tensor, predictions: tf.Tensor) -> tf.Tensor:
        """Binary cross-entropy in nats, mean over images and classes."""
        truth = tf.cast(labels, tf.float32)
        # Keras computes it from the logits of the sigmoid, which keeps the loss exact near 0 and 1.
        each = tf.keras.backend.binary_crossentropy(truth, predictions)
        if self.weights is not None:
            each *= tf.where(labels == 1, self.weights[1], self.weights[0])
        return tf.reduce_mean(each)

    @property
    def variables(self) -> list[tf.Variable]:
        """All variables that a training changes: those of the model and of the optimizer, with the loss scale."""
        return [*self.model.variables, *optimizer_state(self.optimizer).values()]

    @property
    def _is_scaled(self) -> bool:
        return isinstance(self.optimizer, tf.keras.mixed_precision.LossScaleOptimizer)


def class_weights(positives: Sequence[int], images: int) -> np.ndarray:
    """float [2, 14]: factors of the loss, for negatives the share of positives, for positives that of negatives.

    Rajpurkar et al. 2017, arXiv:1711.05225, equation 1 (there for one class).
    """
    share = np.asarray(positives, np.float64) / images
    return np.stack([share, 1 - share])


def log_odds(positives: Sequence[int], images: int) -> np.ndarray:
    """float [14]: log of positives over negatives. Each count is increased by 1/2, so that no log is infinite."""
    found = np.asarray(positives, np.float64) + 0.5
    return np.log(found / (images + 1 - found))


def make_optimizer(rate: float, precision: str, variables: Sequence[tf.Variable]) -> tf.keras.optimizers.Optimizer:
    """Adam with its slots; for float16 with a dynamic loss scale (2**15 at first, doubled every 2,000 steps)."""
    # By default Keras compiles it with XLA if there is a GPU; here train.xla decides.
    optimizer = tf.keras.optimizers.Adam(rate, jit_compile=False)
    if precision == "mixed_float16":
        optimizer = tf.keras.mixed_precision.LossScaleOptimizer(optimizer)
    optimizer.build(variables)
    return optimizer


def optimizer_state(optimizer: tf.keras.optimizers.Optimizer) -> Mapping[str, tf.Variable]:
    """Variables of an optimizer by number, because Keras renames them each time; of the loss scale by name."""
    found = {str(index): variable for index, variable in enumerate(optimizer.variables)}
    if isinstance(optimizer, tf.keras.mixed_precision.LossScaleOptimizer):
        state = optimizer._loss_scale  # Keras has no public name for the counter's variable.
        found |= {"loss_scale": state._current_loss_scale, "finite_steps": state._counter}
    return found
