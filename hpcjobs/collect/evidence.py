"""Reads the end of a log and finds the line that says why a run ended."""

from __future__ import annotations

import os
import re
from pathlib import Path

from hpcjobs.base.contract import ERROR_PREFIX
from hpcjobs.base.files import open_plain
from hpcjobs.collect import causes, own_lines

_TAIL_BYTES = 256 * 1024
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")

# A longer line is data, not a message. It is cut, so that it cannot slow the search down.
_LINE_LENGTH = 2000
_SHOWN_LENGTH = 400


def tail(path: Path, size: int = _TAIL_BYTES) -> list[str]:
    """The lines of the last `size` bytes of a file without terminal escapes; empty if it cannot be read."""
    try:
        with open_plain(path) as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - size))
            data = file.read()
    except OSError:
        return []
    lines = data.decode("utf-8", errors="replace").replace("\r", "\n").split("\n")
    return [clean for line in lines if (clean := _ESCAPES.sub("", line[:_LINE_LENGTH]).strip())]


def why(*logs: Path, ends_known: bool = False) -> str:
    """The line that says why, searched in the logs in their order; else the last words of the command itself.

    A message of several lines becomes one line with the parts that matter. Where only the launcher says that a process
    failed, the command's own last words come first. `ends_known`: the launcher's line would say nothing more, because
    the ends of the processes are known.
    """
    read = [tail(path) for path in logs]
    text = "\n".join(line for lines in read for line in lines)
    found = causes.find(text)
    if found is not None and found[0] != causes.LAUNCHER:
        return _shown(text, found[1])
    words = next(filter(None, map(own_lines.last_words, read)), "")[:_SHOWN_LENGTH]
    if found is None:
        return words or next((lines[-1][:_SHOWN_LENGTH] for lines in read if lines), "")
    if words and ends_known:
        return words
    return "; ".join(filter(None, (words, _shown(text, found[1]))))[:_SHOWN_LENGTH]


def _shown(text: str, match: re.Match[str]) -> str:
    """The matched line of a text, or the parts of it that matter."""
    parts = [part for part in match.groupdict().values() if part]
    if parts:
        return " ".join(" ".join(part.split()) for part in parts)[:_SHOWN_LENGTH]
    start = text.rfind("\n", 0, match.start()) + 1
    end = text.find("\n", max(match.start(), match.end() - 1))
    line = text[start : end if end >= 0 else None]
    # A launcher may put a rank before our own message.
    own = line.find(ERROR_PREFIX)
    return " ".join(line[max(own, 0) :].split("\n"))[:_SHOWN_LENGTH]
