"""A large log of an ended run is read once, whichever command asks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hpcjobs.collect import kept_readings
from hpcjobs.collect.claims import Sizes
from hpcjobs.collect.command_logs import CommandLog, read_command_log
from hpcjobs.collect.pattern import Pattern

HOW = Pattern(r"speed: (?P<throughput>[\d.]+)", warmup=0)


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A log that counts as large, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(kept_readings, "_LEAST", 10)
    path = tmp_path / "job.log"
    path.write_text("speed: 100\nspeed: 100\n")
    return path


def reading(log: Path, how: Pattern = HOW) -> tuple[CommandLog, int]:
    """What the log says, and how often it was read for that."""
    times = 0

    def read() -> CommandLog:
        nonlocal times
        times += 1
        return read_command_log(log, how, Sizes(gpus=2))

    return kept_readings.kept(log, how, read), times


def test_a_log_is_read_once(log: Path) -> None:
    first, times = reading(log)
    assert first.measurement is not None
    assert (first.measurement.throughput, times) == (pytest.approx(100), 1)
    assert reading(log) == (first, 0)


def test_a_log_that_changed_is_read_again(log: Path) -> None:
    reading(log)
    log.write_text("speed: 300\nspeed: 300\n")  # as long as before
    os.utime(log, (1, 1))
    again, times = reading(log)
    assert again.measurement is not None
    assert (again.measurement.throughput, times) == (pytest.approx(300), 1)


def test_another_pattern_reads_again(log: Path) -> None:
    reading(log)
    assert reading(log, Pattern(HOW.pattern, of="rank", warmup=0))[1] == 1


def test_a_small_log_leaves_nothing_in_the_cache(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_readings, "_LEAST", 1000)
    assert [reading(log)[1], reading(log)[1]] == [1, 1]
    assert not (log.parent / "cache").exists()


@pytest.mark.parametrize("damage", ["", "{}", "not JSON"])
def test_a_damaged_cache_is_passed_over(damage: str, log: Path) -> None:
    first, _ = reading(log)
    for entry in (log.parent / "cache").rglob("*.json"):
        entry.write_text(damage)
    assert reading(log) == (first, 1)


def test_a_cache_that_cannot_be_written_is_no_error(log: Path) -> None:
    (log.parent / "cache").write_text("a file")
    assert reading(log)[0].measurement is not None
