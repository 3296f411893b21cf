"""The models' shapes, normalisation and weights; the scores."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from hpcjobs.base.contract import ErrorCode
from hpcjobs.chexnet.classes import CLASSES
from hpcjobs.chexnet.train.evaluation import predictor, score, write_auc
from hpcjobs.chexnet.train.failure import TrainError
from hpcjobs.chexnet.train.model import build
from hpcjobs.chexnet.train.step import Step, make_optimizer
from hpcjobs.chexnet.train.windows import check_loss


def test_tiny_takes_bytes_and_gives_a_probability_per_class():
    model = build("densenet_tiny", (64, 48), 127.5, 73.9)
    assert (model.input_shape, model.input.dtype) == ((None, 64, 48, 1), tf.uint8)
    findings = model(np.full((2, 64, 48, 1), 255, np.uint8)).numpy()
    assert findings.shape == (2, len(CLASSES))
    assert findings.dtype == np.float32
    assert ((findings > 0) & (findings < 1)).all()


def test_pixels_are_normalised_on_the_way_in():
    model = build("densenet_tiny", (32, 32), 100.0, 50.0)
    inner = tf.keras.Model(model.input, model.get_layer("normalise").output)
    pixels = np.array([0, 100, 150], np.uint8).repeat(1024).reshape(3, 32, 32, 1)
    np.testing.assert_allclose(inner(pixels)[:, 0, 0, 0], [-2, 0, 1], atol=1e-6)


def test_densenet121_sees_three_equal_channels_of_the_normalised_image():
    model = build("densenet121", (32, 32), 100.0, 50.0)
    inner = tf.keras.Model(model.input, [model.get_layer(name).output for name in ("normalise", "widen")])
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 1), dtype=np.uint8)
    normalised, widened = inner(pixels)
    np.testing.assert_allclose(normalised, (pixels.astype(float) - 100) / 50, atol=1e-6)
    np.testing.assert_array_equal(widened, np.repeat(normalised, 3, axis=3))
    (convolution,) = model.get_layer("widen")._outbound_nodes
    assert convolution.layer.name.startswith("zero_padding2d")  # which the first convolution takes


@pytest.mark.parametrize("batch_norm", ["local", "sync"])
def test_training_and_evaluation_normalise_by_the_same_layer(batch_norm: str):
    model = build("densenet_tiny", (32, 32), 100.0, 50.0, batch_norm=batch_norm)
    layer = model.get_layer("normalise")
    assert [other.name for other in model.layers if isinstance(other, tf.keras.layers.Rescaling)] == ["normalise"]
    seen: list[tf.Tensor] = []
    normalise = layer.call

    def spy(pixels: tf.Tensor) -> tf.Tensor:
        seen.append(pixels)
        return normalise(pixels)

    layer.call = spy
    pixels = tf.constant(np.arange(2048, dtype=np.uint16).reshape(2, 32, 32, 1) % 256, tf.uint8)
    step = Step(model, make_optimizer(0.001, "float32", model.trainable_variables))
    if batch_norm == "local":  # The other kind talks to other ranks.
        step.gradients(pixels, tf.zeros([2, 2], tf.int64), tf.zeros([2, 14], tf.uint8))
        np.testing.assert_array_equal(seen.pop(), pixels)
    predictor(model)(pixels)
    (evaluated,) = seen
    assert (evaluated.dtype, evaluated.op.type) == (tf.uint8, "Placeholder")  # as they come, on the device


def test_saved_weights_are_a_start(tmp_path: Path):
    trained = build("densenet_tiny", (64, 64), 127.5, 73.9, batch_norm="sync")
    trained.save_weights(tmp_path / "best.weights.h5")
    again = build("densenet_tiny", (64, 64), 127.5, 73.9, str(tmp_path / "best.weights.h5"))
    for ours, theirs in zip(trained.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_head_may_start_at_the_frequencies():
    frequencies = np.linspace(0.01, 0.2, 14)
    model = build("densenet_tiny", (64, 64), 127.5, 73.9, head_bias=np.log(frequencies / (1 - frequencies)))
    model.get_layer("findings").kernel.assign(np.zeros(model.get_layer("findings").kernel.shape))
    np.testing.assert_allclose(model(np.zeros((1, 64, 64, 1), np.uint8))[0], frequencies, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "weights", "text"),
    [
        ("densenet_tiny", "no/such.h5", "no/such.h5: no such file"),
        ("densenet_tiny", "imagenet", "no ImageNet weights of densenet_tiny exist"),
        ("densenet121", "imagenet", "on a login node run: python -c"),
        ("densenet_tiny", __file__, "does not hold weights of densenet_tiny"),
    ],
)
def test_missing_weights_are_named(name: str, weights: str, text: str, monkeypatch, tmp_path: Path):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(TrainError, match=text) as caught:
        build(name, (64, 64), 127.5, 73.9, weights)
    assert caught.value.code == ErrorCode.WEIGHTS_MISSING


def test_images_too_small_for_the_network_are_refused():
    with pytest.raises(TrainError, match="16x64 are too small: the minimum is 32x32"):
        build("densenet_tiny", (16, 64), 127.5, 73.9)


def test_scores_of_a_hand_worked_case(tmp_path: Path):
    labels, predictions = np.zeros((4, 14), np.uint8), np.full((4, 14), 0.5, np.float32)
    labels[:2, 0], predictions[:, 0] = 1, [0.9, 0.4, 0.6, 0.1]  # 3 of 4 pairs in order.
    labels[:2, 1] = 1  # All tied.
    labels[:, 2] = 1  # No negatives; the others have no positives.
    result = score(labels, predictions, "val")
    assert result.auc == (0.75, 0.5, *[None] * 12)
    assert result.mean_auc == 0.625
    assert result.undefined == list(CLASSES[2:])
    first = -(math.log(0.9) + math.log(0.4) + math.log(0.4) + math.log(0.9)) / 4
    assert result.loss == pytest.approx((first + 13 * math.log(2)) / 14)
    write_auc([(result, None), (replace(result, split="test"), [(0.5, 1.0), *[None] * 14])], tmp_path)
    lines = (tmp_path / "auc.csv").read_text().splitlines()
    assert lines[0] == "split,class,auc,positives,negatives,auc_low,auc_high"
    assert lines[1] == "val,Atelectasis,0.750000,2,2,,"
    assert lines[3] == "val,Effusion,,4,0,,"
    assert lines[15] == "val,mean,0.625000,8,48,,"
    assert lines[16] == "test,Atelectasis,0.750000,2,2,0.500000,1.000000"


def test_what_is_not_a_number_is_an_error():
    with pytest.raises(TrainError) as caught:
        score(np.zeros((1, 14), np.uint8), np.full((1, 14), np.nan, np.float32), "val")
    assert caught.value.code == ErrorCode.NAN_LOSS
    with pytest.raises(TrainError, match="nan at step 7"):
        check_loss(float("nan"), 7)
