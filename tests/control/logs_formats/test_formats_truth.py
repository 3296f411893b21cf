"""Logs made up from a known truth: what is read is the truth or nothing, however they are cut, tagged or repeated."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpcjobs.collect.measurements import LogResult, Throughput
from hpcjobs.collect.reading import read_log
from tests.control.logs_formats.made import MAKERS, STEPS, TOKENS, Truth, mmcv
from tests.control.logs_formats.reading import one, reasons

# The first two steps are slow, and times have three digits: a rate may lie so far off.
NEAR = 0.05
# The mean since an epoch's begin holds the slow steps, which the one line that is left may not let be left out.
CUT = 0.1
LOGS = {**MAKERS, "mmcv": mmcv}

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


def holds(measured: Throughput, name: str, truth: Truth, told: bool = True, near_by: float = NEAR) -> bool:
    """Whether each figure is the truth or is not known. `told`: whether the log says how gradients are accumulated.

    A log of mmcv does not: its step is a batch.
    """
    times = truth.accumulation if name == "mmcv" or not told else 1
    batch, step_s = truth.batch / times, truth.step_s / times
    rate = truth.batch / truth.step_s
    factor = truth.tokens if name in TOKENS else 1
    near = pytest.approx
    return all(
        (
            measured.throughput in (None, near(rate * factor, rel=near_by)),
            measured.gpus in (None, truth.gpus),
            measured.global_batch in (None, batch * factor),
            measured.step_ms in (None, near(1000 * step_s, rel=near_by)),
        )
    )


@pytest.mark.parametrize("name", LOGS)
@given(truth=truths)
@quick
def test_a_whole_log_gives_the_truth(tmp_path: Path, name: str, truth: Truth) -> None:
    result = read(tmp_path, LOGS[name](truth))
    measured = one(result)
    assert result.format == {"mmcv": "mmengine"}.get(name, name)
    assert holds(measured, name, truth), (measured, result.problems)
    assert (measured.step_ms if name in STEPS else measured.throughput) is not None, result.problems


@pytest.mark.parametrize("name", LOGS)
@given(truth=truths, begin=st.floats(0, 0.5), end=st.floats(0.5, 1))
@quick
def test_a_log_cut_off_at_both_ends_gives_no_other_number(
    tmp_path: Path, name: str, truth: Truth, begin: float, end: float
) -> None:
    text = LOGS[name](truth)
    for measured in read(tmp_path, text[round(begin * len(text)) : round(end * len(text))]).measurements:
        assert isinstance(measured, Throughput)
        assert any(holds(measured, name, truth, told, CUT) for told in (True, False)), measured


@pytest.mark.parametrize("name", LOGS)
@given(truth=truths, prefix=st.sampled_from(["", "[rank{}]:", "[1,{}]<stdout>:", "{}: ", "[default{}]:"]))
@quick
def test_lines_of_two_ranks_are_one_run(tmp_path: Path, name: str, truth: Truth, prefix: str) -> None:
    truth = dataclasses.replace(truth, gpus=2)
    lines = LOGS[name](truth).splitlines(keepends=True)
    text = "".join(prefix.format(rank) + line for line in lines for rank in (0, 1))
    result = read(tmp_path, text)
    assert len(result.measurements) <= 1
    for measured in result.measurements:
        assert isinstance(measured, Throughput)
        assert holds(measured, name, truth), measured


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
    text = MAKERS[name](truth)
    head, middle, tail = text[: len(text) // 2], text[len(text) // 2 : -500], text[-500:]
    changed = (
        text.replace(*words) if name in ("megatron", "maxtext", "composer") else head + middle.replace(*words) + tail
    )
    assert changed != text
    result = read(tmp_path, changed)
    assert one(result).throughput is None
    assert "the log contradicts itself" in reasons(result)
