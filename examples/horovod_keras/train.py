"""Keras 2 under Horovod: `model.fit` with a distributed optimizer, and a callback that prints the speed.

Needs TensorFlow 2.15 or older. Under Keras 3 (TensorFlow 2.16 and newer) Horovod's DistributedOptimizer adds up no
gradients and says nothing about it.
"""

import argparse
import time

import horovod.tensorflow.keras as hvd
import numpy as np
import tensorflow as tf


class Speed(tf.keras.callbacks.Callback):
    """Prints the samples per second of all ranks, from rank 0."""

    def __init__(self, batch: int, every: int) -> None:
        super().__init__()
        self.batch, self.every = batch, every

    def on_train_begin(self, logs: object = None) -> None:
        self.step, self.since = 0, time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        self.step += 1
        if self.step % self.every == 0:
            now = time.perf_counter()
            if hvd.rank() == 0:
                speed = self.every * self.batch * hvd.size() / (now - self.since)
                print(f"step {self.step} samples/s: {speed:.1f}", flush=True)
            self.since = now


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=32, help="samples of one rank in one step")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--every", type=int, default=10, help="steps between two lines of output")
    args = parser.parse_args()

    # Keras 2.15 has no __version__ here.
    if getattr(tf.keras, "__version__", "2").startswith("3"):
        raise SystemExit(f"Keras {tf.keras.__version__}: Horovod's DistributedOptimizer needs Keras 2")
    hvd.init()
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        tf.config.set_visible_devices(gpus[hvd.local_rank()], "GPU")

    generator = np.random.default_rng(hvd.rank())
    images = generator.standard_normal((1024, 28, 28, 1), dtype=np.float32)
    labels = (images.mean(axis=(1, 2, 3)) > 0).astype(np.int32)
    layers = tf.keras.layers
    model = tf.keras.Sequential(
        [
            layers.Input((28, 28, 1)),
            layers.Conv2D(16, 3, activation="relu"),
            layers.Conv2D(16, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(2),
        ]
    )
    optimizer = hvd.DistributedOptimizer(tf.keras.optimizers.SGD(args.lr))
    model.compile(optimizer, tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    data = tf.data.Dataset.from_tensor_slices((images, labels)).repeat().batch(args.batch)
    callbacks = [hvd.callbacks.BroadcastGlobalVariablesCallback(0), Speed(args.batch, args.every)]
    model.fit(data, steps_per_epoch=args.steps, callbacks=callbacks, verbose=0)


if __name__ == "__main__":
    main()
