"""Short ways to read a log's text in tests."""

from __future__ import annotations

import re
from pathlib import Path

from hpcjobs.collect.measurements import Bandwidth, LogResult, Throughput
from hpcjobs.collect.reading import read_log

SAMPLES = Path(__file__).parent / "samples"


def read(folder: Path, text: str | bytes, *, format: str | None = None, gpus_from: str | None = None) -> LogResult:
    path = folder / "some.log"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_log(path, format, re.compile(gpus_from) if gpus_from else None)


def one(result: LogResult) -> Throughput:
    (measured,) = result.measurements
    assert isinstance(measured, Throughput)
    return measured


def table(result: LogResult) -> list[Bandwidth]:
    rows = [row for row in result.measurements if isinstance(row, Bandwidth)]
    assert len(rows) == len(result.measurements)
    return rows


def reasons(result: LogResult) -> str:
    return "; ".join(problem.reason for problem in result.problems)
