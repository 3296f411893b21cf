"""Which number a group of a pattern stands for, and where the text around it says that it means something else."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from hpcjobs.base.errors import InputError
from hpcjobs.collect.claims import Sizes
from hpcjobs.collect.command_logs import read_command_log
from hpcjobs.collect.pattern import Pattern
from hpcjobs.collect.pattern_log import read_pattern
from hpcjobs.collect.pattern_numbers import Found, figures


def found(pattern: str, text: str) -> Found:
    match = Pattern(pattern).search(text)
    assert match is not None
    return figures(match)


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("speed 1,234.5", 1234.5),
        ("speed 1_234.5", 1234.5),
        ("speed 1'234.5", 1234.5),
        ("speed 1\u202f234.5", 1234.5),
        ("speed 1.5 ktok/s", 1500),
        ("speed 1.5ktok/s", 1500),
        ("speed 1.5 K", 1500),
        ("speed 1.5 MFU", 1.5),
        ("speed 3 GPUs", 3),
        ("speed 5 k=3", 5),
        ("speed 5,6,7", 5),
    ],
)
def test_a_rate_is_all_of_its_number(text: str, rate: float) -> None:
    one = found(r"speed (?P<throughput>[\d.]+)" if "5,6" not in text else r"speed (?P<throughput>\d+),", text)
    assert (one.throughput, one.wrong) == (rate, "")


def test_a_comma_after_a_number_is_no_part_of_it() -> None:
    assert found(r"speed (?P<throughput>[\d.,]+)", "speed 1,234.5, loss 2").throughput == 1234.5
    assert found(r"speed (?P<throughput>[\d.,]+)", "speed 1.234,5").wrong != ""


@pytest.mark.parametrize(
    ("pattern", "text", "why"),
    [
        (r"speed (?P<throughput>[\d.]+)", "speed 1.234,5", "is followed by ',5'"),
        (r"speed (?P<throughput>[\d.]+)", "speed 1234,5 tok/s", "1.234,5 is none"),
        (r"speed (?P<throughput>[\d.]+)", "speed 1.5Ki", "is followed by 'Ki'"),
        (r"speed -?(?P<throughput>[\d.]+)", "speed -12", "begins after the minus of a number"),
        (r"(?P<throughput>[\d.]+) ?s/it", "1.3s/it", "is the time of a step and no rate"),
        (r"time (?P<step_ms>[\d.]+)", "time 0.31 s", "is not in ms"),
        (r"time (?P<step_ms>[\d.]+)", "time 0.31s/it", "is not in ms"),
        (r"time (?P<step_ms>[\d.]+)", "time 1:02", "is not in ms"),
        (r"time \(s\): (?P<step_ms>[\d.]+)", "time (s): 0.31", "is not in ms"),
        (r"time (?P<step_s>[\d.]+)", "time 310 ms", "is not in s"),
        (r"time \(ms\): (?P<step_s>[\d.]+)", "time (ms): 310", "is not in s"),
        (r"speed (?P<throughput>\S+)", "speed 1e308", "is not a figure of a training"),
    ],
)
def test_a_number_that_its_text_contradicts_is_no_figure(pattern: str, text: str, why: str) -> None:
    one = found(pattern, text)
    assert why in one.wrong
    assert not one.is_rate


@pytest.mark.parametrize(
    ("pattern", "text", "why"),
    [
        (r"(?P<throughput>[\d.]+) ex/sec", "iter 10/200 | 36,386.2 ex/sec", "all of '36,386.2'"),
        (r"(?P<throughput>[\d.]+) ex/sec", "iter 10/200 | 1,036,386 ex/sec", "all of '1,036,386'"),
        (r"(?P<throughput>[\d.]+) ex/sec", "iter 10 36,386.2 ex/sec", "all of '36,386.2'"),
        (r"(?P<throughput>[\d.]+) ex/sec", "36'386.2 ex/sec", 'all of "36\'386.2"'),
        (r"(?P<throughput>[\d.]+) ex/sec", "36_386.2 ex/sec", "all of '36_386.2'"),
        (r"(?P<throughput>[\d.]+) ex/sec", "36\u202f386.2 ex/sec", "begins inside a number"),
        (r"(?P<throughput>[\d.]+) ex/sec", "36\u2009386.2 ex/sec", "begins inside a number"),
        (r"(?P<throughput>[\d.]+) ex/sec", "speed: 36 386.2 ex/sec", "all of '36 386.2', without the blank"),
        (r"(?P<throughput>[\d.]+) ex/sec", "36,3 ex/sec", "all of '36,3'"),
        # A wildcard says nothing of the sign behind it.
        (r"speed.*,(?P<throughput>[\d.]+)", "speed: 36,386.2 ex/sec", "all of '36,386.2'"),
        (r"speed.* (?P<throughput>[\d.]+)", "speed: 36 386.2 ex/sec", "all of '36 386.2'"),
        (r"speed: (?P<throughput>[\d.]+)", "speed: 36 386.2 ex/sec", "ends inside a number"),
        (r"speed: (?P<throughput>[\d.]+)", "speed: 1 036 386", "all of '1 036 386'"),
        (r"(?P<step_ms>[\d.]+) ms", "1,234.5 ms", "all of '1,234.5'"),
        (r"(?P<throughput>[\d.]+) img", "rate [-512 img/s]", "begins after the minus"),
        (r"(?P<throughput>[\d.]+) img", "rate \u2212512 img/s", "begins after the minus"),
        (r"rate (?P<throughput>[\d.]+)", "rate 512 img/min", "is not in units a second"),
        (r"rate (?P<throughput>[\d.]+)", "rate 512/min", "is not in units a second"),
        (r"rate (?P<throughput>[\d.]+)", "rate 1.5 kimages per minute", "is not in units a second"),
        (r"rate (?P<throughput>[\d.]+)", "rate 512 img/h", "is not in units a second"),
        (r": (?P<throughput>[\d.]+)", "img/min: 512", "is not in units a second"),
        (r"=(?P<throughput>[\d.]+)", "images_per_hour=512", "is not in units a second"),
    ],
)
def test_a_part_of_a_number_and_a_rate_of_another_time_are_no_rate(pattern: str, text: str, why: str) -> None:
    one = found(pattern, text)
    assert why in one.wrong
    assert not one.is_rate


@pytest.mark.parametrize(
    ("pattern", "text", "rate"),
    [
        (r"speed: (?P<throughput>[\d.]+)", "speed: 36_386.2 ex/sec", 36386.2),
        (r"(?P<throughput>[\d.,]+) ex/sec", "iter 10/200 | 36,386.2 ex/sec", 36386.2),
        # The pattern names the number before the sign, or skips columns, or a word counts.
        (r"\d+ (?P<throughput>[\d.]+) ex/sec", "10 200.5 ex/sec", 200.5),
        (r"^\d+,(?P<throughput>[\d.]+)", "36,386.2,0.5", 386.2),
        (r"^[^,]*,(?P<throughput>[\d.]+)", "36,386,0.5", 386),
        (r"(?P<throughput>[\d.]+) ex/sec", "step 10 200.5 ex/sec", 200.5),
        (r"(?P<step>\d+) (?P<throughput>[\d.]+)", "10 200.5", 200.5),
        (r"(?P<throughput>[\d.]+) \d+", "36 386 0.5", 36),
        (r"(?P<throughput>[\d.]+) (?P<score>[\d.]+)", "36 386.5", 36),
        # No number has such thousands.
        (r"(?P<throughput>[\d.]+) ex/sec", "1234,386.2 ex/sec", 386.2),
        (r"(?P<throughput>[\d.]+) ex/sec", "10 20 386.2 ex/sec", 386.2),
        (r"(?P<throughput>[\d.]+) ex/sec", "loss 0.5 386.2 ex/sec", 386.2),
        (r"speed: (?P<throughput>[\d.]+)", "speed: 36 100/200", 36),
        (r"gpu-(?P<throughput>[\d.]+)", "gpu-512", 512),
        (r"(?P<throughput>[\d.]+) img", "512 img/s min 3", 512),
    ],
)
def test_two_numbers_beside_each_other_are_two(pattern: str, text: str, rate: float) -> None:
    one = found(pattern, text)
    assert (one.throughput, one.wrong) == (rate, "")


def test_rows_of_a_table_with_commas_are_read() -> None:
    first = found(r"^(?P<throughput>[\d.]+)", "1234.5,10,0.3")
    middle = found(r"^(?P<step>\d+),(?P<throughput>[\d.]+)", "10,1234.5,3")
    assert (first.throughput, middle.step, middle.throughput) == (1234.5, 10, 1234.5)


def test_the_time_of_a_step_may_be_in_seconds() -> None:
    assert found(r"time (?P<step_s>[\d.]+)", "time 0.31 s/it").step_ms == pytest.approx(310)
    keras = r"(?P<step_ms>\d+)ms/step|(?P<step_s>\d+)s/step"
    assert [found(keras, text).step_ms for text in ("55ms/step", "2s/step")] == [55, 2000]


def test_a_pattern_of_seconds_gives_a_rate_with_its_batch(tmp_path: Path) -> None:
    log = tmp_path / "job.log"
    log.write_text("".join(f"step {step} time 0.05\n" for step in range(20)))
    read = read_command_log(log, Pattern(r"step (?P<step>\d+) time (?P<step_s>[\d.]+)"), Sizes(2, 1, 8, 16))
    assert read.measurement is not None
    assert read.measurement.throughput == pytest.approx(320)
    assert read.measurement.step_ms == pytest.approx(50)


def test_a_progress_bar_that_turns_to_seconds_an_iteration_counts_whole(tmp_path: Path) -> None:
    bar = tmp_path / "bar.log"
    bar.write_text("2.0it/s\r" * 10 + "2.0it/s\r" * 10 + "2.0s/it\r" * 10 + "\n")
    tqdm = Pattern(r"(?P<throughput>[\d.]+)it/s|(?P<step_s>[\d.]+)s/it", unit="steps")
    one = read_pattern(bar, tqdm, Sizes(2)).throughput
    assert one is not None
    assert one.throughput == pytest.approx(20 / (10 / 2 + 10 * 2))  # steps over seconds


def test_rates_and_times_of_steps_are_not_mixed(tmp_path: Path) -> None:
    log = tmp_path / "job.log"
    log.write_text("100 samples/s\n" * 15 + "time 900 ms\n" * 15)
    read = read_pattern(log, Pattern(r"(?P<throughput>\d+) samples/s|time (?P<step_ms>\d+)"), Sizes(2))
    assert read.throughput is None
    assert "15 lines have the time of a step and no rate" in read.result.problems[-1].reason


def test_a_last_score_of_nan_is_no_score(tmp_path: Path) -> None:
    log = tmp_path / "job.log"
    log.write_text("5 it/s loss 0.3\n" * 12 + "5 it/s loss nan\n")
    read = read_pattern(log, Pattern(r"(?P<throughput>\d+) it/s loss (?P<score>\S+)"), Sizes(2))
    assert read.throughput is not None
    assert read.throughput.score is None
    assert read.result.problems[-1].reason == "the last score is nan"
    assert math.isnan(found(r"(?P<throughput>\d+) (?P<score>\S+)", "5 -nan").score or 0)


def test_why_no_figure_can_be_read_is_told_with_its_line(tmp_path: Path) -> None:
    log = tmp_path / "job.log"
    log.write_text("begin\n" + "time: 0.31 s\n" * 5)
    read = read_command_log(log, Pattern(r"time: (?P<step_ms>[\d.]+)"), Sizes(2, 1, 8, 16))
    assert read.measurement is None
    assert "5 not a number (step_ms '0.31' is not in ms: name the group step_s if it is in s, line 2)" in (
        read.looked_for
    )


@pytest.mark.parametrize("said", ["WORLD_SIZE=4", "world_size: 4", "world size: 4"])
def test_a_world_size_that_is_not_the_runs_is_refused(said: str, tmp_path: Path) -> None:
    log = tmp_path / "job.log"
    log.write_text(f"{said}\n" + "rate 5\n" * 12)
    pattern = Pattern(r"rate (?P<throughput>\d+)")
    assert "the log says 4 GPUs (line 1), the run has 2" in read_command_log(log, pattern, Sizes(2, 1)).looked_for


@pytest.mark.parametrize("said", ["local world size: 4", "LOCAL_WORLD_SIZE=4", "dp world size 4", "group_world_size=4"])
def test_the_size_of_a_part_contradicts_nothing(said: str, tmp_path: Path) -> None:
    log = tmp_path / "job.log"
    log.write_text(f"{said}\n" + "rate 5\n" * 12)
    pattern = Pattern(r"rate (?P<throughput>\d+)")
    assert read_command_log(log, pattern, Sizes(8, 2)).looked_for == ""


def test_samples_need_a_time() -> None:
    assert Pattern(r"(?P<samples>\d+) (?P<step_s>\d+)").has("samples")
    with pytest.raises(InputError, match="samples alone is no rate"):
        Pattern(r"(?P<samples>\d+)")
