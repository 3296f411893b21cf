"""Compares input pipelines on one pinned core: the article's, JPEG shards, ours, and the floor.

    .venv/bin/python benchmarks/pipeline.py [--nih DIR] [--rounds N]

Each path runs in a separate process on the same core, in turns, over real X-rays: once with the C
library's default memory settings, once with those of `hpcjobs.chexnet.train.heap`. Page faults are
counted too, because they make the difference between the two. Whole epochs are timed, after one that
warms the page cache. The floor only reads the same records with TFRecordDataset and batches them.
`in a map` is ours with parsing in a parallel map.
DIR is laid out like the sample: images/, Data_Entry_2017_v2020.csv.gz and the two lists. The exit
code is 1 if ours is less than 150 times the article's path or less than 0.5 of the floor.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import os
import pickle
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

ROOT = Path(__file__).parent.parent
SIZE, BATCH, SHUFFLE = 256, 64, 2048
# Images of the article's files, and of the others: enough to be read for a second or more.
FEW, MANY = 256, 8192
# Images/s of a V100: float32 as in the article (185), and with mixed precision and XLA.
V100 = (185, 900)
WANTED = {"article": 150.0, "floor": 0.5}


def ready(nih: Path, scratch: Path) -> None:
    """Write the files of every path below `scratch`."""
    from PIL import Image

    from hpcjobs.chexnet.data.build import make
    from hpcjobs.chexnet.data.dataset import Split
    from hpcjobs.chexnet.data.prepare import nih_recipe
    from hpcjobs.chexnet.data.tfrecord import Record, read_examples, tf, write_shard

    lists = (nih / "train_val_list.txt.gz", nih / "test_list.txt.gz")
    small = make(nih_recipe([nih / "images"], nih / "Data_Entry_2017_v2020.csv.gz", *lists, SIZE), scratch / "small")
    shards = [small.folder / shard.file for split in small.splits.values() for shard in split.shards]
    records = [record for shard in shards for record in read_examples(shard)]

    def numbered() -> Iterator[Record]:
        for number, record in enumerate(islice(cycle(records), MANY)):
            yield record._replace(image_index=f"{number:08d}_000.png")

    folder = scratch / "ours"
    folder.mkdir()
    each = numbered()
    written = [write_shard(folder / f"train-{n:05d}.tfrecord", islice(each, 256)) for n in range(MANY // 256)]
    train = Split(MANY, small.splits["train"].patients, small.splits["train"].positives, written)
    dataset = dataclasses.replace(small, folder=folder, splits={**small.splits, "train": train})
    (scratch / "dataset.pickle").write_bytes(pickle.dumps(dataset))

    def jpeg(record: Record) -> bytes:
        file = io.BytesIO()
        Image.frombytes("L", (SIZE, SIZE), record.image).save(file, "JPEG", quality=90)
        return file.getvalue()

    sources: dict[str, tuple[int, list[bytes]]] = {
        "jpeg": (MANY, [jpeg(record) for record in records]),
        "article": (FEW, [path.read_bytes() for path in sorted((nih / "images").glob("*.png"))]),
    }
    for name, (count, images) in sources.items():
        with tf.io.TFRecordWriter(str(scratch / f"{name}.tfrecord")) as writer:
            for image, record in islice(cycle(zip(images, cycle(records), strict=False)), count):
                feature = {
                    key: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
                    for key, value in (("image", image), ("labels", record.labels))
                }
                writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())


def decoded(scratch: Path, name: str, decode: Callable[[Any], Any]) -> Any:
    """Image files in TFRecords, decoded on the host to RGB floats from 0 to 1 and flipped."""
    import tensorflow as tf

    scalar = tf.io.FixedLenFeature([], tf.string)

    def example(serialized: Any) -> tuple[Any, Any]:
        features = tf.io.parse_single_example(serialized, {"image": scalar, "labels": scalar})
        image = tf.image.resize(decode(features["image"]), (SIZE, SIZE)) / 255.0
        return tf.image.random_flip_left_right(image), tf.io.decode_raw(features["labels"], tf.uint8)

    records = tf.data.TFRecordDataset(str(scratch / f"{name}.tfrecord")).shuffle(SHUFFLE)
    return records.map(example, num_parallel_calls=tf.data.AUTOTUNE).batch(BATCH).repeat().prefetch(2)


def article(scratch: Path) -> tuple[Any, int]:
    import tensorflow as tf

    return decoded(scratch, "article", lambda image: tf.io.decode_png(image, channels=3)), FEW


def jpeg(scratch: Path) -> tuple[Any, int]:
    import tensorflow as tf

    return decoded(scratch, "jpeg", lambda image: tf.io.decode_jpeg(image, channels=3)), MANY


def ours(scratch: Path) -> tuple[Any, int]:
    from hpcjobs.chexnet.train.input import train_batches

    dataset = pickle.loads((scratch / "dataset.pickle").read_bytes())
    steps = MANY // BATCH
    options = {"rank": 0, "size": 1, "batch": BATCH, "steps_per_epoch": steps, "epochs": 10_000, "shuffle": SHUFFLE}
    return train_batches(dataset, **options, seed=1, cpus=1), MANY


def in_a_map(scratch: Path) -> tuple[Any, int]:
    import tensorflow as tf

    from hpcjobs.chexnet.data.tfrecord import parse_batch

    records = serialized(scratch).shuffle(SHUFFLE).repeat().batch(BATCH, drop_remainder=True)
    parsed = records.map(lambda one: parse_batch(one, (SIZE, SIZE)), num_parallel_calls=4)
    return parsed.prefetch(tf.data.AUTOTUNE), MANY


def floor(scratch: Path) -> tuple[Any, int]:
    return serialized(scratch).repeat().batch(BATCH), MANY


def serialized(scratch: Path) -> Any:
    """The records of our shards, as they are."""
    import tensorflow as tf

    return tf.data.TFRecordDataset(sorted(map(str, (scratch / "ours").glob("*.tfrecord"))))


PATHS: dict[str, Callable[[Path], tuple[Any, int]]] = {
    "article": article,
    "jpeg": jpeg,
    "ours, in a map": in_a_map,
    "ours": ours,
    "floor": floor,
}


def one(name: str, scratch: Path, memory: str) -> None:
    """Time one path in this process: prints images/s and page faults an image."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    if memory == "kept":
        from hpcjobs.chexnet.train.heap import keep_freed_memory

        keep_freed_memory()
    batches, images = PATHS[name](scratch)
    steps = images // BATCH
    batches = iter(batches)
    for _ in islice(batches, steps):  # The first epoch warms the page cache.
        pass
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    began, epochs = time.perf_counter(), 0
    while time.perf_counter() - began < 1.5:
        for _ in islice(batches, steps):
            pass
        epochs += 1
    seconds = time.perf_counter() - began
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    print(epochs * images / seconds, faults / (epochs * images))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sample = ROOT.parent / "shared" / "data" / "nih"
    default = sample if sample.is_dir() else ROOT / "tests" / "data" / "nih"
    parser.add_argument("--nih", type=Path, default=default)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(options.one[0], Path(options.one[1]), options.one[2])
        return 0
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        ready(options.nih, Path(folder))
        for _ in range(options.rounds):
            for memory in ("default", "kept"):
                for name in PATHS:
                    command = [sys.executable, __file__, "--one", name, folder, memory]
                    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                    speed, faults = map(float, done.stdout.split())
                    found.setdefault((name, memory), []).append((speed, faults))
    return 0 if show(found) else 1


def show(found: dict[tuple[str, str], list[tuple[float, float]]]) -> bool:
    """Print the tables; returns whether ours is as fast as required."""
    rounds = len(found["ours", "kept"])
    print(f"one pinned core, {SIZE} x {SIZE}, batch {BATCH}, shuffle {SHUFFLE}; median of {rounds} rounds")
    print(f"{'':16}{'default memory settings':>32}{'freed memory kept':>32}")
    print(f"{'path':16}" + f"{'images/s':>16}{'faults/image':>16}" * 2)
    for name in PATHS:
        cells = [
            f"{statistics.median(speed for speed, _ in pairs):16,.0f}{statistics.median(f for _, f in pairs):16.1f}"
            for pairs in (found[name, "default"], found[name, "kept"])
        ]
        print(f"{name:16}{''.join(cells)}")

    def ratio(other: str, memory: str) -> float:
        """The ratio of each round; `ours` with freed memory kept is what the trainer runs."""
        pairs = zip(found["ours", "kept"], found[other, memory], strict=True)
        return statistics.median(mine / theirs for (mine, _), (theirs, _) in pairs)

    article, floor = ratio("article", "default"), ratio("floor", "kept")
    print(f"ours / article {article:.0f} ({ratio('article', 'kept'):.0f} kept), required {WANTED['article']:.0f}")
    print(f"ours / floor   {floor:.2f} (floor kept too), required {WANTED['floor']}")
    speed = statistics.median(speed for speed, _ in found["ours", "kept"])
    print("one core feeds " + ", ".join(f"{speed / rate:.0f} V100s at {rate} images/s" for rate in V100))
    return article >= WANTED["article"] and floor >= WANTED["floor"]


if __name__ == "__main__":
    raise SystemExit(main())
