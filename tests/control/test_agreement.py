"""Which rate counts where figures of a log agree, and what happens where they do not."""

from __future__ import annotations

import pytest

from hpcjobs.collect.agreement import Figure, Kind, Sizes, agree, batches


def figure(kind: Kind, value: float, line: int = 1, *, half: float = 0.0, alone: bool = True) -> Figure:
    return Figure(kind, value, line, kind.name.lower(), half=half, alone=alone)


def test_figures_that_agree_give_the_first() -> None:
    agreed = agree([figure(Kind.TOTAL, 1000), figure(Kind.STEP, 0.26)], Sizes(global_batch=256))
    assert (agreed.rate, agreed.contradiction) == (1000, "")


def test_one_gpus_rate_is_known_by_the_time_of_a_step() -> None:
    # MLPerf's RetinaNet: 289 images/s of each of eight GPUs, 0.111 s for 256 images.
    agreed = agree([figure(Kind.OPEN, 289), figure(Kind.STEP, 0.111)], Sizes(gpus=8, global_batch=256))
    assert (agreed.rate, agreed.how) == (8 * 289, "one GPU's, times the GPUs")


def test_steps_are_known_by_the_owners_rate() -> None:
    agreed = agree([figure(Kind.OPEN, 2312), figure(Kind.COUNT, 9.0)], Sizes(global_batch=256))
    assert (agreed.rate, agreed.how) == (2312, "")


def test_tokens_are_known_by_the_time_of_a_step() -> None:
    sizes = Sizes(gpus=512, global_batch=2048, tokens=2048)
    agreed = agree([figure(Kind.OPEN, 313_233), figure(Kind.STEP, 12.7)], sizes)
    assert agreed.rate == pytest.approx(153, abs=0.1)


def test_two_against_one_win_and_the_one_is_named() -> None:
    figures = [figure(Kind.TOTAL, 39_241, 1629), figure(Kind.OPEN, 22_974, 1515), figure(Kind.COUNT, 23_586, 1625)]
    agreed = agree(figures, Sizes(global_batch=1536))
    assert (agreed.rate, agreed.line) == (22_974, 1629)
    assert agreed.contradiction == "total (line 1629) 39241/s: contradicts open (line 1515) 22974/s, which counts"


def test_two_that_disagree_give_no_rate_and_name_both_lines() -> None:
    agreed = agree([figure(Kind.OPEN, 681, 27), figure(Kind.TOTAL, 10_639, 31)], Sizes(global_batch=1024))
    assert agreed.rate is None
    assert agreed.contradiction == "the log contradicts itself: open (line 27) 681/s; total (line 31) 10639/s"


def test_two_pairs_that_disagree_give_no_rate() -> None:
    figures = [figure(Kind.TOTAL, value) for value in (100, 101, 200, 201)]
    assert agree(figures, Sizes()).rate is None


def test_rounding_is_no_contradiction() -> None:
    # 1 s a step may be 0.5 to 1.5 s.
    coarse = figure(Kind.STEP, 1.0, half=0.5)
    assert agree([figure(Kind.TOTAL, 180), coarse], Sizes(global_batch=256)).rate == 180
    assert agree([figure(Kind.TOTAL, 100), coarse], Sizes(global_batch=256)).rate is None


def test_what_cannot_stand_alone_neither_counts_nor_contradicts() -> None:
    unknown = figure(Kind.COUNT, 7, alone=False)
    assert agree([unknown], Sizes()).rate is None
    assert agree([figure(Kind.TOTAL, 100), unknown], Sizes())[:1] == (100,)


@pytest.mark.parametrize(
    ("gpus", "local", "whole", "accumulation", "expected"),
    [
        (8, 32, None, None, (32, 256)),
        (8, 32, None, 4, (32, 1024)),
        (8, None, 256, None, (32, 256)),
        (8, None, 1024, 4, (32, 1024)),
        (8, 32, 1024, None, (32, 1024)),  # accumulated, though the log does not say so
        (512, 4, 256, None, (4, 256)),  # eight GPUs share a model
        (512, None, 2048, 128, (None, 2048)),
        (8, 32, 250, None, (None, None)),
        (8, 32, 256, 4, (32, 256)),  # a quarter of the GPUs have batches of their own
        (8, 32, 700, 4, (None, None)),
        (None, 32, 256, None, (32, 256)),
    ],
)
def test_batches(
    gpus: int | None, local: int | None, whole: int | None, accumulation: int | None, expected: tuple[int, int]
) -> None:
    found = batches(gpus, local, whole, accumulation)
    assert found[:2] == expected
    assert bool(found.contradiction) == (expected == (None, None))
