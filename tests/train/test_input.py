"""What the ranks read of the shards, by the images that come out."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from hpcjobs.chexnet.data.dataset import Dataset, load_dataset
from hpcjobs.chexnet.data.tfrecord import read_examples
from hpcjobs.chexnet.train.input import Segment, eval_batches, segments, share, train_batches
from tests.train.conftest import write_data

BATCH = 2
# Counts of train shards, which 16 ranks of batch 2 divide evenly, and not at all.
LAYOUTS = {"even": [16] * 8, "uneven": [50, 33, 7, 1, 21], "one": [67]}


@pytest.fixture(scope="module", params=LAYOUTS)
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    counts = LAYOUTS[request.param]
    shards = {"train": counts, "val": [20, 14, 1], "test": [1, 1]}
    return load_dataset(write_data(tmp_path_factory.mktemp(request.param), shards, 8))


def batches_of(dataset: Dataset, rank: int = 0, size: int = 1, **changes: Any) -> tf.data.Dataset:
    steps = dataset.splits["train"].images // (BATCH * size)
    defaults = {"batch": BATCH, "steps_per_epoch": steps, "epochs": 1, "shuffle": 16, "seed": 3, "cpus": 1}
    return train_batches(dataset, rank=rank, size=size, **(defaults | changes))


def images_of(batches: tf.data.Dataset) -> Iterator[list[bytes]]:
    """Per batch, the pixels of its images, which in noise are all different."""
    for (pixels, _), _ in batches:
        assert len(pixels) == BATCH
        yield [image.tobytes() for image in pixels.numpy()]


def epochs_of(dataset: Dataset, epochs: int, **changes: Any) -> list[list[bytes]]:
    """Per epoch, the images of one rank."""
    found = list(images_of(batches_of(dataset, epochs=epochs, **changes)))
    steps = len(found) // epochs
    return [list(chain(*found[epoch * steps :][:steps])) for epoch in range(epochs)]


@pytest.mark.parametrize("size", range(1, 17))
def test_ranks_take_equal_steps_and_no_image_twice(dataset: Dataset, size: int):
    steps = dataset.splits["train"].images // (BATCH * size)
    per_rank = [list(chain(*images_of(batches_of(dataset, rank, size)))) for rank in range(size)]
    assert {len(images) for images in per_rank} == {steps * BATCH}
    seen = list(chain(*per_rank))
    assert len(set(seen)) == len(seen)
    assert dataset.splits["train"].images - len(seen) < BATCH * size


@pytest.mark.parametrize("size", range(1, 17))
def test_every_image_is_evaluated_once_over_all_ranks(dataset: Dataset, size: int):
    seen = [
        image.tobytes()
        for rank in range(size)
        for pixels, _ in eval_batches(dataset, "val", rank=rank, size=size, batch=BATCH, cpus=1)
        for image in pixels.numpy()
    ]
    stored = [record.image for file in dataset.files("val") for record in read_examples(Path(file))]
    assert sorted(seen) == sorted(stored)
    assert len(set(stored)) == 35


def test_a_rank_may_have_no_image_to_evaluate(dataset: Dataset):
    counts = [
        sum(len(images) for images, _ in eval_batches(dataset, "test", rank=rank, size=5, batch=4, cpus=1))
        for rank in range(5)
    ]
    assert sorted(counts) == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("shuffle", [1, 16])
def test_the_leftover_is_another_in_each_epoch(dataset: Dataset, shuffle: int):
    # 3 ranks of batch 2 leave 2, 4 and 1 images.
    per_rank = [epochs_of(dataset, 8, rank=rank, size=3, shuffle=shuffle) for rank in range(3)]
    used = [set(chain(*(epochs[epoch] for epochs in per_rank))) for epoch in range(8)]
    assert {len(epoch) for epoch in used} == {dataset.splits["train"].images // 6 * 6}
    every = set().union(*used)
    assert len(every) == dataset.splits["train"].images
    assert len({frozenset(every - epoch) for epoch in used}) > 4


def test_the_order_follows_from_seed_and_epoch(dataset: Dataset):
    one, two = epochs_of(dataset, 2, size=2)
    assert one != two
    assert [one, two] == epochs_of(dataset, 2, size=2)
    assert one != epochs_of(dataset, 1, size=2, seed=4)[0]


@pytest.mark.parametrize("rank", [0, 2])
def test_a_resume_in_mid_epoch_goes_on_with_what_was_left(dataset: Dataset, rank: int):
    def told(start: int) -> list[tuple[bytes, ...]]:
        resumed = batches_of(dataset, rank, 3, epochs=3, start=start)
        return [tuple(part.numpy().tobytes() for part in (*inputs, labels)) for inputs, labels in resumed]

    undisturbed = told(0)
    steps = len(undisturbed) // 3
    for start in (1, steps - 1, steps, steps + 5, 3 * steps - 1):
        assert told(start) == undisturbed[start:]


def test_shuffling_reaches_across_shards(dataset: Dataset):
    home = {
        record.image: index for index, file in enumerate(dataset.files("train")) for record in read_examples(Path(file))
    }
    shards = len(dataset.files("train"))
    if shards == 1:
        pytest.skip("there is but one")
    big = range(2) if shards == 5 else range(8)
    (images,) = epochs_of(dataset, 1, shuffle=64)
    early = [home[image] for image in images[: len(images) // 2]]
    assert len(set(early)) > 2
    # No shard is read in one go: its images are spread over more steps than it would fill.
    for shard in big:
        places = [place for place, image in enumerate(images) if home[image] == shard]
        assert max(places) - min(places) > 1.3 * len(places)


def test_keys_are_the_epoch_and_an_id_of_the_image(dataset: Dataset, tmp_path: Path):
    ids: dict[bytes, int] = {}
    for step, ((pixels, keys), _) in enumerate(batches_of(dataset, epochs=2)):
        for image, (epoch, image_id) in zip(pixels.numpy(), keys.numpy(), strict=True):
            assert epoch == step // (dataset.splits["train"].images // BATCH)
            assert ids.setdefault(image.tobytes(), image_id) == image_id
    assert len(set(ids.values())) == len(ids) == dataset.splits["train"].images


def test_the_host_moves_bytes_of_one_channel(dataset: Dataset):
    (pixels, keys), labels = batches_of(dataset).element_spec
    assert (pixels.dtype, *pixels.shape) == (tf.uint8, BATCH, 8, 8, 1)
    assert (keys.dtype, *keys.shape) == (tf.int64, BATCH, 2)
    assert (labels.dtype, labels.shape[1]) == (tf.uint8, 14)


def test_no_float_and_no_second_channel_on_the_way(dataset: Dataset):
    batches = batches_of(dataset)
    assert not floats_and_rgb(batches)
    floats = batches.map(lambda inputs, labels: (tf.cast(inputs[0], tf.float32), labels))
    assert floats_and_rgb(floats) == {"float32"}
    wide = batches.map(lambda inputs, labels: (tf.tile(inputs[0], [1, 1, 1, 3]), labels))
    assert floats_and_rgb(wide) == {"RGB"}


def floats_and_rgb(batches: tf.data.Dataset) -> set[str]:
    """What of the two there is in any node of a pipeline's graph and of the functions that it maps."""
    text = tf.raw_ops.DatasetToGraphV2(
        input_dataset=batches._variant_tensor,
        external_state_policy=tf.data.experimental.ExternalStatePolicy.IGNORE.value,
        strip_device_assignment=True,
    )
    graph = tf.compat.v1.GraphDef.FromString(text.numpy())
    found = set()
    for node in chain(graph.node, *(function.node_def for function in graph.library.function)):
        for attr in node.attr.values():
            types = [attr.type, *attr.list.type, attr.tensor.dtype]
            found |= {tf.as_dtype(kind).name for kind in types if kind and tf.as_dtype(kind).is_floating}
            shapes = [attr.shape, *attr.list.shape]
            found |= {"RGB" for shape in shapes if len(shape.dim) > 2 and shape.dim[-1].size == 3}
    return found


@pytest.mark.parametrize("cpus", [1, 5])
def test_the_pipeline_has_as_many_threads_as_its_task_has_cpus(dataset: Dataset, cpus: int):
    def threads() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    batches = batches_of(dataset, cpus=cpus)
    before = threads()
    iterator = iter(batches)
    assert threads() - before == cpus
    next(iterator)
    assert threads() - before == cpus + 1  # Prefetching only waits.


def test_a_split_of_less_than_a_global_batch_is_read_over_and_over(dataset: Dataset):
    size = 70  # 70 ranks of 2 images, of 67, 112 or 128.
    seen = [epochs_of(dataset, 1, rank=rank, size=size, steps_per_epoch=1)[0] for rank in range(size)]
    assert len({image for images in seen for image in images}) == dataset.splits["train"].images


def test_segments_cross_files_and_the_end():
    files = [("a", 3), ("b", 0), ("c", 2)]
    assert segments(files, 1, 4) == [Segment("a", 1, 2), Segment("c", 0, 1)]
    assert segments(files, 4, 7) == [Segment("c", 1, 1), Segment("a", 0, 2)]
    assert segments([("b", 0)], 0, 0) == []


def test_shares_are_even_to_within_one():
    lengths = [stop - start for start, stop in (share(209, rank, 16) for rank in range(16))]
    assert sum(lengths) == 209
    assert max(lengths) - min(lengths) == 1
