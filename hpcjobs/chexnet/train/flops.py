"""Floating-point operations of a model for one image, counted from its layers.

An operation is an addition or a multiplication, so a multiply-add is two. Convolutions and dense layers count, as in
the literature; normalisation, activations and pooling are left out (under 1 % of DenseNet-121's).
"""

from __future__ import annotations

import math

import tensorflow as tf

# Backward, the gradients of a layer's input and of its weights take as much each as its forward pass
# (Kaplan et al. 2020, arXiv:2001.08361, section 2.1). The first layer needs no gradient of its input; it counts alike.
TRAINING = 3


def forward_flops(model: tf.keras.Model) -> int:
    """Operations of the forward pass of one image. Raises TypeError for a layer with weights that it cannot count."""
    return sum(_of(layer) for layer in model.layers)


def training_flops(model: tf.keras.Model) -> int:
    """Operations of one image in a training step, forward and backward; what is recomputed does not count again."""
    return TRAINING * forward_flops(model)


def _of(layer: tf.keras.layers.Layer) -> int:
    kinds = tf.keras.layers
    if isinstance(layer, kinds.Conv2D) and not isinstance(layer, kinds.Conv2DTranspose):
        _, height, width, channels = layer.output_shape
        per_output = math.prod(layer.kernel_size) * layer.input_shape[-1] // layer.groups
        return int(2 * height * width * channels * per_output)
    if isinstance(layer, kinds.Dense):
        return int(2 * layer.input_shape[-1] * layer.units)
    if layer.weights and not isinstance(layer, kinds.BatchNormalization):
        raise TypeError(f"layer {layer.name} ({type(layer).__name__}): its operations are not counted")
    return 0


def precision(train_precision: str, device: str) -> str:
    """In what the matrix products are computed (column flops_precision), of `train.precision`; "" on CPUs.

    TensorFlow rounds products of float32 to TF32 on GPUs that have it, unless it is told not to.
    """
    if device != "gpu":
        return ""
    if train_precision != "float32":
        return train_precision.replace("mixed_bfloat16", "bf16").replace("mixed_float16", "fp16")
    return "tf32" if tf.config.experimental.tensor_float_32_execution_enabled() else "fp32"
