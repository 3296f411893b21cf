"""Reads shards into batches. The records of a split are divided over the ranks, so shard sizes do not matter.

The host reads, shuffles and batches records and copies their bytes, a batch at a time. It makes no
floats and no second or third channel: all computation is in layers of the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from hpcjobs.chexnet.data.dataset import Dataset
from hpcjobs.chexnet.data.tfrecord import parse_batch

# Shards that are read in turn, and records of each at a time: mixes patients before the shuffle buffer.
_CYCLE, _BLOCK = 4, 16
_PREFETCH = 2
# Batches that are ready before a step takes them: those that wait, and the one being made.
BUFFERED = _PREFETCH + 1


class Segment(NamedTuple):
    """`take` records of a file, after the first `skip`."""

    file: str
    skip: int
    take: int


def share(total: int, rank: int, size: int) -> tuple[int, int]:
    """The half-open range of `total` positions that `rank` of `size` takes: even to within one."""
    return rank * total // size, (rank + 1) * total // size


def segments(files: Sequence[tuple[str, int]], start: int, stop: int) -> list[Segment]:
    """The segments that hold positions `start` to `stop` (excluded) of `files`, pairs of (path, number of records).

    The files form one sequence that starts again at its end. A rank opens only the files of its range.
    """
    found: list[Segment] = []
    records = sum(count for _, count in files)
    if not records:
        return found
    position = start - start % records
    while position < stop:
        for file, count in files:
            first, last = max(start, position), min(stop, position + count)
            if first < last:
                found.append(Segment(file, first - position, last - first))
            position += count
    return found


def split_files(dataset: Dataset, split: str, held: Mapping[str, str]) -> list[tuple[str, int]]:
    """(path, records) of each shard of a split; `held` has other paths for cached shards (see `cache`)."""
    shards = dataset.splits[split].shards
    return [(held.get(shard.file, str(dataset.folder / shard.file)), shard.images) for shard in shards]


def epoch_order(files: Sequence[tuple[str, int]], seed: int, epoch: int) -> tuple[list[tuple[str, int]], int]:
    """The order of the shards in an epoch (from 0), and the record at which it begins.

    Each rank has a range from that record on, cyclic. If every epoch began at the first record of its order, few
    shards would leave over the same few images in many epochs.
    """
    random = np.random.default_rng((seed, epoch))
    order = [files[i] for i in random.permutation(len(files))]
    return order, int(random.integers(max(1, sum(count for _, count in files))))


def train_batches(
    dataset: Dataset,
    *,
    rank: int,
    size: int,
    batch: int,
    steps_per_epoch: int,
    epochs: int,
    shuffle: int,
    seed: int,
    cpus: int,
    start: int = 0,
    held: Mapping[str, str] = MappingProxyType({}),
) -> tf.data.Dataset:
    """Batches of ((pixels uint8 [batch, H, W, 1], keys int64 [batch, 2]), labels uint8 [batch, 14]).

    There are `steps_per_epoch` batches in each of `epochs`, without the first `start`: a resumed training
    continues with exactly the remaining batches. Keys are (epoch, image id), see `augment`. The order of
    the shards and the record at which an epoch begins (hence each rank's share and what is left over), and
    the order of the shuffle buffer (`shuffle` records) follow from (seed, epoch). No image occurs twice in
    an epoch unless the split has fewer images than the epoch's steps take: then it is read repeatedly.

    Host memory of a rank: the shuffle buffer, four read buffers of 256 KiB, and five batches (one
    being made, two waiting, one in use, one as records). A record has the image's pixels and about 150 bytes.
    """
    files = split_files(dataset, "train", held)
    positions = max(sum(count for _, count in files), steps_per_epoch * batch * size)
    first, last = share(positions, rank, size)

    def plan(epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        order, begin = epoch_order(files, seed, int(epoch))
        return _columns(segments(order, begin + first, begin + last))

    def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        records = _read(*tf.numpy_function(plan, [epoch], (tf.string, tf.int64, tf.int64)))
        records = records.shuffle(shuffle, seed=seed * 1_000_003 + epoch, reshuffle_each_iteration=False)
        done = tf.maximum(start - epoch * steps_per_epoch, 0)
        batches = records.batch(batch, drop_remainder=True).take(steps_per_epoch).skip(done)
        return batches.map(lambda serialized: keyed(serialized, epoch))

    def keyed(serialized: tf.Tensor, epoch: tf.Tensor) -> tuple[tuple[tf.Tensor, tf.Tensor], tf.Tensor]:
        parsed = parse_batch(serialized, dataset.image_size)
        keys = tf.stack([tf.fill([batch], epoch), parsed.image_id], axis=1)
        return (parsed.image, keys), parsed.labels

    return _finish(tf.data.Dataset.range(start // steps_per_epoch, epochs).flat_map(one_epoch), cpus)


def eval_batches(
    dataset: Dataset,
    split: str,
    *,
    rank: int,
    size: int,
    batch: int,
    cpus: int,
    held: Mapping[str, str] = MappingProxyType({}),
) -> tf.data.Dataset:
    """This rank's images of a split, once, in order: uint8 [b, H, W, 1], uint8 [b, 14], b at most `batch`.

    Over all ranks every image occurs exactly once; a rank's share may be empty.
    """
    files = split_files(dataset, split, held)
    first, last = share(sum(count for _, count in files), rank, size)
    columns = _columns(segments(files, first, last))
    batches = _read(*(tf.constant(column) for column in columns)).batch(batch)
    return _finish(batches.map(lambda serialized: parse_batch(serialized, dataset.image_size)[:2]), cpus)


def _columns(found: Sequence[Segment]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return (
        np.array([segment.file.encode() for segment in found], dtype=object),
        np.array([segment.skip for segment in found], dtype=np.int64),
        np.array([segment.take for segment in found], dtype=np.int64),
    )


def _read(files: tf.Tensor, skip: tf.Tensor, take: tf.Tensor) -> tf.data.Dataset:
    files, skip, take = (tf.ensure_shape(column, [None]) for column in (files, skip, take))
    return tf.data.Dataset.from_tensor_slices((files, skip, take)).interleave(
        lambda file, skip, take: tf.data.TFRecordDataset(file).skip(skip).take(take),
        cycle_length=_CYCLE,
        block_length=_BLOCK,
    )


def _finish(batches: tf.data.Dataset, cpus: int) -> tf.data.Dataset:
    options = tf.data.Options()
    options.threading.private_threadpool_size = cpus
    options.threading.max_intra_op_parallelism = 1
    # A fixed buffer of two batches needs no autotuner, whose choices differ from run to run.
    options.autotune.enabled = False
    options.deterministic = True
    return batches.prefetch(_PREFETCH).with_options(options)
