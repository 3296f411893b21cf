"""What the tab key completes in a line with a training command."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from hpcjobs.cli import hpcjobs

COMMAND = "name: mine\ntrainer: command\ncommand: [train, '{params.lr}']\nparams: {lr: 3e-4}\n"


def completed(*words: str) -> list[str]:
    *before, last = words
    return [item.value for item in ShellComplete(hpcjobs, {}, "hpcjobs", "_X").get_completions(before, last)]


@pytest.fixture(autouse=True)
def _experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.yaml").write_text(COMMAND)
    (tmp_path / "train.py").touch()
    monkeypatch.chdir(tmp_path)


def test_the_keys_of_an_experiments_own_trainer_are_completed() -> None:
    keys = completed("sweep", "--experiment", "./mine.yaml", "--set", "")
    assert {"params.lr=", "start=", "stop.signal="} <= set(keys)
    # Those that --set refuses are not offered.
    assert not {"params=", "command=", "trainer=", "model.name="} & set(keys)


def test_a_flag_of_a_command_says_whose_keys_are_meant() -> None:
    assert "start=" not in completed("sweep", "--set", "")
    assert "workdir=" in completed("sweep", "--start", "node", "--set", "")


def test_after_the_dashes_files_are_completed() -> None:
    assert completed("sweep", "--gpus", "1", "--", "python", "tr") == ["train.py"]
    assert completed("check", "--", "python", "tr") == ["train.py"]
    assert completed("init", "mine", "--", "python", "tr") == ["train.py"]
