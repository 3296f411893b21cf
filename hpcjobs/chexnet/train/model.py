"""The models. All take uint8 pixels: normalisation and the copies of the channel are layers, run on the device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from horovod.tensorflow.sync_batch_norm import SyncBatchNormalization

from hpcjobs.base.contract import ErrorCode
from hpcjobs.chexnet.classes import CLASSES, IMAGENET_FILE
from hpcjobs.chexnet.train.failure import TrainError

layers = tf.keras.layers

# Suffix of our checkpoints: the weights of a whole model in Keras' format of version 3.
CHECKPOINT_SUFFIX = ".weights.h5"
MIN_SIZE = 32


def build(
    name: str,
    image_size: tuple[int, int],
    mean: float,
    std: float,
    weights: str = "none",
    *,
    batch_norm: str = "local",
    head_bias: np.ndarray | None = None,
) -> tf.keras.Model:
    """Model of uint8 [B, height, width, 1] to float32 [B, 14], a probability per class of classes.CLASSES.

    `mean` and `std` are pixel statistics in 0..255 units. `weights`: `none` (random), `imagenet`
    (Keras' cached file, which is never downloaded here), or a path: a checkpoint of ours (`*.weights.h5`) or
    an HDF5 file of DenseNet-121's convolutional part as Keras publishes it. `batch_norm`: `sync`
    normalises a training step's images over all ranks. `head_bias` (float [14]): the initial bias of the
    last layer; None: 0.
    The network: Huang et al. 2017, arXiv:1608.06993; the head: Rajpurkar et al. 2017.
    Raises TrainError: weights_missing if the weights are missing or do not fit, data_mismatch for
    images that are too small for the network's five halvings.
    """
    if min(image_size) < MIN_SIZE:
        height, width = image_size
        raise TrainError(
            ErrorCode.DATA_MISMATCH,
            f"images of {height}x{width} are too small: the minimum is {MIN_SIZE}x{MIN_SIZE} pixels",
        )
    source = find_weights(name, weights)
    pixels = layers.Input((*image_size, 1), dtype="uint8", name="pixels")
    x = layers.Rescaling(1 / std, offset=-mean / std, name="normalise")(pixels)
    if name == "densenet121":
        x = layers.Concatenate(name="widen")([x, x, x])
        trunk = tf.keras.applications.DenseNet121(include_top=False, weights=None, input_tensor=x)
    else:
        trunk = tf.keras.Model(pixels, densenet_tiny(x))
    if batch_norm == "sync":
        trunk = tf.keras.models.clone_model(trunk, clone_function=_synchronised)
    x = layers.GlobalAveragePooling2D(name="pool")(trunk.output)
    bias = "zeros" if head_bias is None else tf.keras.initializers.Constant(head_bias)
    x = layers.Dense(len(CLASSES), activation="sigmoid", bias_initializer=bias, dtype="float32", name="findings")(x)
    model = tf.keras.Model(trunk.input, x, name=name)
    if source is not None:
        whole = source.name.endswith(CHECKPOINT_SUFFIX) or name != "densenet121"
        load_weights(model if whole else trunk, source)
    return model


def _synchronised(layer: tf.keras.layers.Layer) -> tf.keras.layers.Layer:
    """A copy of the layer; batch normalisation is replaced by the synchronised one."""
    config = layer.get_config()
    if not isinstance(layer, layers.BatchNormalization):
        return layer.__class__.from_config(config)
    return BatchNormalization(**{**config, "fused": False})


class BatchNormalization(SyncBatchNormalization):
    """Batch normalisation over all ranks. It has the name of Keras' class, by which weight files find layers."""

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Keras' `call`: Horovod's adds what TensorFlow 1 needed, and a warning."""
        return layers.BatchNormalization.call(self, *args, **kwargs)


def find_weights(name: str, weights: str) -> Path | None:
    """The file of the initial weights; None for random ones. Raises TrainError (weights_missing)."""
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


def load_weights(model: tf.keras.Model, path: Path) -> None:
    """Load a file into a model. Raises TrainError (weights_missing) if it does not fit."""
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
