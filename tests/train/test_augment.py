"""Augmentation: what it does to an image, and that it depends on (seed, epoch, image) alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import kernels

from hpcjobs.chexnet.data.dataset import load_dataset
from hpcjobs.chexnet.train.augment import Augment, uniform
from hpcjobs.chexnet.train.input import train_batches
from hpcjobs.chexnet.train.model import build
from hpcjobs.chexnet.train.step import Step, make_optimizer

IMAGES = np.random.default_rng(0).integers(0, 256, (64, 24, 40, 1), dtype=np.uint8)
KEYS = np.stack([np.full(64, 5), np.arange(64) << 50], axis=1)


def augment(images: np.ndarray = IMAGES, keys: np.ndarray = KEYS, *, seed: int = 3, **changes: float) -> np.ndarray:
    layer = Augment(seed, **({"flip": False, "rotate_degrees": 0.0, "shift": 0.0} | changes))
    result = tf.function(layer)(images, keys)
    assert result.dtype == tf.uint8
    return result.numpy()


def test_about_half_of_the_images_are_mirrored_left_and_right():
    flipped = augment(flip=True)
    mirrored = [(image == before[:, ::-1]).all() for image, before in zip(flipped, IMAGES, strict=True)]
    same = [(image == before).all() for image, before in zip(flipped, IMAGES, strict=True)]
    assert 20 < sum(mirrored) < 44
    assert sum(mirrored) + sum(same) == 64


def test_nothing_asked_for_changes_nothing():
    np.testing.assert_array_equal(augment(), IMAGES)


def test_an_image_is_changed_alike_whatever_stands_around_it():
    whole = augment(flip=True, rotate_degrees=10, shift=0.1)
    order = np.random.default_rng(1).permutation(64)[:7]
    np.testing.assert_array_equal(
        augment(IMAGES[order], KEYS[order], flip=True, rotate_degrees=10, shift=0.1), whole[order]
    )


@pytest.mark.parametrize("change", [{"seed": 4}, {"keys": KEYS + np.array([1, 0])}, {"keys": KEYS + np.array([0, 1])}])
def test_another_seed_epoch_or_image_changes_otherwise(change: dict):
    assert (augment(flip=True) != augment(flip=True, **change)).any()


def test_draws_are_uniform_and_of_no_relation():
    epochs, images = np.meshgrid(np.arange(10), np.arange(2000))
    keys = np.stack([epochs.ravel(), images.ravel()], axis=1)
    first, second = uniform(1, keys, 0).numpy(), uniform(1, keys, 1).numpy()
    assert np.histogram(first, 10, (0, 1))[0] == pytest.approx(2000, abs=200)
    for other in (second, np.roll(first, 1), np.roll(first, 10)):
        assert abs(np.corrcoef(first, other)[0, 1]) < 0.03


def test_draws_stay_what_they_were():
    """A checkpoint of an older version goes on with the same augmentation."""
    keys = np.array([[0, 0], [0, 1], [1, 0], [7, 2**62 - 1], [7, 123456789012345]])
    first = ["0x1.eaa208p-1", "0x1.cade18p-3", "0x1.c83788p-3", "0x1.0c0da0p-2", "0x1.3c63aap-1"]
    fourth = ["0x1.ded400p-5", "0x1.795618p-3", "0x1.4bc620p-5", "0x1.b49ed2p-1", "0x1.c85148p-3"]
    for draw, values in ((0, first), (3, fourth)):
        assert uniform(3, keys, draw).numpy().tolist() == [float.fromhex(value) for value in values]


@pytest.mark.parametrize("moves", [{}, {"rotate_degrees": 5.0, "shift": 0.05}])
def test_all_of_it_runs_on_the_device(moves: dict):
    """Each operation has a GPU kernel for its types, in builds of TensorFlow that know GPUs."""
    if not on_gpu("MatMul", {"T": tf.float32}):
        pytest.skip("this TensorFlow is built without GPUs")
    assert not on_gpu("Unpack", {"T": tf.uint64})
    layer = Augment(3, **({"flip": True, "rotate_degrees": 0.0, "shift": 0.0} | moves))
    traced = tf.function(layer).get_concrete_function(
        tf.TensorSpec([None, 24, 40, 1], tf.uint8), tf.TensorSpec([None, 2], tf.int64)
    )
    operations = [operation for operation in traced.graph.get_operations() if operation.type != "Placeholder"]
    assert {"BitwiseXor", "ImageProjectiveTransformV3" if moves else "ReverseV2"} <= {one.type for one in operations}
    on_host = [one.name for one in operations if not on_gpu(one.type, types_of(one))]
    assert on_host == []


def types_of(operation: tf.Operation) -> dict[str, tf.DType]:
    named = {name: operation.get_attr(name) for name in operation.node_def.attr}
    return {name: value for name, value in named.items() if isinstance(value, tf.DType)}


def on_gpu(operation: str, types: dict[str, tf.DType]) -> bool:
    """Whether a GPU takes it; shapes (int32) have kernels of kind DEFAULT, which leave them in the host's memory."""
    for kernel in kernels.get_registered_kernels_for_op(operation).kernel:
        allowed = {constraint.name: constraint.allowed_values.list.type for constraint in kernel.constraint}
        fits = all(types[name].as_datatype_enum in kinds for name, kinds in allowed.items() if name in types)
        if kernel.device_type in ("GPU", "DEFAULT") and fits:
            return True
    return False


def test_shifts_and_turns_stay_within_their_bounds():
    dot = np.zeros((64, 41, 41, 1), np.uint8)
    dot[:, 20, 30] = 255  # 10 to the right of the middle.
    keys = np.stack([np.zeros(64, int), np.arange(64)], axis=1)

    def places(**changes: float) -> np.ndarray:
        moved = augment(dot, keys, **changes)[..., 0].astype(float)
        grid = np.mgrid[-20:21, -20:21]
        return np.array([(grid * image).sum((1, 2)) / image.sum() for image in moved])

    shifted = places(shift=0.1) - [0, 10]
    assert 3 < np.abs(shifted).max(0).min() <= np.abs(shifted).max() < 4.1 + 0.5
    assert shifted.min() < -3 < 3 < shifted.max()
    turned = places(rotate_degrees=30)
    angles = np.degrees(np.arctan2(turned[:, 0], turned[:, 1]))
    assert 25 < np.abs(angles).max() < 31
    assert angles.min() < -20 < 20 < angles.max()
    assert np.hypot(*turned.T) == pytest.approx(10, abs=0.5)


def test_only_training_augments():
    class Spy(Augment):
        calls = 0

        def call(self, pixels: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
            Spy.calls += 1
            return super().call(pixels, keys)

    network = build("densenet_tiny", (32, 32), 127.5, 73.9)
    augment = Spy(1, flip=True, rotate_degrees=0, shift=0)
    step = Step(network, make_optimizer(0.001, "float32", network.trainable_variables), augment)
    pixels, labels = np.zeros((2, 32, 32, 1), np.uint8), np.zeros((2, 14), np.uint8)
    network(pixels, training=False)
    assert Spy.calls == 0
    step.gradients(tf.constant(pixels), tf.constant(KEYS[:2]), tf.constant(labels))
    assert Spy.calls == 1


def test_a_resume_repeats_the_augmentation(data: Path):
    layer = Augment(3, flip=True, rotate_degrees=5, shift=0.05)

    def images(start: int) -> list[bytes]:
        batches = train_batches(
            load_dataset(data), rank=1, size=2, batch=4, steps_per_epoch=26, epochs=2, shuffle=64, seed=3, cpus=1,
            start=start,
        )  # fmt: skip
        return [layer(*inputs).numpy().tobytes() for inputs, _ in batches]

    undisturbed = images(0)
    assert images(40) == undisturbed[40:]
    assert len(set(undisturbed)) == 52
