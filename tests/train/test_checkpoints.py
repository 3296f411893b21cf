"""Checkpoints on disk: whole, damaged, and half written."""

import resource
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from hpcjobs.chexnet.train import checkpoints
from hpcjobs.chexnet.train.checkpoints import Progress
from hpcjobs.chexnet.train.model import build
from hpcjobs.chexnet.train.rates import Plateau
from hpcjobs.chexnet.train.step import Step, make_optimizer, optimizer_state


@pytest.fixture(scope="module")
def batch():
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (4, 64, 64, 1), np.uint8)
    labels = random.integers(0, 2, (4, 14), np.uint8)
    return tf.data.Dataset.from_tensors(((pixels, np.zeros((4, 2), np.int64)), labels)).repeat()


@pytest.fixture
def float16():
    tf.keras.mixed_precision.set_global_policy("mixed_float16")
    yield
    tf.keras.mixed_precision.set_global_policy("float32")


def trainer(precision: str = "float32") -> Step:
    import horovod.tensorflow as hvd

    hvd.init()
    model = build("densenet_tiny", (64, 64), 127.5, 73.9)
    return Step(model, make_optimizer(0.01, precision, model.trainable_variables))


def values(step: Step) -> list[np.ndarray]:
    return [v.numpy() for v in (*step.model.variables, *optimizer_state(step.optimizer).values())]


def save(folder: Path, step: Step, number: int, *, best: bool = False) -> None:
    progress = Progress(Plateau(0.1, 1, best=0.5, waited=1, scale=0.01), step=number, best_auc=0.75)
    checkpoints.save(folder, step.model, optimizer_state(step.optimizer), progress, best=best)


def restore(folder: Path, step: Step, said: list[str]) -> Progress | None:
    return checkpoints.restore(folder, step.model, optimizer_state(step.optimizer), said.append)


def test_everything_comes_back_the_loss_scale_too(tmp_path: Path, batch, float16):
    trained, batches = trainer("mixed_float16"), iter(batch)
    for _ in range(3):
        trained(batches)
    state = optimizer_state(trained.optimizer)
    state["loss_scale"].assign(1024.0)
    save(tmp_path, trained, 3)
    again, said = trainer("mixed_float16"), []
    progress = restore(tmp_path, again, said)
    assert progress == Progress(Plateau(0.1, 1, best=0.5, waited=1, scale=0.01), step=3, best_auc=0.75)
    for ours, theirs in zip(values(trained), values(again), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    restored = optimizer_state(again.optimizer)
    assert (restored["loss_scale"].numpy(), restored["finite_steps"].numpy()) == (1024.0, 3)
    assert again.optimizer.iterations == 3
    assert said == []


@pytest.mark.parametrize("best", ["null", "Infinity"])
def test_a_checkpoint_of_the_first_epoch_has_no_lowest_loss_yet(best: str, tmp_path: Path):
    """An older version wrote Infinity, which is no JSON."""
    step, said, begun = trainer("float32"), [], Progress(Plateau(0.1, 1), step=1)
    checkpoints.save(tmp_path, step.model, optimizer_state(step.optimizer), begun, best=False)
    state = tmp_path / "step-00000001" / checkpoints.STATE
    assert '"best": null' in state.read_text()
    state.write_text(state.read_text().replace('"best": null', f'"best": {best}'))
    progress = restore(tmp_path, step, said)
    assert progress is not None, said
    progress.plateau.update(0.7)
    assert (progress.plateau.best, progress.plateau.waited) == (0.7, 0)


@pytest.mark.parametrize("file", ["model.weights.h5", "optimizer.npz", "state.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_one_is_skipped_with_a_warning(file: str, damage: str, tmp_path: Path):
    step, said = trainer(), []
    save(tmp_path, step, 10)
    save(tmp_path, step, 20)
    victim = tmp_path / "step-00000020" / file
    data = victim.read_bytes()
    if damage == "gone":
        victim.unlink()
    else:
        middle = len(data) // 2
        cut = data[:middle]
        victim.write_bytes(cut if damage == "cut" else cut + bytes([data[middle] ^ 255]) + data[middle + 1 :])
    assert restore(tmp_path, step, said).step == 10
    assert len(said) == 1
    assert "step-00000020: skipped, because it is damaged" in said[0]


def test_two_are_kept_and_leftovers_go(tmp_path: Path):
    step = trainer()
    (tmp_path / ".writing-1").mkdir()
    for number in (10, 20, 30):
        save(tmp_path, step, number, best=number == 10)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["best.weights.h5", "step-00000020", "step-00000030"]


def test_a_full_disk_leaves_the_older_ones(tmp_path: Path):
    """Full by a limit of file sizes, which HDF5 does not survive where it meets one."""
    step, said = trainer(), []
    save(tmp_path, step, 10)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            save(tmp_path, step, 20)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000010"]
    assert restore(tmp_path, step, said).step == 10


def test_no_checkpoint_is_no_progress(tmp_path: Path):
    assert restore(tmp_path / "nowhere", trainer(), []) is None
