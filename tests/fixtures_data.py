"""Real X-rays, and shards of them, for every room's tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hpcjobs.chexnet.data.build import Progress
from hpcjobs.chexnet.data.dataset import Dataset
from hpcjobs.chexnet.data.recipe import Recipe

_TESTS = Path(__file__).parent


@pytest.fixture(scope="session")
def nih(nih_excerpt: Path) -> Path:
    """NIH's metadata (both releases), split lists, images/ and manifest.csv.

    The sample beside the repository (210 images, whole tables) where there is one, else the six
    images of tests/data/nih.
    """
    shared = _TESTS.parent.parent / "shared" / "data" / "nih"
    return shared if shared.is_dir() else nih_excerpt


@pytest.fixture(scope="session")
def nih_excerpt() -> Path:
    """The six images and their patients' lines, laid out like `nih`: for tests that prepare often."""
    return _TESTS / "data" / "nih"


@pytest.fixture(scope="session")
def nih_shards(nih: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Shards of the sample at 64x64 pixels; do not write there."""
    return prepare_from(nih, tmp_path_factory.mktemp("nih") / "shards")


def recipe_from(folder: Path, **changes: Any) -> Recipe:
    """Of a folder laid out like `nih`, at 64x64 pixels, with some arguments changed."""
    from hpcjobs.chexnet.data.prepare import nih_recipe

    inputs = {
        "images": [folder / "images"],
        "metadata": folder / "Data_Entry_2017_v2020.csv.gz",
        "train_list": folder / "train_val_list.txt.gz",
        "test_list": folder / "test_list.txt.gz",
        "size": 64,
    }
    return nih_recipe(**{**inputs, **changes})


def prepare_from(folder: Path, out: Path, progress: Progress = lambda done, total: None, **changes: Any) -> Dataset:
    """What `hpcjobs data prepare` makes of it."""
    from hpcjobs.chexnet.data.build import make

    return make(recipe_from(folder, **changes), out, progress=progress)


def synth(out: Path, **arguments: Any) -> Dataset:
    """What `hpcjobs data synth` makes."""
    from hpcjobs.chexnet.data.build import make
    from hpcjobs.chexnet.data.synth import synth_recipe

    return make(synth_recipe(**arguments), out)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a data set's folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}
