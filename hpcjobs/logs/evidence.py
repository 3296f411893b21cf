"""The line of a log that says why a run ended."""

from __future__ import annotations

import os
import re
from pathlib import Path

from hpcjobs.contract import ERROR_PREFIX

_TAIL_BYTES = 256 * 1024
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")

# A line longer than this is data, not a message; cut, it cannot slow the search down.
_LINE_LENGTH = 2000
_SHOWN_LENGTH = 400

# The first pattern that any line matches wins; of its matches, the first line: what came first is
# the cause, what followed (ranks torn down by the launcher) the effect.
_PATTERNS = (
    re.compile(re.escape(ERROR_PREFIX)),
    re.compile(r"DUE TO (TIME LIMIT|NODE FAILURE|PREEMPTION)"),
    re.compile(r"^hpcjobs: SIG[A-Z0-9]+: ended after step"),
    re.compile(r"oom[-_]kill|[Oo]ut [Oo]f [Mm]emory|\bOOM\b|MemoryError|exceeded .*memory limit", re.ASCII),
    re.compile(r"\bNCCL (WARN|error)"),
    re.compile(r"^(\[\d+,\d+\]<stderr>:)?\w[\w.]*(Error|Exception|Interrupt)\b"),
    re.compile(r"exited on signal|Segmentation fault|Killed$"),
    re.compile(r"MPI_ABORT was invoked|MPI_ERR_|Primary job +terminated"),
    re.compile(r"(slurmstepd\S*|srun|mpirun|sbatch): error:"),
    re.compile(r"command not found|No such file or directory|Permission denied|No space left on device"),
)


def tail(path: Path, size: int = _TAIL_BYTES) -> list[str]:
    """Lines of the last `size` bytes of a file, without terminal escapes; none where it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - size))
            data = file.read()
    except OSError:
        return []
    lines = data.decode("utf-8", errors="replace").replace("\r", "\n").split("\n")
    return [clean for line in lines if (clean := _ESCAPES.sub("", line[:_LINE_LENGTH]).strip())]


def why(*logs: Path) -> str:
    """The line that says why, of the given logs in the order of preference; else their last line."""
    read = [tail(path) for path in logs]
    for pattern in _PATTERNS:
        for lines in read:
            for line in lines:
                if match := pattern.search(line):
                    # Our own message may stand behind a launcher's rank prefix.
                    start = match.start() if match[0] == ERROR_PREFIX else 0
                    return line[start : start + _SHOWN_LENGTH]
    return next((lines[-1][:_SHOWN_LENGTH] for lines in read if lines), "")
