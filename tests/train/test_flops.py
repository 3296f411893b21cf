"""The operations of a training image, counted from the Keras model, against DenseNet-121 as its paper builds it."""

from __future__ import annotations

import pytest
import tensorflow as tf

from hpcjobs.base import gpu_peaks
from hpcjobs.chexnet.train import flops, model


def densenet121_multiply_adds(size: int) -> int:
    """Of the convolutions of table 1 in Huang et al. 2017 (arXiv:1608.06993), and of 14 outputs, by hand."""
    side, channels = size // 2, 64
    count = side * side * 7 * 7 * 3 * 64
    side //= 2
    for depth in (6, 12, 24, 16):
        for layer in range(depth):
            count += side * side * (channels + 32 * layer) * 128 + side * side * 9 * 128 * 32
        channels += 32 * depth
        if depth != 16:
            count += side * side * channels * (channels // 2)
            channels, side = channels // 2, side // 2
    return count + channels * 14


@pytest.mark.parametrize("size", [224, 320])
def test_densenet_121_takes_what_its_paper_says(size: int):
    network = model.build("densenet121", (size, size), 0.0, 1.0)
    by_hand = densenet121_multiply_adds(size)
    assert flops.forward_flops(network) == 2 * by_hand
    assert flops.training_flops(network) == 6 * by_hand


def test_the_number_of_the_documentation():
    # 2.83 G multiply-adds at 224 x 224, so 17.0 GFLOP for an image of training.
    assert densenet121_multiply_adds(224) == 2_833_137_664 + 1024 * 14


def test_a_small_model_by_hand():
    pixels = tf.keras.layers.Input((8, 8, 4))
    x = tf.keras.layers.Conv2D(6, 3, strides=2, padding="same", groups=2)(pixels)
    x = tf.keras.layers.BatchNormalization()(x)
    x = tf.keras.layers.Dense(5)(tf.keras.layers.GlobalAveragePooling2D()(x))
    network = tf.keras.Model(pixels, x)
    assert flops.forward_flops(network) == 2 * (4 * 4 * 6 * 9 * 2) + 2 * 6 * 5


def test_a_layer_that_cannot_be_counted_is_named():
    network = tf.keras.Sequential([tf.keras.layers.Input((4, 3)), tf.keras.layers.LSTM(2, name="memory")])
    with pytest.raises(TypeError, match="memory"):
        flops.forward_flops(network)


def test_synchronised_batch_norm_does_not_change_it():
    local, sync = (model.build("densenet_tiny", (32, 32), 0.0, 1.0, batch_norm=kind) for kind in ("local", "sync"))
    assert flops.forward_flops(local) == flops.forward_flops(sync) > 0


@pytest.mark.parametrize(
    ("train", "device", "word", "on_v100", "on_a100"),
    [
        ("mixed_float16", "gpu", "fp16", "fp16", "fp16"),
        ("mixed_bfloat16", "gpu", "bf16", "bf16", "bf16"),
        # TensorFlow's default: TF32 where the GPU has it.
        ("float32", "gpu", "tf32", "fp32", "tf32"),
        ("float32", "cpu", "", "", ""),
    ],
)
def test_the_precision_is_that_of_the_products(train: str, device: str, word: str, on_v100: str, on_a100: str):
    assert flops.precision(train, device) == word
    assert gpu_peaks.precision_of(word, "Tesla V100-SXM2-16GB") == on_v100
    assert gpu_peaks.precision_of(word, "NVIDIA A100-SXM4-80GB") == on_a100
