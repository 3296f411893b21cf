"""Any bytes can be read as a log: no error is raised, and every figure is a finite number."""

from __future__ import annotations

import gzip
import math
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpcjobs.collect.measurements import Bandwidth, LogResult, Throughput
from hpcjobs.collect.reading import FORMATS, read_log
from tests.control.logs import train_log
from tests.control.logs_formats.made import MADE
from tests.control.logs_formats.reading import SAMPLES
from tests.control.logs_formats.test_formats_dllogger import MXNET, PYTORCH
from tests.control.logs_formats.test_formats_horovod import RUN
from tests.control.logs_formats.test_formats_keras import EPOCHS
from tests.control.logs_formats.test_formats_mxnet import ARGUMENTS, mlperf, speeds
from tests.control.logs_formats.test_formats_tables import BANDWIDTH, NEW, OLD, PAIRS, REDUCE
from tests.control.logs_formats.truth import Truth

LOGS: dict[str, bytes] = {
    **{made.format: made.make(Truth()).encode() for made in MADE.values()},
    "hpcjobs": train_log(step_ms=(50.0, 60.0)).encode(),
    "horovod": RUN.encode(),
    "tf_cnn_benchmarks": gzip.decompress((SAMPLES / "tf_cnn_fp16_2gpus.log.gz").read_bytes()),
    "dllogger": (PYTORCH + MXNET).encode(),
    "mxnet": (ARGUMENTS.format(0, 128, "0,1", "device") + speeds(0, 500.0, 128)).encode(),
    "mlperf": mlperf().encode(),
    "keras": ("Number of devices: 2\n" + "".join(f"Epoch {n}/7\n" + text for n, text in enumerate(EPOCHS.values(), 1))).encode(),
    "nccl-tests": (NEW + OLD).encode(),
    "osu": (BANDWIDTH + REDUCE + PAIRS).encode(),
}  # fmt: skip

quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def sound(result: LogResult) -> LogResult:
    """Checks that a log gave a measurement or a problem, and that all figures are finite."""
    assert result.measurements or result.problems
    for one in result.measurements:
        if isinstance(one, Throughput):
            figures = (one.throughput, one.per_gpu, one.step_ms, one.gpus, one.local_batch, one.global_batch)
            assert one.throughput is not None or "throughput" in one.missing
        else:
            assert isinstance(one, Bandwidth)
            figures = (one.time_us, one.algbw, one.busbw, one.ranks)
        assert all(figure is None or (math.isfinite(figure) and figure >= 0) for figure in figures), one
    assert all(problem.reason and "\n" not in problem.reason for problem in result.problems)
    return result


def of(folder: Path, data: bytes, format: str | None = None) -> LogResult:
    path = folder / "some.log"
    path.write_bytes(data)
    return sound(read_log(path, format))


@pytest.mark.parametrize("format", [None, *FORMATS])
@given(data=st.binary(max_size=2000))
@quick
def test_random_bytes(tmp_path: Path, format: str | None, data: bytes) -> None:
    of(tmp_path, data, format)


@pytest.mark.parametrize("format", FORMATS)
@given(at=st.floats(0, 1), packed=st.booleans())
@quick
def test_a_log_cut_off_anywhere(tmp_path: Path, format: str, at: float, packed: bool) -> None:
    data = gzip.compress(LOGS[format]) if packed else LOGS[format]
    of(tmp_path, data[: round(at * len(data))])


@pytest.mark.parametrize("format", FORMATS)
@given(spoils=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=6)), max_size=8))
@quick
def test_a_log_with_bytes_overwritten(tmp_path: Path, format: str, spoils: list[tuple[float, bytes]]) -> None:
    data = bytearray(LOGS[format])
    for at, spoil in spoils:
        begin = round(at * len(data))
        data[begin : begin + len(spoil)] = spoil
    of(tmp_path, bytes(data), format)


@pytest.mark.parametrize("format", FORMATS)
@given(
    turns=st.lists(st.tuples(st.booleans(), st.integers(1, 400)), max_size=60), tags=st.booleans(), lines=st.booleans()
)
@quick
def test_two_ranks_interleaved(
    tmp_path: Path, format: str, turns: list[tuple[bool, int]], tags: bool, lines: bool
) -> None:
    """Pieces of both ranks' streams in any order: of bytes, or of whole lines."""
    text = LOGS[format]
    streams = [
        b"".join(b"[1,%d]<stdout>:" % rank + line for line in text.splitlines(True)) if tags else text
        for rank in (0, 1)
    ]
    parts = [
        stream.splitlines(True) if lines else [stream[at : at + 1] for at in range(len(stream))] for stream in streams
    ]
    done, out = [0, 0], b""
    for which, count in turns:
        out += b"".join(parts[which][done[which] : done[which] + count])
        done[which] += count
    out += b"".join(b"".join(part[at:]) for part, at in zip(parts, done, strict=True))
    result = of(tmp_path, out, format)
    if lines and tags and format in ("horovod", "tf_cnn_benchmarks"):
        # Whole lines of two ranks that say the same are one run, whatever their order.
        assert {one.throughput for one in result.measurements if isinstance(one, Throughput)} <= {4801.4, 3744.75}


@pytest.mark.parametrize("digits", [20, 60, 5000])
@pytest.mark.parametrize("format", FORMATS)
def test_numbers_of_endless_digits(tmp_path: Path, format: str, digits: int) -> None:
    for number in set(re.findall(rb"\d+", LOGS[format][:20_000])):
        text = re.sub(rb"(?<!\d)%s(?!\d)" % number, b"9" * digits, LOGS[format], count=3)
        of(tmp_path, text, format)


@pytest.mark.parametrize("name", [path.name for path in sorted(SAMPLES.iterdir()) if path.suffix in (".gz", ".txt")])
def test_each_real_log_as_every_format(name: str) -> None:
    for format in FORMATS:
        sound(read_log(SAMPLES / name, format))
