"""Logs made up from a known truth: what is read is the truth or nothing, however they are cut, tagged or repeated."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpcjobs.collect.measurements import LogResult, Throughput
from hpcjobs.collect.reading import read_log
from tests.control.logs_formats.made import MADE
from tests.control.logs_formats.reading import one, reasons
from tests.control.logs_formats.truth import Truth

# Times have three digits, and their noise is up to 0.05: a rate may lie so far off.
NEAR = 0.05
# A figure whose rounding leaves it open by more says so.
_ROUNDED = re.compile(r"(?:is known to|whole seconds: within) ([\d.]+) ?%")

truths = st.builds(
    Truth,
    step_s=st.floats(0.05, 20),
    local=st.integers(1, 256),
    gpus=st.sampled_from([1, 2, 3, 8, 16, 64, 256]),
    accumulation=st.sampled_from([1, 2, 4]),
    noise=st.floats(0, 0.05),
    seed=st.integers(0, 99),
    tokens=st.sampled_from([512, 2048]),
)
quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read(folder: Path, text: str) -> LogResult:
    path = folder / "some.log"
    path.write_bytes(text.encode())
    return read_log(path)


def as_said(truth: Truth, name: str) -> Truth:
    """The truth as far as the format can say it: without accumulation a log's step is one batch.

    A rate of one GPU and samples that are steps look like the total and samples if a GPU has one sample a step.
    """
    if name == "mlperf: one GPU's rate, steps":
        return dataclasses.replace(truth, local=max(truth.local, 2))
    if MADE[name].accumulates or truth.accumulation == 1:
        return truth
    return dataclasses.replace(truth, accumulation=1, step_s=truth.step_s / truth.accumulation)


def holds(result: LogResult, name: str, truth: Truth, told: bool = True) -> bool:
    """Whether each figure of each training is the truth, or is not known and that is said.

    `told`: whether the log says how gradients are accumulated; else its step is one batch.
    """
    times = 1 if told else truth.accumulation
    factor = truth.tokens if MADE[name].unit == "tokens" else 1
    batch, step_ms = truth.batch / times * factor, 1000 * truth.step_s / times
    near_by = max([NEAR, *(float(found) / 100 for found in _ROUNDED.findall(reasons(result)))])
    rate, step = pytest.approx(1000 * batch / step_ms, rel=near_by), pytest.approx(step_ms, rel=near_by)
    return all(
        each.throughput in (None, rate)
        and each.step_ms in (None, step)
        and each.gpus in (None, truth.gpus)
        and each.global_batch in (None, batch)
        and bool(None not in (each.throughput, each.gpus) or result.problems)
        for each in result.measurements
        if isinstance(each, Throughput)
    )


@pytest.mark.parametrize("name", MADE)
@given(truth=truths)
@quick
def test_a_whole_log_gives_the_truth(tmp_path: Path, name: str, truth: Truth) -> None:
    form, truth = MADE[name], as_said(truth, name)
    result = read(tmp_path, form.make(truth))
    measured = one(result)
    assert result.format == form.format
    assert holds(result, name, truth), (measured, result.problems)
    coarse = name == "keras" and 100 * truth.step_s < 4
    assert coarse or (measured.throughput if form.rate else measured.step_ms) is not None, result.problems


@pytest.mark.parametrize("name", MADE)
@given(truth=truths, begin=st.floats(0, 0.5), end=st.floats(0, 1))
@quick
def test_a_log_cut_off_at_both_ends_gives_no_other_number(
    tmp_path: Path, name: str, truth: Truth, begin: float, end: float
) -> None:
    # Of a log of a few slow lines no reader can know that they are the warm-up.
    truth = as_said(truth if end > 0.5 else dataclasses.replace(truth, warmup=1.0), name)
    text = MADE[name].make(truth)
    result = read(tmp_path, text[round(begin * len(text)) : round(end * len(text))])
    assert any(holds(result, name, truth, told) for told in (True, False)), (result.measurements, result.problems)


@pytest.mark.parametrize("name", MADE)
@given(
    truth=truths,
    prefix=st.sampled_from(["", "[rank{}]:", "[1,{}]<stdout>:", "[{}]<stdout>:", "{}: ", "[default{}]:"]),
    ranks=st.sampled_from([(0,), (0, 1)]),
)
@quick
def test_lines_of_ranks_are_one_run(
    tmp_path: Path, name: str, truth: Truth, prefix: str, ranks: tuple[int, ...]
) -> None:
    truth = as_said(dataclasses.replace(truth, gpus=2), name)
    lines = MADE[name].make(truth).splitlines(keepends=True)
    result = read(tmp_path, "".join(prefix.format(rank) + line for line in lines for rank in ranks))
    assert len(result.measurements) <= 1
    assert holds(result, name, truth), (result.measurements, result.problems)


@pytest.mark.parametrize("name", ["megatron", "maxtext", "timm", "paddle", "composer"])
def test_a_batch_that_its_own_lines_contradict_gives_no_rate(tmp_path: Path, name: str) -> None:
    truth = Truth()
    words = {
        "megatron": ("global batch size:   256", "global batch size:   512"),
        "maxtext": ("Config param per_device_batch_size: 32.0", "Config param per_device_batch_size: 64.0"),
        "timm": ("Time: 0.4", "Time: 0.8"),
        "paddle": ("batch_cost: 0.4", "batch_cost: 0.9"),
        "composer": ("global_train_batch_size: 256", "global_train_batch_size: 128"),
    }[name]
    text = MADE[name].make(truth)
    head, middle, tail = text[: len(text) // 2], text[len(text) // 2 : -500], text[-500:]
    changed = (
        text.replace(*words) if name in ("megatron", "maxtext", "composer") else head + middle.replace(*words) + tail
    )
    assert changed != text
    result = read(tmp_path, changed)
    assert one(result).throughput is None
    assert "the log contradicts itself" in reasons(result)
