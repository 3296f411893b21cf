"""`OUT OPTIONS` on each rank: one step on this rank's part of the same 16 images; rank 0 saves gradients and weights.

OPTIONS is JSON: `frozen` (batch normalisation in inference mode) and keywords of `build` and of `Step`.
"""

import json
import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import horovod.tensorflow as hvd
import numpy as np
import tensorflow as tf

from hpcjobs.chexnet.train.augment import Augment
from hpcjobs.chexnet.train.model import build
from hpcjobs.chexnet.train.step import Step, class_weights, make_optimizer

hvd.init()
tf.config.threading.set_intra_op_parallelism_threads(1)
options = json.loads(sys.argv[2])
tf.keras.utils.set_random_seed(5)
random = np.random.default_rng(5)
pixels = random.integers(0, 256, (16, 64, 64, 1), np.uint8)
labels = (random.random((16, 14)) < 0.3).astype(np.uint8)
keys = np.stack([np.zeros(16, np.int64), np.arange(16)], axis=1)
each = 16 // hvd.size()
mine = slice(hvd.rank() * each, (hvd.rank() + 1) * each)

model = build("densenet_tiny", (64, 64), 127.5, 73.9, batch_norm=options.pop("batch_norm", "local"))
for variable in model.trainable_variables:  # the same however the layers were made
    if "kernel" in variable.name:
        fan_in = np.prod(variable.shape[:-1])
        variable.assign(random.normal(scale=np.sqrt(2 / fan_in), size=variable.shape))
if options.pop("frozen"):
    for layer in model.layers:
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            layer.trainable = False
if options.pop("weighted", False):
    options["weights"] = class_weights(labels.sum(axis=0), 16)
step = Step(
    model,
    make_optimizer(0.001, "float32", model.trainable_variables),
    Augment(5, flip=True, rotate_degrees=5.0, shift=0.0),
    **options,
)
loss, gradients = step.gradients(*map(tf.constant, (pixels[mine], keys[mine], labels[mine])))
gradients = step.reduce(gradients)
loss = hvd.allreduce(loss, op=hvd.Average)
step.apply(gradients)
if hvd.rank() == 0:
    flat = [np.concatenate([value.numpy().ravel() for value in found]) for found in (gradients, model.weights)]
    np.savez(sys.argv[1], loss=loss, gradients=flat[0], weights=flat[1])
