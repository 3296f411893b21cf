"""Random changes of training images, made on the device. They follow from (seed, epoch, image) alone."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf


class Augment(tf.keras.layers.Layer):
    """Flips, rotates and shifts images. The draws depend on the image and the epoch, so a resumed run repeats them.

    `flip`: mirror left and right with probability 1/2. `rotate_degrees`: rotate by up to this many
    degrees either way. `shift`: move by up to this fraction of height and width either way. Pixels from
    outside the image are black, as around an X-ray.
    """

    def __init__(self, seed: int, *, flip: bool, rotate_degrees: float, shift: float):
        super().__init__(name="augment", trainable=False)
        self.seed = seed
        self.flip = flip
        self.rotate_degrees = rotate_degrees
        self.shift = shift

    def call(self, pixels: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
        """uint8 [B, H, W, 1] of keys int64 [B, 2] (epoch, image id) to uint8 of the same shape."""
        flip = uniform(self.seed, keys, 0) < (0.5 if self.flip else 0.0)
        # As floats: TensorFlow's tf.where of uint8 runs on the host only.
        images = tf.cast(pixels, tf.float32)
        if self.rotate_degrees or self.shift:
            images = self._move(images, keys, flip)
        elif self.flip:
            images = tf.where(flip[:, None, None, None], tf.reverse(images, [2]), images)
        else:
            return pixels
        return tf.cast(tf.round(images), tf.uint8)

    def _move(self, images: tf.Tensor, keys: tf.Tensor, flip: tf.Tensor) -> tf.Tensor:
        _, height, width, _ = images.shape
        angle = self._symmetric(keys, 1) * math.radians(self.rotate_degrees)
        down = self._symmetric(keys, 2) * (self.shift * height)
        right = self._symmetric(keys, 3) * (self.shift * width)
        cos, sin, mirror = tf.cos(angle), tf.sin(angle), tf.where(flip, -1.0, 1.0)
        # Rows of the matrix that maps (x, y) of the output to (x, y) of the input, around the middle.
        x, y = (width - 1) / 2, (height - 1) / 2
        to_x = x - mirror * (cos * (x + right) - sin * (y + down))
        to_y = y - (sin * (x + right) + cos * (y + down))
        zero = tf.zeros_like(angle)
        transforms = tf.stack([mirror * cos, -mirror * sin, to_x, sin, cos, to_y, zero, zero], axis=1)
        return tf.raw_ops.ImageProjectiveTransformV3(
            images=images,
            transforms=transforms,
            output_shape=[height, width],
            fill_value=0.0,
            interpolation="BILINEAR",
            fill_mode="CONSTANT",
        )

    def _symmetric(self, keys: tf.Tensor, draw: int) -> tf.Tensor:
        return 2 * uniform(self.seed, keys, draw) - 1

    def get_config(self) -> dict[str, Any]:
        """The arguments from which Keras makes a copy of the layer."""
        own = {name: getattr(self, name) for name in ("seed", "flip", "rotate_degrees", "shift")}
        return {**super().get_config(), **own}


def uniform(seed: int, keys: tf.Tensor, draw: int) -> tf.Tensor:
    """float32 [B] in [0, 1): draw number `draw` of each row of keys (int64 [B, 2]), independent of the batch.

    TensorFlow's stateless generators take one seed for a whole tensor, so the keys are hashed
    instead, by the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014,
    doi:10.1145/2660193.2660195). Only operations are used that TensorFlow has for uint64 on GPUs:
    unstack and fill would run on the host.
    """
    keys = tf.cast(keys, tf.uint64)
    epoch, image = keys[:, 0], keys[:, 1]
    state = _mix(tf.constant(seed, tf.uint64))
    for value in (epoch, image, tf.constant(draw, tf.uint64)):
        state = _mix(tf.bitwise.bitwise_xor(state, value) + tf.constant(0x9E3779B97F4A7C15, tf.uint64))
    bits = tf.bitwise.right_shift(state, tf.constant(40, tf.uint64))  # 24 bits: a float32 holds them exactly
    return tf.cast(bits, tf.float32) * 2.0**-24


def _mix(z: tf.Tensor) -> tf.Tensor:
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = tf.bitwise.bitwise_xor(z, tf.bitwise.right_shift(z, tf.constant(shift, tf.uint64)))
        z *= tf.constant(factor, tf.uint64)
    return tf.bitwise.bitwise_xor(z, tf.bitwise.right_shift(z, tf.constant(31, tf.uint64)))
