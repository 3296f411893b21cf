"""A step of many ranks is the step of one."""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from hpcjobs.chexnet.train.model import build
from hpcjobs.chexnet.train.step import Step, class_weights, log_odds, make_optimizer, optimizer_state
from tests.train.launch import command, environment

PROGRAM = Path(__file__).parent / "step_of_ranks.py"


def one_step(folder: Path, ranks: int, **options: Any) -> Any:
    out = folder / f"{ranks}-{len(list(folder.iterdir()))}.npz"
    words = command(ranks, [PROGRAM, out, json.dumps({"frozen": True, **options})])
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=550, check=False)
    assert done.returncode == 0, done.stderr
    return np.load(out)


def assert_same(one: Any, other: Any, tolerance: float) -> None:
    assert one["loss"] == pytest.approx(float(other["loss"]), rel=tolerance)
    scale = np.abs(one["gradients"]).max()
    np.testing.assert_allclose(one["gradients"], other["gradients"], atol=tolerance * scale)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return one_step(tmp_path_factory.mktemp("alone"), 1)


def test_four_ranks_of_four_images_step_as_one_of_sixteen(alone: Any, tmp_path: Path):
    four = one_step(tmp_path, 4)
    assert_same(four, alone, 1e-5)
    # Adam's first step is the rate times the gradient's sign: where that is noise, so is the step.
    moved = np.abs(four["weights"] - alone["weights"])
    assert np.quantile(moved, 0.99) < 1e-6
    assert moved.max() <= 0.0021


def test_passes_add_up_to_the_same_gradients(alone: Any, tmp_path: Path):
    assert_same(one_step(tmp_path, 1, passes=4), alone, 1e-5)
    assert_same(one_step(tmp_path, 2, passes=2), alone, 1e-5)


def test_synchronised_batch_normalisation_is_that_of_the_global_batch(tmp_path: Path):
    one = one_step(tmp_path, 1, frozen=False)
    assert_same(one_step(tmp_path, 2, frozen=False, batch_norm="sync"), one, 1e-3)
    local = one_step(tmp_path, 2, frozen=False)
    assert np.abs(local["gradients"] - one["gradients"]).max() > 0.01 * np.abs(one["gradients"]).max()


def test_fp16_compression_costs_digits_only(alone: Any, tmp_path: Path):
    two = one_step(tmp_path, 2, compression="fp16")
    assert_same(two, alone, 2e-3)
    assert (two["gradients"] != alone["gradients"]).mean() > 0.5


@pytest.fixture
def hvd():
    import horovod.tensorflow as hvd

    hvd.init()
    return hvd


def step_and_batch(hvd, precision: str = "float32", **options: Any):
    tf.keras.mixed_precision.set_global_policy(precision)
    try:
        model = build("densenet_tiny", (64, 64), 127.5, 73.9)
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    step = Step(model, make_optimizer(0.01, precision, model.trainable_variables), **options)
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (4, 64, 64, 1), np.uint8)
    labels = (random.random((4, 14)) < 0.5).astype(np.uint8)
    return step, (tf.constant(pixels), tf.zeros((4, 2), tf.int64), tf.constant(labels))


def test_clipping_shortens_to_the_norm_and_keeps_the_direction(hvd):
    step, batch = step_and_batch(hvd, clip_norm=0.001)
    step.optimizer = tf.keras.optimizers.SGD(1.0)
    step.optimizer.build(step.model.trainable_variables)
    _, gradients = step.gradients(*batch)
    before = [variable.numpy() for variable in step.model.trainable_variables]
    step.apply(gradients)
    moved = [a - b.numpy() for a, b in zip(before, step.model.trainable_variables, strict=True)]
    assert np.sqrt(sum((m**2).sum() for m in moved)) == pytest.approx(0.001, rel=1e-2)
    flat, way = (np.concatenate([np.ravel(v) for v in values]) for values in (gradients, moved))
    assert flat @ way / np.linalg.norm(flat) / np.linalg.norm(way) > 0.99


def test_an_overflow_is_skipped_and_halves_the_loss_scale(hvd):
    step, batch = step_and_batch(hvd, "mixed_float16")
    state = optimizer_state(step.optimizer)
    _, gradients = step.gradients(*batch)
    before = [variable.numpy() for variable in step.model.trainable_variables]
    gradients[3] = gradients[3] * np.inf
    step.apply(gradients)
    assert state["loss_scale"].numpy() == 2.0**14
    for ours, theirs in zip(before, step.model.trainable_variables, strict=True):
        np.testing.assert_array_equal(ours, theirs.numpy())


def test_the_loss_is_the_mean_cross_entropy_weighted_by_the_other_label(hvd):
    step, _ = step_and_batch(hvd)
    labels = tf.constant([[1] * 7 + [0] * 7], tf.uint8)
    assert float(step.loss(labels, tf.fill((1, 14), 0.2))) == pytest.approx(-(np.log(0.2) + np.log(0.8)) / 2)
    weighted, _ = step_and_batch(hvd, weights=class_weights([10] * 14, 100))
    expected = -(0.9 * np.log(0.2) + 0.1 * np.log(0.8)) / 2
    assert float(weighted.loss(labels, tf.fill((1, 14), 0.2))) == pytest.approx(expected)


def test_log_odds_are_finite_without_a_positive():
    odds = log_odds([0, 50, 100], 100)
    assert odds[1] == pytest.approx(0)
    assert odds[0] == -odds[2] < -5
