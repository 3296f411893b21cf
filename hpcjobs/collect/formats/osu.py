"""Tables of the OSU micro-benchmarks, 3.x to 7.x: collectives and point to point.

    # OSU MPI-CUDA Allreduce Latency Test v7.0      MPI, MPI-CUDA, MPI-ROCM, NCCL, ...
    # Size       Avg Latency(us)   Min Latency(us)   Max Latency(us)  Iterations
    16777216             8630.58           8619.50           8642.46         10

The title of a build for GPUs (MPI-CUDA, MPI-ROCM) does not say where the buffers are. Their words do: `# Send Buffer on
DEVICE (D)`, or D D, H H and -d cuda of the command line. A megabyte is 10^6 bytes. The tables do not give the number of
ranks, but the launcher may; point-to-point tests have two.
"""

from __future__ import annotations

import math
import re

from hpcjobs.collect.formats.reader import Copies, Findings, FormatReader
from hpcjobs.collect.lines import Line, parts, unstamped
from hpcjobs.collect.measurements import Bandwidth

_TITLE = re.compile(r"# OSU ([A-Za-z]+\d?)(?:-(\w+))?([ _].+?) Test\b")
_ROW = re.compile(r"\s*-?\d[\d.]*(?:e[+-]?\d+)?(?:\s+(?:-?\d[\d.]*(?:e[+-]?\d+)?|Pass|Fail|-|nan))*\s*$", re.I)
_PAIRS = re.compile(r"\[ *pairs: *(\d+) *\]")
_BUFFERS = re.compile(r"# Send Buffer on (HOST|DEVICE) \([HD]\) and Receive Buffer on (HOST|DEVICE)")
_COMMAND = re.compile(r"\bosu_\w+\b(?P<options>[^|;>]*)")
# Titles of builds whose buffers are always the host's, and of those that always are on GPUs.
_HOST, _DEVICE = ("MPI", "MPI2", "MPI3", "OPENSHMEM", "UPC", "UPC++"), ("NCCL", "RCCL", "XCCL")
_OPS = {
    "allreduce": "all_reduce",
    "allgather": "all_gather",
    "allgatherv": "all_gatherv",
    "bcast": "broadcast",
    "all-to-all personalized exchange": "alltoall",
    "all-to-allv personalized exchange": "alltoallv",
    "bi-directional bandwidth": "bi_bandwidth",
    "multiple bandwidth / message rate": "multi_bandwidth",
}
# Tests with exactly two ranks: point to point, and one-sided.
_PAIRED = re.compile(r"(?:bi_)?bandwidth|latency|(?:put|get)_\w+|(?:acc|accumulate|get_accumulate|cas|fop)_latency")


def _operation(title: str) -> str:
    """The operation in a test's title. A collective's has no `latency` or `bandwidth` at its end."""
    name = title.strip(" _").lower()
    begin = "non_blocking_" if name.startswith("non-blocking ") else ""
    name = name.removeprefix("non-blocking ")
    short = name.removesuffix(" latency").removesuffix(" bandwidth")
    paired = title.startswith("_") or short in ("latency", "bandwidth", "bi-directional", "multi", "multi-threaded")
    word = name if paired or short == "multiple bandwidth / message rate" else short
    return begin + _OPS.get(word, re.sub(r"\W+", "_", word).strip("_"))


class OsuReader(FormatReader):
    """Reads the logs that the text at the top of this file describes."""

    name = "osu"

    def __init__(self, findings: Findings) -> None:
        super().__init__(findings)
        self.op = self.device = ""
        self.begun = 0  # line of the newest title
        self.command = ""  # options of the newest command line
        self.ranks: int | None = None
        self.columns: list[str] = []
        self.rows = Copies()
        self.titled: set[str] = set()  # ranks that have printed this table's title

    def feed(self, first: int, block: bytes, sign: int = 0) -> None:
        for number, raw in enumerate(block.split(b"\n"), first):
            # Lines of tables are short. Until a header was read, only a line with # can matter.
            if 0 < len(raw) < 400 and (self.columns or b"#" in raw or b"osu_" in raw):
                for line in parts(raw, number):
                    self.take(line)

    def take(self, line: Line) -> None:
        if "# OSU " in line.text:
            match = _TITLE.search(line.text)
            self.op = _operation(match[3]) if match else ""
            kind = f"{match[1]} {match[2] or ''}".upper() if match else ""
            self.device = self._device(kind.split())
            # A command line is of the table after it, and of no other.
            self.command, self.findings.world.apart, self.begun = "", self.begun, line.number
            self.ranks = 2 if _PAIRED.fullmatch(self.op) else None
            if line.rank in self.titled:  # The same rank prints it again: a new table.
                self.rows, self.titled = Copies(), set()
            self.titled.add(line.rank)
            self.columns = []
        elif match := _BUFFERS.search(line.text):
            both = {match[1], match[2]}
            self.device = "gpu" if both == {"DEVICE"} else "cpu" if both == {"HOST"} else ""
        elif match := _COMMAND.search(line.text):
            self.command = match["options"]
        elif match := _PAIRS.search(line.text):
            self.ranks = 2 * int(match[1])
        elif self.op and re.match(r"#\s*(Size|Avg|Overall)\b", text := unstamped(line.text).strip()):
            self.columns = [_column(name) for name in re.split(r"\s{2,}|\t+| (?=Messages/s|MB/s)", text[1:].strip())]
        elif self.columns and _ROW.match(text := unstamped(line.text)) and not self.rows.is_copy(line):
            self._row(line.number, text.split())

    def _device(self, kind: list[str]) -> str:
        """Where the buffers are by the words of the title and of the command; "" if they do not say."""
        if not kind:
            return ""
        if len(kind) == 1 and kind[0] in _HOST:
            return "cpu"
        words = self.command.split()
        if kind[0] in _DEVICE or words[-2:] == ["D", "D"]:
            return "gpu"
        collective = _PAIRED.fullmatch(self.op) is None
        if collective and re.search(r"(?:^|\s)-d +(?:cuda|rocm|openacc|managed)\b", self.command):
            return "gpu"
        return "cpu" if words[-2:] == ["H", "H"] else ""

    def _row(self, number: int, figures: list[str]) -> None:
        if len(figures) < min(2, len(self.columns)) or len(figures) > len(self.columns):
            return
        row = dict(zip(self.columns, figures, strict=False))
        size, time, rate = row.get("size"), _number(row, "time_us"), _number(row, "rate")
        if (size is not None and not size.isdigit()) or (time is None and rate is None):
            return
        ranks = self.ranks or self.findings.world.resolve(number).gpus
        missing = tuple(name for name, known in (("ranks", ranks), ("device", self.device)) if not known)
        self.findings.measurements.append(
            Bandwidth(
                source=self.findings.path,
                line=number,
                format=self.name,
                op=self.op,
                size=int(size) if size else None,
                time_us=time,
                algbw=None if rate is None else rate / 1000,
                min_us=_number(row, "min_us"),
                max_us=_number(row, "max_us"),
                ranks=ranks,
                device=self.device,
                missing=missing,
            )
        )


def _number(row: dict[str, str], name: str) -> float | None:
    try:
        value = float(row.get(name, ""))
    except ValueError:
        return None
    return value if 0 <= value < math.inf else None


def _column(name: str) -> str:
    name = name.lower()
    for begin, column in (
        ("size", "size"),
        ("min", "min_us"),
        ("max", "max_us"),
        ("avg lat", "time_us"),
        ("latency", "time_us"),
        ("overall", "time_us"),
        ("bandwidth", "rate"),
        ("mb/s", "rate"),
    ):
        if name.startswith(begin):
            return column
    return name
