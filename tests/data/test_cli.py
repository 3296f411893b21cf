"""`hpcjobs data` as typed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hpcjobs.base.errors import HpcjobsError
from hpcjobs.chexnet.data.dataset import load_dataset
from hpcjobs.cli.data_command import data

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def _environment_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "TF_CPP_MIN_LOG_LEVEL"):
        monkeypatch.setenv(name, "")


@pytest.fixture
def prepare(nih_excerpt: Path, tmp_path: Path) -> Run:
    """`hpcjobs data prepare --images ... --out OUT` with the sample's tables."""

    def run(*arguments: object) -> Result:
        tables = {"--metadata": "Data_Entry_2017_v2020.csv.gz", "--train-list": "train_val_list.txt.gz"}
        tables["--test-list"] = "test_list.txt.gz"
        rest = [word for option, file in tables.items() for word in (option, nih_excerpt / file)]
        rest += ["--out", tmp_path / "out", "--size", "32"]
        return CliRunner().invoke(data, ["prepare", *map(str, arguments), *map(str, rest)])

    return run


@pytest.fixture
def folders(nih_excerpt: Path, tmp_path: Path) -> list[Path]:
    """images_001, images_002 and images_003 with an image each."""
    made = [tmp_path / f"images_00{number}" for number in (1, 2, 3)]
    for folder, name in zip(made, ("00004934_000.png", "00007705_000.png", "00012975_000.png"), strict=True):
        folder.mkdir()
        shutil.copyfile(nih_excerpt / "images" / name, folder / name)
    return made


def test_images_takes_many_folders_as_a_shell_spreads_them(prepare: Run, folders: list[Path], tmp_path: Path) -> None:
    result = prepare("--images", *folders, "--json", "--skip-bad")
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    assert {name: split["images"] for name, split in shown["splits"].items()} == {"train": 1, "val": 1, "test": 1}
    assert shown["path"] == str(tmp_path / "out")
    again = prepare("--images", folders[0], "--skip-bad", f"--images={folders[1]}", folders[2])
    assert again.exit_code == 0
    assert "already made from the same inputs, nothing to do" in again.stderr
    assert again.stdout.splitlines()[1].split() == ["train", "1", "1", "1"]


def test_bad_images_are_named_and_fail_unless_skipped(prepare: Run, folders: list[Path], tmp_path: Path) -> None:
    (folders[2] / "00012975_000.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    result = prepare("--images", *folders)
    assert isinstance(result.exception, HpcjobsError)
    assert result.exception.exit_code == 1
    assert "images left out: 1 corrupt, 23 missing: see " in str(result.exception)
    assert "warning: 00012975_000.png is corrupt: " in result.stderr
    again = prepare("--images", *folders)  # It still warns when the data set is finished.
    assert (again.exit_code, str(again.exception)) == (1, str(result.exception))
    assert str(folders[2]) not in (tmp_path / "out" / "bad-images.csv").read_text()
    assert prepare("--images", *folders, "--skip-bad").exit_code == 0


def test_every_corrupt_and_surplus_image_is_named_on_stderr(prepare: Run, folders: list[Path], tmp_path: Path) -> None:
    for number in range(12):
        (folders[0] / f"other{number:02d}.png").write_bytes(b"whatever")
    output = prepare("--images", *folders).stderr
    assert all(
        f"warning: other{number:02d}.png is surplus: in a folder, but in no list" in output for number in range(12)
    )
    assert output.count(" is missing: ") == 10
    assert f"warning: and 13 more that are missing, see {tmp_path / 'out' / 'bad-images.csv'}" in output


def test_images_are_256_pixels_a_side_unless_asked_otherwise(
    nih_excerpt: Path, folders: list[Path], tmp_path: Path
) -> None:
    words = ["prepare", "--images", *folders, "--metadata", nih_excerpt / "Data_Entry_2017_v2020.csv.gz"]
    words += ["--train-list", nih_excerpt / "train_val_list.txt.gz", "--test-list", nih_excerpt / "test_list.txt.gz"]
    result = CliRunner().invoke(data, [*map(str, words), "--skip-bad", "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert load_dataset(tmp_path / "out").image_size == (256, 256)


def test_synth_from_the_command_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(data, ["synth", "--out", str(tmp_path / "data"), "--images", "30", "--size", "32"])
    assert result.exit_code == 0, result.output
    dataset = load_dataset(tmp_path / "data")
    assert sum(split.images for split in dataset.splits.values()) == 30
    assert result.stdout.splitlines()[-1] == str(tmp_path / "data")


def test_wrong_input_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = [sys.executable, "-m", "hpcjobs", "data", "synth", "--out", str(out), "--images", "1"]
    result = subprocess.run(run, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr == "hpcjobs: error: --images 1: give 3 or more, one each for train, val and test\n"
    assert (result.stdout, out.exists()) == ("", False)


def test_without_tensorflow_the_extra_is_named(tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = (
        "import sys; sys.modules['tensorflow'] = None; "
        f"sys.argv = ['hpcjobs', 'data', 'synth', '--out', {str(out)!r}]; from hpcjobs.cli import main; main()"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert "install the compute half" in result.stderr
    assert not out.exists()
