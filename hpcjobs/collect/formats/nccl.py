"""Tables of nccl-tests and rccl-tests, 1.x to 2.18.

    # Collective test starting: all_gather_perf     since 2.17; in older logs the command line may name the test
    #  Rank  0 Group  0 Pid 1668270 on  host device  0 [000f:01:00] NVIDIA GB10
    #                                    out-of-place                       in-place
    #       size         count      type   redop    root     time   algbw   busbw  #wrong     time   algbw  ...
    #        (B)    (elements)                               (us)  (GB/s)  (GB/s)             (us)  (GB/s) ...
       536870912      67108864     float    none      -1  14594.4   36.79   18.39       0  13778.0   38.97  ...

The header says which columns there are: no root before 2.11, no redop for some operations, error for #wrong. Times
are in milliseconds if no line of units says (us). A build without MPI that mpirun starts N times prints N tables of
one process each.
"""

from __future__ import annotations

import math
import re

from hpcjobs.collect.formats.reader import Copies, Findings, FormatReader
from hpcjobs.collect.lines import Line
from hpcjobs.collect.measurements import Bandwidth

_TYPES = (
    *("float", "double", "half", "int8", "uint8", "int32", "uint32", "int64", "uint64", "bfloat16", "char", "int"),
    *("f8e4m3", "f8e5m2", "fp8_e4m3", "fp8_e5m2"),
)
_NAME = re.compile(r"\b([a-z][a-z_]*)_perf(?:_mpi)?\b")
# Copies in Markdown lose the # of a first line.
_RANK = re.compile(
    r"(?:#|^)\s+Rank\s+(\d+)(?: +Group +\d+)?(?: +Pid +\d+)? +on +(\S+) +device +\d+ \[[^\]]*\] *(.*\S)?"
)
_HEADER = re.compile(r"#\s+(?:size|bytes)\s.*\bbusbw\b")
_SIZES = re.compile(r"nThread (\d+) nGpus (\d+)")
_START = re.compile(r"# (?:nThread|Collective test starting)|(?:nccl|rccl)-tests(?: version|:)")
_ROW = re.compile(rf"(?:^|\s)(\d+\s+\d+\s+(?:{'|'.join(_TYPES)})\s.*)")


class NcclReader(FormatReader):
    """Reads the logs that the text at the top of this file describes."""

    name = "nccl-tests"
    needles = (b"#", b"_perf", b"  Rank ", b"nThread", *(f" {name} ".encode() for name in _TYPES))

    def __init__(self, findings: Findings) -> None:
        super().__init__(findings)
        self.op = ""
        self.told = False  # whether a missing rank was told
        self.named = False  # whether a line after the last row names the operation
        self._reset()

    def _reset(self) -> None:
        self.columns: list[str] = []
        self.rows = Copies()
        self.ms = True
        self.ranks: dict[int, str] = {}
        self.hosts: set[str] = set()
        self.gpu_model = ""
        self.copies = False
        self.each = 1  # ranks of a process

    def take(self, line: Line) -> None:
        text = line.text
        if match := _ROW.search(text) if self.columns else None:
            if not self.rows.is_copy(line):
                self._row(line.number, match[1].split())
        elif match := _RANK.search(text):
            rank = int(match[1])
            if rank in self.ranks and self.ranks[rank] != text and not self.copies:
                self.copies = True
                self.findings.problem(line.number, "several processes print separate tables: perhaps built without MPI")
            self.ranks[rank] = text
            self.hosts.add(match[2])
            self.gpu_model = (match[3] or "").strip()
        elif _HEADER.search(text):
            self.columns = text[text.index("#") + 1 :].replace("# wrong", "#wrong").split()
            self.ms = True
        elif "(us)" in text:
            self.ms = False
        elif _START.search(text):
            if self.columns:
                self._reset()
                self.op = self.op if self.named else ""
            if match := _SIZES.search(text):
                self.each = int(match[1]) * int(match[2])
            self._name(text)
        else:
            self._name(text)

    def _name(self, text: str) -> None:
        if match := _NAME.search(text):
            self.op, self.named = match[1], True

    def _ranks(self) -> int | None:
        """The number of ranks: those listed, if none is missing among them, else what the launcher says."""
        if self.ranks and set(self.ranks) == set(range(len(self.ranks))):
            return len(self.ranks)
        if not self.ranks:
            return None
        world = self.findings.world.resolve(self.findings.at).gpus
        ranks = world * self.each if world else None
        if not self.told:
            self.told = True
            missing = next(rank for rank in range(len(self.ranks) + 1) if rank not in self.ranks)
            count = f"{ranks} of the launcher count" if ranks else "their number is not known"
            self.findings.problem(self.findings.at, f"the list of ranks lacks rank {missing}: {count}")
        return ranks

    def _row(self, number: int, figures: list[str]) -> None:
        self.named = False
        ranks = self._ranks()
        columns = self.columns
        head = dict(zip(columns, figures, strict=False))
        root = _whole(head.get("root", ""))
        groups = [at for at in range(len(columns)) if columns[at + 1 : at + 3] == ["algbw", "busbw"]]
        for at, in_place in zip(groups, (False, True), strict=False):
            try:
                time, algbw, busbw = map(float, figures[at : at + 3])
            except ValueError:  # cut off, or N/A
                continue
            if not (0 < time < math.inf and 0 <= algbw < math.inf and 0 <= busbw < math.inf):
                continue
            counts = columns[at + 3 : at + 4] in (["#wrong"], ["error"])
            self.findings.measurements.append(
                Bandwidth(
                    source=self.findings.path,
                    line=number,
                    format=self.name,
                    op=self.op,
                    size=int(figures[0]),
                    time_us=1000 * time if self.ms else time,
                    algbw=algbw,
                    busbw=busbw,
                    in_place=in_place,
                    dtype=head.get("type", ""),
                    redop=head.get("redop", head.get("op", "")).replace("none", ""),
                    root=None if root == -1 else root,
                    wrong=_whole(figures[at + 3]) if counts and at + 3 < len(figures) else None,
                    ranks=ranks,
                    nodes=len(self.hosts) or None,
                    gpu_model=self.gpu_model,
                    device="gpu",
                    missing=tuple(name for name, known in (("op", self.op), ("ranks", ranks)) if not known),
                )
            )

    def close(self) -> None:
        if self.findings.measurements and not self.op:
            self.findings.problem(0, "the log does not say which operation was tested")


def _whole(text: str) -> int | None:
    return int(text) if re.fullmatch(r"-?\d+", text) else None
