"""Long series of steps are read at once, to the same figures, lines and refusals as step by step."""

import random
from pathlib import Path

import pytest

from hpcjobs.collect import reading
from hpcjobs.collect.formats import bars
from hpcjobs.collect.formats.composer import ComposerReader
from hpcjobs.collect.formats.steps import StepReader
from hpcjobs.collect.measurements import LogResult
from tests.control.logs_formats.made import MADE
from tests.control.logs_formats.truth import Truth


def one_by_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> LogResult:
    with monkeypatch.context() as patch:
        for name in reading.FORMATS:
            reader = reading._reader(name)
            if issubclass(reader, StepReader):
                patch.setattr(reader, "many", StepReader.many)
                patch.setattr(reader, "plain", None)
        patch.setattr(ComposerReader, "_many", lambda *_: False)
        patch.setattr(
            bars.Steps,
            "go",
            lambda steps, stretch: [steps.take(stretch.state(at)) for at in range(len(stretch.done))],
        )
        return reading.read_log(path)


def damaged(text: str, seed: int) -> str:
    """Lines are lost, cut, doubled, or follow another line; some have the prefix of a rank."""
    chance, out = random.Random(seed), ""
    for line in text.splitlines(True):
        what = chance.randrange(60 if seed % 2 else 400)
        at = chance.randrange(len(line))
        out += {
            0: "",
            1: line[:at],
            2: line * 2,
            3: f"a word\n{line}",
            4: f"[1,0]<stdout>:{line}",
            5: f"{line[at:]}",
        }.get(what, line)
    return out


@pytest.mark.parametrize("kind", MADE)
def test_a_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    path = tmp_path / "log"
    path.write_text(MADE[kind].make(Truth(length=20)))
    result = reading.read_log(path)
    assert result == one_by_one(path, monkeypatch)
    assert result.format == MADE[kind].format


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", MADE)
def test_a_damaged_log_of_two_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, seed: int) -> None:
    path = tmp_path / "log"
    made = MADE[kind].make(Truth(length=20, seed=seed)), MADE[kind].make(Truth(length=5, gpus=4, step_s=0.3))
    path.write_text(damaged("".join(made), seed))
    assert reading.read_log(path) == one_by_one(path, monkeypatch)
