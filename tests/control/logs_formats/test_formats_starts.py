"""Two starts of a training in one file are never one run: other GPUs, another batch, or the same."""

from __future__ import annotations

import dataclasses
import random
import re
from pathlib import Path
from typing import Any

import pytest

from hpcjobs.collect.measurements import Throughput
from tests.control.logs_formats.made import MADE
from tests.control.logs_formats.reading import read, reasons
from tests.control.logs_formats.truth import Truth

ONE = Truth(step_s=0.4, local=32, gpus=8, noise=0.01)
OTHER = dataclasses.replace(ONE, local=64, step_s=0.7)


def head_of(name: str, truth: Truth) -> str:
    """A line that says the batch in formats that leave it to the script."""
    return f"global batch size: {truth.batch}\n" if name in ("imagenet", "progress") else ""


@pytest.mark.parametrize("name", [name for name in MADE if name != "step_avg"])
def test_another_batch_is_another_run_or_nothing(tmp_path: Path, name: str) -> None:
    text = "".join(head_of(name, truth) + MADE[name].make(truth) for truth in (ONE, OTHER))
    factor = ONE.tokens if MADE[name].unit == "tokens" else 1
    rates = [pytest.approx(truth.batch / truth.step_s * factor, rel=0.05) for truth in (ONE, OTHER)]
    result = read(tmp_path, text)
    found = [each.throughput for each in result.measurements if isinstance(each, Throughput)]
    assert all(rate is None or rate in rates for rate in found), found
    assert found == rates or result.problems


@pytest.mark.parametrize("name", ["imagenet", "timm", "swin"])
def test_a_start_that_died_early_is_not_mixed_with_the_next(tmp_path: Path, name: str) -> None:
    # The second start says nothing of itself: its lines look like copies of the first one's.
    died = MADE[name].make(ONE).splitlines(keepends=True)[:12]
    again = [line for line in MADE[name].make(OTHER).splitlines(keepends=True) if "Epoch" in line or "Train:" in line]
    result = read(tmp_path, "".join([*died, *again]))
    (measured,) = [each for each in result.measurements if isinstance(each, Throughput)]
    assert (measured.throughput, measured.step_ms) == (None, None)
    assert "are of two starts of the training" in reasons(result)


def test_bars_of_two_starts_are_two_runs(tmp_path: Path) -> None:
    text = "".join(head_of("progress", truth) + MADE["progress"].make(truth) for truth in (ONE, OTHER))
    found = [each for each in read(tmp_path, text).measurements if isinstance(each, Throughput)]
    assert [each.global_batch for each in found] == [ONE.batch, OTHER.batch]
    assert [each.step_ms for each in found] == pytest.approx([400, 700], rel=0.01)


def second(name: str, truth: Truth, chance: random.Random) -> str:
    """A log whose head is lost, a day later."""
    lines = MADE[name].make(truth).splitlines(keepends=True)
    text = "".join(lines[min(8, len(lines) // 4) :])
    if chance.random() < 0.5:
        whole = "".join(lines)
        text = whole[chance.randrange(len(whole) // 2) :]
    return re.sub(r'"time_ms": (\d+)', lambda match: f'"time_ms": {int(match[1]) + 86_400_000}', text)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "changed", [{"gpus": 4}, {"local": 64, "step_s": 0.7}, {"gpus": 16, "local": 8, "step_s": 0.25}]
)
@pytest.mark.parametrize("name", [name for name in MADE if name != "step_avg"])
def test_a_restart_whose_head_is_lost_has_nothing_of_the_start_before(
    tmp_path: Path, name: str, changed: dict[str, Any], seed: int
) -> None:
    chance = random.Random(f"{name} {seed}")
    starts = [dataclasses.replace(ONE, warmup=1.0, seed=seed), dataclasses.replace(ONE, warmup=1.0, **changed)]
    result = read(tmp_path, MADE[name].make(starts[0]) + second(name, starts[1], chance))
    factor = ONE.tokens if MADE[name].unit == "tokens" else 1

    def holds(measured: Throughput, truth: Truth) -> bool:
        rate = pytest.approx(truth.batch / truth.step_s * factor, rel=0.05)
        return (
            measured.throughput in (None, rate)
            and measured.step_ms in (None, pytest.approx(1000 * truth.step_s, rel=0.05))
            and measured.gpus in (None, truth.gpus)
            and measured.global_batch in (None, truth.batch * factor)
        )

    for measured in result.measurements:
        assert isinstance(measured, Throughput)
        assert any(holds(measured, truth) for truth in starts), (measured, result.problems)


@pytest.mark.parametrize("name", [name for name in MADE if name not in ("step_avg", "progress")])
def test_a_training_that_was_interrupted_and_goes_on_is_read(tmp_path: Path, name: str) -> None:
    whole = MADE[name].make(ONE)
    text = whole + re.sub(r'"time_ms": (\d+)', lambda match: f'"time_ms": {int(match[1]) + 86_400_000}', whole)
    lone, both = read(tmp_path, whole).measurements, read(tmp_path, text).measurements
    assert {(each.gpus, each.global_batch) for each in both if isinstance(each, Throughput)} == {
        (each.gpus, each.global_batch) for each in lone if isinstance(each, Throughput)
    }
