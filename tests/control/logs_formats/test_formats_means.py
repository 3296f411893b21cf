"""Lines that give the mean since an epoch's or a run's begin: the start is left out, or there is no figure."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.control.logs_formats.reading import one, read, reasons

HEAD = "RANK and WORLD_SIZE in environ: 0/8\n  BATCH_SIZE: 32\n"


def swin(lines: list[tuple[int, int, float]], digits: int = 4) -> str:
    """Lines of Swin's main.py: (epoch, step, mean s)."""
    return HEAD + "".join(
        f"[2024-09-24 09:36:48 swin] (main.py 188): INFO Train: [{epoch}/300][{step}/100]\teta 0:08:30 lr 0.000002\t "
        f"time 0.4000 ({mean:.{digits}f})\tloss 6.9 (6.9)\tmem 14764MB\n"
        for epoch, step, mean in lines
    )


def test_the_first_tenth_is_left_out_of_the_mean(tmp_path: Path) -> None:
    # 10 steps of 4 s, then 0.4 s.
    means = [(0, step, (40 + 0.4 * (step - 9)) / (step + 1)) for step in range(10, 100, 10)]
    result = read(tmp_path, swin([(0, 0, 4.0), *means]))
    assert one(result).step_ms == pytest.approx(400, rel=0.01)


@pytest.mark.parametrize("step", [1, 50, 99])
def test_a_mean_alone_gives_no_figure(tmp_path: Path, step: int) -> None:
    result = read(tmp_path, swin([(0, step, 0.6)]))
    assert (one(result).throughput, one(result).step_ms) == (None, None)
    assert "the mean of the steps holds the run's start" in reasons(result)


def test_an_epoch_with_its_first_lines_alone_does_not_count(tmp_path: Path) -> None:
    # The second epoch ends after its slow first steps.
    first = [(0, step, 0.4) for step in range(0, 100, 10)]
    result = read(tmp_path, swin([*first, (1, 0, 9.0), (1, 10, 1.2)]))
    assert one(result).step_ms == pytest.approx(400, rel=0.01)


def test_rounding_is_told_or_refused(tmp_path: Path) -> None:
    fine = read(tmp_path, swin([(0, step, 0.41) for step in range(0, 100, 10)], digits=2))
    assert one(fine).step_ms == pytest.approx(410, rel=0.001)
    assert reasons(fine) == ""
    rough = read(tmp_path, swin([(0, step, 0.4) for step in range(0, 100, 10)], digits=1))
    assert "means are rounded: the figure is known to 15" in reasons(rough) or "too much" in reasons(rough)
    coarse = read(tmp_path, swin([(0, step, 0.1) for step in range(0, 100, 10)], digits=1))
    assert one(coarse).throughput is None
    assert "means are rounded too much" in reasons(coarse)


def test_a_running_average_of_deepspeed_alone_gives_no_figure(tmp_path: Path) -> None:
    text = (
        "world_size=8\n[2023-11-07 01:55:23,714] [INFO] [timer.py:260:stop] epoch=0/micro_step=10/global_step=10, "
        "RunningAvgSamplesPerSec=25.0257, CurrSamplesPerSec=25.7042, MemAllocated=4.32GB\n"
    )
    result = read(tmp_path, text)
    assert one(result).throughput is None
    assert "the mean of the steps holds the run's start" in reasons(result)
