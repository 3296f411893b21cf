"""Made-up X-rays: NIH's frequencies, patients apart, findings that the pixels show."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from hpcjobs.base.errors import InputError
from hpcjobs.chexnet.classes import CLASSES, DATASET_JSON, SPLITS
from hpcjobs.chexnet.data import nih as reader
from hpcjobs.chexnet.data.dataset import Dataset
from hpcjobs.chexnet.data.synth import NIH_IMAGES, NIH_POSITIVES, draw
from hpcjobs.trainers.chexnet_keys import ChexnetExperiment
from hpcjobs.trainers.registry import trainer_of
from tests.fixtures_data import synth


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return synth(tmp_path_factory.mktemp("synth") / "data")


def test_the_frequencies_are_those_of_the_table(nih: Path) -> None:
    entries = reader.read_metadata(nih / "Data_Entry_2017_v2020.csv.gz").entries
    if len(entries) < NIH_IMAGES:
        pytest.skip("only the excerpt of the table is here")
    counts = np.sum([list(entry.labels) for entry in entries.values()], 0)
    assert dict(zip(CLASSES, counts.tolist(), strict=True)) == NIH_POSITIVES


def test_findings_come_as_often_as_in_the_table_and_at_least_twice(made: Dataset) -> None:
    for split in SPLITS:
        images = made.splits[split].images
        expected = [max(2, round(images * NIH_POSITIVES[name] / NIH_IMAGES)) for name in CLASSES]
        assert made.splits[split].positives == expected


def test_data_of_a_sweep_leave_the_environment_of_its_jobs_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Making them hides the GPUs. The jobs that are submitted next inherit the environment, and a notebook keeps it."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    experiment = msgspec.convert(
        {"name": "x", "batch": {"local": 1}, "data": {"synth": {"images": 8, "size": 32}}}, ChexnetExperiment
    )
    trainer_of(experiment).prepare([experiment], tmp_path / "data")
    assert (tmp_path / "data" / DATASET_JSON).is_file()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert "TF_CPP_MIN_LOG_LEVEL" not in os.environ


def test_a_shard_has_256_images_and_the_last_the_rest(tmp_path: Path) -> None:
    dataset = synth(tmp_path / "data", images=860, size=32)
    images = dataset.splits["train"].images
    assert 512 < images < 768
    assert [shard.images for shard in dataset.splits["train"].shards] == [256, 256, images - 512]


def test_patients_have_several_images_and_one_split(made: Dataset) -> None:
    images = [made.splits[split].images for split in SPLITS]
    assert sum(images) == 512
    assert np.array(images) / 512 == pytest.approx([0.7, 0.1, 0.2], abs=0.03)
    assert sum(split.patients for split in made.splits.values()) < 512 / 2
    assert made.patients_in_two_splits == 0


def test_each_finding_can_be_told_from_the_pixels() -> None:
    """Mean and contrast of 8 x 8 blocks, weighted by what they are in 29 patients, find it in 30 others."""

    def blocks(label: bytes, patients: range) -> NDArray[np.float64]:
        images = np.stack([draw(f"{patient:08d}_000.png", label, 64, 1) for patient in patients]).astype(float)
        pixels = images.reshape(len(images), 8, 8, 8, 8)
        return np.hstack([pixels.mean((2, 4)), pixels.std((2, 4))]).reshape(len(images), -1)

    learn, check = range(1, 30), range(30, 60)
    without, negatives = blocks(bytes(14), learn).mean(0), blocks(bytes(14), check)
    for index, name in enumerate(CLASSES):
        label = bytes(position == index for position in range(14))
        weights = blocks(label, learn).mean(0) - without
        positives = blocks(label, check)
        auc = ((positives @ weights)[:, None] > (negatives @ weights)[None, :]).mean()
        assert auc > 0.9, name


def test_the_arguments_decide_every_byte(tmp_path: Path) -> None:
    def shards(name: str, seed: int) -> list[str]:
        dataset = synth(tmp_path / name, images=40, size=32, seed=seed)
        return [shard.sha256 for split in dataset.splits.values() for shard in split.shards]

    one = shards("one", 1)
    assert shards("again", 1) == one
    assert not set(shards("other", 2)) & set(one)


@pytest.mark.parametrize("images", [3, 4, 7, 300])
def test_any_number_of_images(images: int, tmp_path: Path) -> None:
    dataset = synth(tmp_path / "data", images=images, size=32)
    counts = [dataset.splits[split].images for split in SPLITS]
    assert sum(counts) == images
    assert min(counts) >= 1


@pytest.mark.parametrize("arguments", [{"images": 2}, {"size": 16}, {"size": 2000}, {"seed": -1}])
def test_wrong_arguments_write_nothing(arguments: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"--{next(iter(arguments))}"):
        synth(tmp_path / "data", **arguments)
    assert not (tmp_path / "data").exists()
