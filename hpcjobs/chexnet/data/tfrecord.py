"""The shard format: TFRecord files of tf.train.Example. The only module of this package that imports TensorFlow.

Features of an example: `image` (height x width bytes, uint8, row-major), `labels` (14 bytes, each
0 or 1, in the order of classes.CLASSES), `image_index` and `patient_id` (UTF-8).
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from hpcjobs.base.contract import INSTALL_COMPUTE
from hpcjobs.base.errors import HpcjobsError, InputError
from hpcjobs.chexnet.classes import CLASSES
from hpcjobs.chexnet.data.dataset import DatasetDamaged, Shard, sha256

try:
    import tensorflow as tf
    from google.protobuf.message import DecodeError  # installed with TensorFlow
except ImportError as error:
    raise InputError(f"this needs TensorFlow ({error}): {INSTALL_COMPUTE}") from None


class Record(NamedTuple):
    """One image: `image` is height x width bytes, row-major; `labels` 14 bytes of 0 or 1."""

    image: bytes
    labels: bytes
    image_index: str
    patient_id: str


def write_shard(path: Path, records: Iterable[Record]) -> Shard:
    """Write `records`, in order, to `path`; the name appears when the file is complete.

    The same records give the same bytes. Raises HpcjobsError if the file cannot be written.
    """
    images = 0
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with tf.io.TFRecordWriter(str(temporary)) as writer:
            for record in records:
                writer.write(_example(record).SerializeToString(deterministic=True))
                images += 1
        with temporary.open("rb") as file:
            digest = sha256(file)
            os.fsync(file.fileno())
            size = os.fstat(file.fileno()).st_size
        temporary.replace(path)
    except (tf.errors.OpError, OSError) as error:
        raise HpcjobsError(f"{path}: cannot be written: {error}") from None
    finally:
        temporary.unlink(missing_ok=True)
    return Shard(path.name, images, size, digest)


def read_examples(path: Path) -> Iterator[Record]:
    """The records of a shard, in order. Raises DatasetDamaged, naming the file, at the first damaged record."""
    try:
        for serialized in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            features = tf.train.Example.FromString(serialized).features.feature
            image, labels, index, patient = (features[name].bytes_list.value[0] for name in Record._fields)
            yield Record(image, labels, index.decode(), patient.decode())
    except tf.errors.OpError as error:
        # TensorFlow's message has the place in its graph around the reason.
        reason = re.sub(r"\{\{.*?\}\}|\[Op:.*", "", error.message).strip()
        raise DatasetDamaged(f"{path}: cannot be read: {reason}") from None
    except (DecodeError, IndexError, UnicodeDecodeError):
        raise DatasetDamaged(f"{path}: not an example of {', '.join(Record._fields)}") from None


class Batch(NamedTuple):
    """Tensors of B images: uint8 [B, height, width, 1] (0 to 255), uint8 [B, 14] (0 or 1), int64 [B].

    `image_id` is a hash of the image index: the same in every data set, on every machine.
    """

    image: tf.Tensor
    labels: tf.Tensor
    image_id: tf.Tensor


def parse_batch(serialized: tf.Tensor, image_size: tuple[int, int]) -> Batch:
    """Decode a batch of examples (string [B]) of `image_size`, (height, width) in pixels, inside a graph.

    A batch at a time and without threads, so that each parsing op runs once per batch.
    """
    height, width = image_size
    count = serialized.shape[0] or -1  # Known where batches are whole: compilers like to know.
    scalar = tf.io.FixedLenFeature([], tf.string)
    features = tf.io.parse_example(serialized, {"image": scalar, "labels": scalar, "image_index": scalar})
    images = tf.reshape(tf.io.decode_raw(features["image"], tf.uint8), [count, height, width, 1])
    labels = tf.reshape(tf.io.decode_raw(features["labels"], tf.uint8), [count, len(CLASSES)])
    return Batch(images, labels, tf.strings.to_hash_bucket_fast(features["image_index"], 2**62))


def patient_ids(files: Sequence[str]) -> list[str]:
    """The patients of the records of `files`, in order."""
    scalar = {"patient_id": tf.io.FixedLenFeature([], tf.string)}
    batches = tf.data.TFRecordDataset(list(files)).batch(256)
    return [
        name.decode()
        for batch in batches.map(lambda serialized: tf.io.parse_example(serialized, scalar)["patient_id"])
        for name in batch.numpy()
    ]


def _example(record: Record) -> tf.train.Example:
    values = (record.image, record.labels, record.image_index.encode(), record.patient_id.encode())
    feature = {
        name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        for name, value in zip(Record._fields, values, strict=True)
    }
    return tf.train.Example(features=tf.train.Features(feature=feature))
