"""Steps and epochs of a run."""

import pytest

from hpcjobs.base.contract import ErrorCode
from hpcjobs.chexnet.train.failure import TrainError
from hpcjobs.chexnet.train.schedule import Schedule, schedule


def test_whole_epochs():
    assert schedule(209, 16, epochs=3, steps=None, repeat=False) == Schedule(13, 3, 39)


def test_steps_cut_the_last_epoch_short():
    assert schedule(209, 16, epochs=3, steps=20, repeat=False) == Schedule(13, 2, 20)


def test_repeated_data_make_long_epochs_not_many():
    assert schedule(209, 16, epochs=1, steps=40, repeat=True) == Schedule(40, 1, 40)
    assert schedule(10, 64, epochs=3, steps=40, repeat=True) == Schedule(14, 3, 40)
    assert schedule(209, 16, epochs=5, steps=20, repeat=True) == Schedule(13, 2, 20)


@pytest.mark.parametrize(
    ("images", "steps", "repeat", "text"),
    [
        (15, None, False, "15 training images are fewer than one global batch of 16"),
        (0, 10, True, "0 training images"),
        (209, 40, False, "raise train.epochs to 4"),
    ],
)
def test_too_few_images_are_told_with_figures(images: int, steps: int | None, repeat: bool, text: str):
    with pytest.raises(TrainError, match=text) as caught:
        schedule(images, 16, epochs=1, steps=steps, repeat=repeat)
    assert caught.value.code == ErrorCode.DATA_TOO_SMALL
