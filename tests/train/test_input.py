"""The split of images over ranks, by the images that come out."""

from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from hpcjobs.data.dataset import load_dataset
from hpcjobs.train.input import Segment, eval_batches, segments, share, train_batches

VAL, TRAIN = 35, 209


def keys(images: np.ndarray) -> list[bytes]:
    return [image.tobytes() for image in images]


def epochs_of(data: Path, rank: int, size: int, *, epochs: int = 1, seed: int = 3, steps: int | None = None):
    """Per epoch, the images of a rank with local batch 4."""
    steps = steps or TRAIN // (4 * size)
    batches = train_batches(
        load_dataset(data),
        rank=rank,
        size=size,
        batch=4,
        steps_per_epoch=steps,
        epochs=epochs,
        shuffle=64,
        seed=seed,
        cpus=1,
    )
    found = [keys(images.numpy()) for images, _ in batches]
    assert len(found) == epochs * steps
    assert all(len(batch) == 4 for batch in found)
    return [list(chain(*found[i * steps : (i + 1) * steps])) for i in range(epochs)]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_every_validation_image_comes_once_over_all_ranks(data: Path, size: int):
    dataset = load_dataset(data)
    seen = [
        key
        for rank in range(size)
        for images, _ in eval_batches(dataset, "val", rank=rank, size=size, batch=4, cpus=1)
        for key in keys(images.numpy())
    ]
    assert len(seen) == len(set(seen)) == VAL


def test_a_rank_may_have_no_image_to_evaluate(data: Path):
    counts = [
        sum(len(images) for images, _ in eval_batches(load_dataset(data), "test", rank=rank, size=5, batch=4, cpus=1))
        for rank in range(5)
    ]
    assert sorted(counts) == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("size", [1, 3, 5])
def test_training_images_come_at_most_once_an_epoch_in_equal_steps(data: Path, size: int):
    first = list(chain(*(epochs_of(data, rank, size)[0] for rank in range(size))))
    assert len(first) == len(set(first)) == TRAIN // (4 * size) * 4 * size


def test_the_order_follows_from_seed_and_epoch(data: Path):
    one, two = epochs_of(data, 0, 2, epochs=2)
    assert one != two
    assert [one, two] == epochs_of(data, 0, 2, epochs=2)
    assert one != epochs_of(data, 0, 2, seed=4)[0]


def test_a_split_of_less_than_a_global_batch_is_read_over_and_over(data: Path):
    size = 60  # 60 times 4 is 240 images a step, of 209.
    seen = [epochs_of(data, rank, size, steps=1)[0] for rank in range(size)]
    assert len({key for images in seen for key in images}) == TRAIN


def test_segments_cross_files_and_the_end():
    files = [("a", 3), ("b", 0), ("c", 2)]
    assert segments(files, 1, 4) == [Segment("a", 1, 2), Segment("c", 0, 1)]
    assert segments(files, 4, 7) == [Segment("c", 1, 1), Segment("a", 0, 2)]
    assert segments([("b", 0)], 0, 0) == []


def test_shares_are_even_to_within_one():
    lengths = [stop - start for start, stop in (share(209, rank, 16) for rank in range(16))]
    assert sum(lengths) == 209
    assert max(lengths) - min(lengths) == 1
