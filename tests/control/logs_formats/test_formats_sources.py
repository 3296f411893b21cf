"""Logs that are compressed, in other encodings, cut off or binary; and the options of how to read them."""

from __future__ import annotations

import gzip
import os
import re
from pathlib import Path

import pytest

from hpcjobs.base.errors import InputError
from hpcjobs.collect import reading
from hpcjobs.collect.measurements import Throughput
from hpcjobs.collect.reading import FORMATS, read_log
from hpcjobs.collect.sources import Source
from tests.control.logs_formats.reading import SAMPLES, one, read, reasons
from tests.control.logs_formats.test_formats_horovod import RUN

TOTAL = 4801.4


@pytest.mark.parametrize(
    "data",
    [
        RUN.encode("utf-16"),
        RUN.encode("utf-16-le"),
        RUN.encode("utf-16-be"),
        b"\xef\xbb\xbf" + RUN.encode(),
        ("# Läufe auf dem Knöten\n" + RUN).encode("latin-1"),
        RUN.replace("\n", "\r\n").encode(),
        b"\x00" * 4096 + b"\n" + RUN.encode(),
        gzip.compress(RUN.encode()),
        gzip.compress(RUN.encode("utf-16")),
        RUN.encode() + b"no end of line",
        b"progress 1%\rprogress 2%\r" + RUN.encode(),
    ],
    ids=[
        "utf-16",
        "utf-16-le",
        "utf-16-be",
        "utf-8-sig",
        "latin-1",
        "crlf",
        "zeros",
        "gzip",
        "gzip utf-16",
        "cut",
        "cr",
    ],
)
def test_the_bytes_of_a_log(tmp_path: Path, data: bytes) -> None:
    assert one(read(tmp_path, data)).throughput == TOTAL


def test_zero_bytes_are_reported(tmp_path: Path) -> None:
    assert "96 of its bytes are zero" in reasons(read(tmp_path, RUN.encode() + b"\x00" * 96))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"hello\n" * 9, "no line of a known format: hpcjobs, mlperf, horovod"),
        (bytes(range(256)) * 64, "binary: not a text file"),
        (gzip.compress(b""), "empty"),
        (b"\x1f\x8bnot gzip at all", "compressed data is damaged"),
    ],
)
def test_a_log_without_a_figure_has_a_reason(tmp_path: Path, data: bytes, reason: str) -> None:
    result = read(tmp_path, data)
    assert result.measurements == ()
    assert reason in reasons(result)


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    assert reasons(read_log(tmp_path / "nowhere")) == "cannot be read: No such file or directory"
    assert reasons(read_log(tmp_path)) == "a folder, not a log"
    os.mkfifo(tmp_path / "pipe")
    assert reasons(read_log(tmp_path / "pipe")) == "not a regular file"


def test_a_compressed_log_that_is_cut_off_gives_its_whole_part(tmp_path: Path) -> None:
    text = RUN + "".join(f"chatter {number * 7919 % 104729}\n" for number in range(200_000))
    result = read(tmp_path, gzip.compress(text.encode())[:-2000])
    assert one(result).throughput == TOTAL
    assert "cut off" in reasons(result)


def test_a_line_without_an_end_is_skipped_in_flat_memory(tmp_path: Path) -> None:
    result = read(tmp_path, b"x" * (5 << 20) + b"\n" + RUN.encode())
    assert one(result).throughput == TOTAL
    assert one(result).line == 7
    assert "longer than 1048576 bytes" in reasons(result)


def test_line_numbers_count_line_feeds(tmp_path: Path) -> None:
    filler = b"0123456789\r0123\n" * 200_000  # more than three blocks
    assert one(read(tmp_path, filler + RUN.encode())).line == 200_006


def test_a_format_that_is_detected_late_reads_the_lines_before(tmp_path: Path) -> None:
    head, body = RUN[: RUN.index("Running w")], RUN[RUN.index("Running w") :]
    measured = one(read(tmp_path, head + "chatter\n" * 300_000 + body))
    assert (measured.gpus, measured.local_batch, measured.model) == (8, 32, "ResNet50")


def test_a_given_format_is_used(tmp_path: Path) -> None:
    both = RUN + "Epoch[0] Batch [20]\tSpeed: 100.5 samples/sec\n"
    assert read(tmp_path, both).format == "horovod"
    assert one(read(tmp_path, both, format="mxnet")).throughput == pytest.approx(100.5)
    assert reasons(read(tmp_path, RUN, format="osu")) == "no line of the format osu that gives a figure"
    with pytest.raises(InputError, match="did you mean 'horovod'"):
        read(tmp_path, RUN, format="horovodd")


def test_a_regular_expression_of_one_group(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has 2 groups"):
        read(tmp_path, RUN, gpus_from="(a)(b)")
    result = read_log(SAMPLES / "ngc_gpu8.txt.gz", None, re.compile(r"nodes(\d+)"))
    assert one(result).gpus == 8
    assert "finds no number of GPUs in the path" in reasons(result)


def test_every_format_has_a_reader_and_a_description() -> None:
    assert {reading._reader(name).name for name in FORMATS} == set(FORMATS)
    assert all(about and "\n" not in about for about in FORMATS.values())


def test_blocks_are_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "x"
    text = b"".join(b"%d\n" % number for number in range(400_000)) + b"end"
    path.write_bytes(text)
    blocks = list(Source(path).blocks())
    assert b"".join(block for _, block in blocks) == text
    assert all(block.endswith(b"\n") for _, block in blocks[:-1])
    assert [number for number, _ in blocks] == [int(block.split(b"\n", 1)[0] or 0) + 1 for _, block in blocks[:-1]] + [
        400_001
    ]


def test_memory_stays_flat_however_many_windows(tmp_path: Path) -> None:
    lines = "".join(f"Iter #{number}: {600 + number % 3}.0 img/sec per GPU\n" for number in range(100_000))
    (measured,) = read(tmp_path, "Number of GPUs: 2\n" + lines).measurements
    assert isinstance(measured, Throughput)
    assert measured.steady is not None
    assert measured.steady.windows < 8192
    assert measured.steady.lines * (measured.steady.windows + measured.steady.warmup) == pytest.approx(
        100_000, rel=0.001
    )
    assert measured.per_gpu == pytest.approx(601, rel=0.0001)
