"""Logs made up from a known truth: its rate, batch and GPUs are found, or refused, and never another number."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpcjobs.collect.measurements import LogResult, Throughput
from hpcjobs.collect.reading import read_log
from tests.control.made_logs import FORMATS, Truth

made = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
# What warm-up that is not left out, and evaluations that a rate may hold, move it by at most.
NEAR = 0.16


@st.composite
def truths(draw: st.DrawFn) -> Truth:
    steps = draw(st.integers(8, 30))
    return Truth(
        gpus=draw(st.sampled_from([1, 2, 3, 4, 8, 16, 64])),
        local=draw(st.sampled_from([4, 24, 32, 204])),
        accumulation=draw(st.sampled_from([1, 1, 2, 8])),
        step_s=draw(st.floats(0.004, 4)),
        steps=steps,
        warmup=draw(st.integers(0, -(-steps // 10))),
        digits=draw(st.integers(1, 3)),
    )


def checked(result: LogResult, truth: Truth, near: float = NEAR) -> list[Throughput]:
    """The runs of a log, after a check that each figure is the truth's or empty."""
    runs = [one for one in result.measurements if isinstance(one, Throughput)]
    for one in runs:
        assert one.gpus in (None, truth.gpus), one
        assert one.global_batch in (None, truth.batch), one
        assert one.throughput is None or one.throughput == pytest.approx(truth.rate, rel=near), one
        assert one.step_ms is None or one.step_ms == pytest.approx(1000 * truth.step_s, rel=near), one
        if one.throughput is None or one.gpus is None:
            assert result.problems
    return runs


def read(folder: Path, text: str) -> LogResult:
    path = folder / "made.log"
    path.write_text(text)
    return read_log(path)


def plain(truth: Truth, name: str) -> Truth:
    """The truth as far as the format can say it."""
    return truth if FORMATS[name][1] else Truth(**{**truth.__dict__, "accumulation": 1})


@pytest.mark.parametrize("name", FORMATS)
@given(truth=truths())
@made
def test_the_truth_is_found(tmp_path: Path, name: str, truth: Truth) -> None:
    truth = plain(truth, name)
    result = read(tmp_path, FORMATS[name][0](truth))
    (run,) = checked(result, truth)
    coarse = name == "keras" and 100 * truth.step_s < 4
    assert coarse or run.throughput is not None, result.problems
    assert run.gpus == truth.gpus


@pytest.mark.parametrize("name", FORMATS)
@given(truth=truths(), ranks=st.sampled_from(["[1,{}]<stdout>:", "{}: ", "[{}]<stdout>:"]), every=st.booleans())
@made
def test_prefixes_of_ranks_change_nothing(tmp_path: Path, name: str, truth: Truth, ranks: str, every: bool) -> None:
    truth = plain(truth, name)
    who = range(min(truth.gpus, 4)) if every else range(1)
    lines = FORMATS[name][0](truth).splitlines()
    checked(read(tmp_path, "".join(f"{ranks.format(rank)}{line}\n" for line in lines for rank in who)), truth)


@pytest.mark.parametrize("name", FORMATS)
@given(truth=truths(), part=st.floats(0, 1))
@made
def test_a_log_that_ends_early_gives_no_other_number(tmp_path: Path, name: str, truth: Truth, part: float) -> None:
    # Of a log of a few slow lines no reader can know that they are the warm-up.
    truth = Truth(**{**plain(truth, name).__dict__, "warmup": 0})
    lines = FORMATS[name][0](truth).splitlines()
    checked(read(tmp_path, "\n".join(lines[: round(part * len(lines))]) + "\n"), truth)
