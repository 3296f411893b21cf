"""One optimizer step over all ranks, compiled into one graph; the host does nothing within it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import horovod.tensorflow as hvd
import numpy as np
import tensorflow as tf

from hpcjobs.chexnet.train.augment import Augment


class Step:
    """Trains `model` with `optimizer` on batches of ((pixels, keys), labels), as `input.train_batches` gives.

    Each rank's gradients are of the mean loss of its own batch, in `passes` parts; their mean over
    the ranks is what all apply. With a loss scale it is the mean that is looked at for overflow, so
    all ranks skip the same steps. `weights` are factors of the loss of a negative and of a positive
    label, float [2, 14] (see `class_weights`). `loss_sum` holds the sum of this rank's mean losses,
    on the device, of the steps since it was set to 0. `on(images, labels)` is the same step on a
    batch at hand, and `alone(images, labels)` that without the other ranks, whose weights then differ.
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
        """Bytes that one step's gradients hand to the all-reduce: float32, or halved in size by compression."""
        size = 2 if self.compression is hvd.Compression.fp16 else 4
        return size * sum(int(np.prod(variable.shape)) for variable in self.model.trainable_variables)

    def __call__(self, batches: Iterator[Any]) -> None:
        """Take the next batch. Collective; returns when the work is handed to the device."""
        self._run(batches)

    def _step(self, images: tuple[tf.Tensor, tf.Tensor], labels: tf.Tensor, alone: bool = False) -> None:
        pixels, keys = images
        loss, gradients = self.gradients(pixels, keys, labels)
        self.apply(gradients if alone else self.reduce(gradients))
        self.loss_sum.assign_add(loss)

    def gradients(self, pixels: tf.Tensor, keys: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """This rank's mean loss and its gradients (scaled, where there is a loss scale)."""
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
        """Their mean over the ranks. Each travels as soon as it is known, while others are computed."""
        return [
            hvd.allreduce(gradient, op=hvd.Average, compression=self.compression, name=f"gradient.{index}")
            for index, gradient in enumerate(gradients)
        ]

    def apply(self, gradients: list[tf.Tensor]) -> None:
        """Unscale, shorten, and step."""
        if self._is_scaled:
            gradients = self.optimizer.get_unscaled_gradients(gradients)
        if self.clip_norm is not None:
            gradients, _ = tf.clip_by_global_norm(gradients, self.clip_norm)
        self.optimizer.apply_gradients(zip(gradients, self.model.trainable_variables, strict=True))

    def loss(self, labels: tf.Tensor, predictions: tf.Tensor) -> tf.Tensor:
        """Binary cross-entropy in nats, mean over images and classes."""
        truth = tf.cast(labels, tf.float32)
        # Keras goes back to the logits of a sigmoid, which keeps the loss exact near 0 and 1.
        each = tf.keras.backend.binary_crossentropy(truth, predictions)
        if self.weights is not None:
            each *= tf.where(labels == 1, self.weights[1], self.weights[0])
        return tf.reduce_mean(each)

    @property
    def variables(self) -> list[tf.Variable]:
        """All that a training changes: the model's, and the optimizer's with the loss scale."""
        return [*self.model.variables, *optimizer_state(self.optimizer).values()]

    @property
    def _is_scaled(self) -> bool:
        return isinstance(self.optimizer, tf.keras.mixed_precision.LossScaleOptimizer)


def class_weights(positives: Sequence[int], images: int) -> np.ndarray:
    """float [2, 14]: the loss of a class's negatives and positives is weighted by the share of the others.

    Rajpurkar et al. 2017, arXiv:1711.05225, equation 1 (there for one class).
    """
    share = np.asarray(positives, np.float64) / images
    return np.stack([share, 1 - share])


def log_odds(positives: Sequence[int], images: int) -> np.ndarray:
    """float [14]: log of positives to negatives, each counted half a time more, so that none is infinite."""
    found = np.asarray(positives, np.float64) + 0.5
    return np.log(found / (images + 1 - found))


def make_optimizer(rate: float, precision: str, variables: Sequence[tf.Variable]) -> tf.keras.optimizers.Optimizer:
    """Adam with its slots made, in a loss scale where float16 wants one (dynamic: 2**15, doubled every 2,000 steps)."""
    # Keras would compile it with XLA wherever there is a GPU; train.xla says what is compiled.
    optimizer = tf.keras.optimizers.Adam(rate, jit_compile=False)
    if precision == "mixed_float16":
        optimizer = tf.keras.mixed_precision.LossScaleOptimizer(optimizer)
    optimizer.build(variables)
    return optimizer


def optimizer_state(optimizer: tf.keras.optimizers.Optimizer) -> Mapping[str, tf.Variable]:
    """All variables of an optimizer, numbered, for Keras names them anew each time; and the loss scale's by name."""
    found = {str(index): variable for index, variable in enumerate(optimizer.variables)}
    if isinstance(optimizer, tf.keras.mixed_precision.LossScaleOptimizer):
        state = optimizer._loss_scale  # Keras has no public name for the counter's variable.
        found |= {"loss_scale": state._current_loss_scale, "finite_steps": state._counter}
    return found
