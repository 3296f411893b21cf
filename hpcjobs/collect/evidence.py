"""The line of a log that says why a run ended."""

from __future__ import annotations

import os
import re
from pathlib import Path

from hpcjobs.base.contract import ERROR_PREFIX
from hpcjobs.base.files import open_plain
from hpcjobs.collect import causes

_TAIL_BYTES = 256 * 1024
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")

# A line longer than this is data, not a message; cut, it cannot slow the search down.
_LINE_LENGTH = 2000
_SHOWN_LENGTH = 400


def tail(path: Path, size: int = _TAIL_BYTES) -> list[str]:
    """Lines of the last `size` bytes of a file, without terminal escapes; none where it cannot be read."""
    try:
        with open_plain(path) as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - size))
            data = file.read()
    except OSError:
        return []
    lines = data.decode("utf-8", errors="replace").replace("\r", "\n").split("\n")
    return [clean for line in lines if (clean := _ESCAPES.sub("", line[:_LINE_LENGTH]).strip())]


def why(*logs: Path) -> str:
    """The line that says why, of the given logs in the order of preference; else their last line.

    Of a message of several lines it has what matters, in one.
    """
    read = [tail(path) for path in logs]
    text = "\n".join(line for lines in read for line in lines)
    found = causes.find(text)
    if found is None:
        return next((lines[-1][:_SHOWN_LENGTH] for lines in read if lines), "")
    _, match = found
    parts = [part for part in match.groupdict().values() if part]
    if parts:
        return " ".join(" ".join(part.split()) for part in parts)[:_SHOWN_LENGTH]
    start = text.rfind("\n", 0, match.start()) + 1
    end = text.find("\n", max(match.start(), match.end() - 1))
    line = text[start : end if end >= 0 else None]
    # Our own message may stand behind a launcher's rank prefix.
    own = line.find(ERROR_PREFIX)
    return " ".join(line[max(own, 0) :].split("\n"))[:_SHOWN_LENGTH]
