"""The models. All take uint8 pixels: normalising and widening are layers, so they run on the device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf

from hpcjobs.contract import CLASSES, ErrorCode
from hpcjobs.train.augment import Augment
from hpcjobs.train.failure import TrainError

layers = tf.keras.layers

# Keras' own name for the file of DenseNet-121's convolutional part, under ~/.keras/models.
IMAGENET_FILE = "densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5"
# The ending of our checkpoints: weights of a whole model, in Keras' format of version 3.
CHECKPOINT_SUFFIX = ".weights.h5"
MIN_SIZE = 32


class Network(tf.keras.Model):
    """A model of pixels to findings that is trained on batches of ((pixels, keys), labels).

    Augmentation is a part of the training step, so it runs where the step does; what is saved,
    evaluated and used for inference is the model without it.
    """

    augment: Augment | None = None

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """A step of Keras on the augmented images."""
        (pixels, keys), labels = data
        if self.augment is not None:
            pixels = self.augment(pixels, keys)
        return super().train_step((pixels, labels))


def build(
    name: str,
    image_size: tuple[int, int],
    mean: float,
    std: float,
    weights: str = "none",
    augment: Augment | None = None,
) -> Network:
    """Model of uint8 [B, height, width, 1] to float32 [B, 14], a probability per class of contract.CLASSES.

    `mean` and `std` are pixel statistics in 0..255 units. `weights`: `none` (random), `imagenet`
    (Keras' cached file, never downloaded), or a path: a checkpoint of ours (`*.weights.h5`), else
    an HDF5 file of DenseNet-121's convolutional part as Keras publishes it.
    The network: Huang et al. 2017, arXiv:1608.06993; the head: Rajpurkar et al. 2017.
    Raises TrainError: weights_missing where the weights are missing or do not fit, data_mismatch for
    images too small for the network's five halvings.
    """
    if min(image_size) < MIN_SIZE:
        height, width = image_size
        raise TrainError(
            ErrorCode.DATA_MISMATCH,
            f"images of {height}x{width} are too small: {MIN_SIZE}x{MIN_SIZE} pixels are the least",
        )
    source = find_weights(name, weights)
    pixels = layers.Input((*image_size, 1), dtype="uint8", name="pixels")
    x = layers.Rescaling(1 / std, offset=-mean / std, name="normalise")(pixels)
    if name == "densenet121":
        x = layers.Concatenate(name="widen")([x, x, x])
        trunk = tf.keras.applications.DenseNet121(include_top=False, weights=None, input_tensor=x)
        x = trunk.output
    else:
        trunk, x = None, densenet_tiny(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dense(len(CLASSES), activation="sigmoid", dtype="float32", name="findings")(x)
    model = Network(pixels, x, name=name)
    model.augment = augment
    if source is not None:
        part = model if source.name.endswith(CHECKPOINT_SUFFIX) or trunk is None else trunk
        _load(part, source)
    return model


def find_weights(name: str, weights: str) -> Path | None:
    """The file to start from; None for random weights. Raises TrainError (weights_missing)."""
    if weights == "none":
        return None
    if weights == "imagenet":
        if name != "densenet121":
            raise TrainError(ErrorCode.WEIGHTS_MISSING, f"no ImageNet weights of {name} exist: set model.weights=none")
        path = Path("~/.keras/models", IMAGENET_FILE).expanduser()
        if not path.is_file():
            raise TrainError(
                ErrorCode.WEIGHTS_MISSING,
                f"{path} is missing, and nodes do not download; on a login node run: python -c "
                "'import tensorflow as tf; tf.keras.applications.DenseNet121(include_top=False)'",
            )
        return path
    path = Path(weights)
    if not path.is_file():
        raise TrainError(ErrorCode.WEIGHTS_MISSING, f"model.weights: {path}: no such file")
    return path


def _load(model: tf.keras.Model, path: Path) -> None:
    try:
        model.load_weights(str(path))
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise TrainError(
            ErrorCode.WEIGHTS_MISSING, f"model.weights: {path} does not hold weights of {model.name}: {reason}"
        ) from None


def densenet_tiny(x: Any, blocks: tuple[int, ...] = (1, 1), growth: int = 8) -> Any:
    """DenseNet-BC of a few layers, for tests and the demo: float32 [B, H, W, 1] to [B, H/8, W/8, C]."""
    x = layers.Conv2D(2 * growth, 7, strides=2, padding="same", use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
    for index, depth in enumerate(blocks):
        if index:
            x = layers.Conv2D(x.shape[-1] // 2, 1, use_bias=False)(layers.ReLU()(layers.BatchNormalization()(x)))
            x = layers.AveragePooling2D(2)(x)
        for _ in range(depth):
            y = layers.ReLU()(layers.BatchNormalization()(x))
            y = layers.Conv2D(4 * growth, 1, use_bias=False)(y)
            y = layers.ReLU()(layers.BatchNormalization()(y))
            y = layers.Conv2D(growth, 3, padding="same", use_bias=False)(y)
            x = layers.Concatenate()([x, y])
    return layers.ReLU()(layers.BatchNormalization()(x))
