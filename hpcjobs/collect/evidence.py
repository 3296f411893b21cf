"""Reads the end of a log and finds the line that says why a run ended."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from hpcjobs.base.contract import ERROR_PREFIX
from hpcjobs.base.files import open_plain
from hpcjobs.collect import causes, chained, own_lines

_TAIL_BYTES = 256 * 1024
# Hundreds of ranks that lose another one print some 10 kB each, and what that one printed stands before.
_MOST_BYTES = 8 * 1024 * 1024
# Colours count even where a log has lost the character that begins them.
_ESCAPES = re.compile(
    r"\x1b\[[0-9;?]*[A-Za-z]|(?:\^\[)?\[(?:[01];)?(?:0|1|2|22|39|[349][0-7]|38;[25];[\d;]{1,11})m(?!in\b|\])|[\x00-\x08\x0b-\x1f\x7f]"
)

# A longer line is data, not a message. It is cut, so that it cannot slow the search down.
_LINE_LENGTH = 2000
_SHOWN_LENGTH = 400
# C++ prints dozens of them for each rank, and none says why.
_FRAME = re.compile(r"(?:^|[\]:] ?)frame #\d+: ")
# Of Python's tracebacks the place; the source line below it may hold the words of any failure.
_PLACE = re.compile(r'(.{0,80}?)File "[^"]+", line \d+(?:, in |$)')
# So many lines that differ in their numbers alone are searched where much is read, but for those of progress.
_ALIKE = 32
_DIGITS = re.compile(r"\d+(?:\.\d+)?")


def tail(path: Path, size: int = _TAIL_BYTES) -> list[str]:
    """The whole lines in the last `size` bytes of a file, without terminal escapes and what is printed of programs.

    That is C++'s stack frames, and the source lines of Python's tracebacks. Empty if the file cannot be read.
    """
    try:
        with open_plain(path) as file:
            file.seek(0, os.SEEK_END)
            begin = max(0, file.tell() - size)
            file.seek(begin)
            data = file.read()
    except OSError:
        return []
    lines = data.decode("utf-8", errors="replace").replace("\r", "\n").split("\n")
    if begin and len(lines) > 1:
        lines = lines[1:]  # the rest of a line
    clean = (_ESCAPES.sub("", line[:_LINE_LENGTH]).rstrip() for line in lines)
    return [line.strip() for line in _without_source(clean) if line and not _FRAME.search(line)]


def _without_source(lines: Iterable[str]) -> Iterator[str]:
    """The lines but for those that a traceback shows of a program: further to the right than the place above them."""
    deeper: str | None = None
    for line in lines:
        if deeper is not None and line.startswith(deeper):
            continue
        place = _PLACE.match(line)
        deeper = f"{place[1]}  " if place and place[1].endswith(" ") else None
        yield line


def why(*logs: Path, ends_known: bool = False) -> str:
    """The line that says why, searched in the logs in their order; else the last words of the command itself.

    A message of several lines becomes one line with the parts that matter. A line that several ranks print is told
    once, with their number. Where only the launcher says that a process failed, the command's own last words come
    first.
    `ends_known`: the launcher's line would say nothing more, because the ends of the processes are known.
    """
    read = [chained.without_superseded(tail(path)) for path in logs]
    text, found = _found(read)
    if found is not None and causes.may_follow(found[0]):
        further = [chained.without_superseded(tail(path, _MOST_BYTES)) for path in logs]
        if further != read:
            read, (text, found) = further, _found(map(_thinned, further))
    lines = [line for lines in read for line in lines]
    if found is not None and causes.is_doubtful(_line(text, found[1])):
        own = next(filter(None, map(own_lines.last_error, read)), "")
        if own:
            return _cut(own)
    if found is not None and found[0] != causes.LAUNCHER:
        return _shown(text, found[1]) + _of_ranks(text, found[1], lines) + _other_nodes(text, found[1])
    order = (own_lines.last_error, own_lines.last_message, own_lines.last_words)
    words = _cut(next((said for each in order for lines in read if (said := each(lines))), ""))
    if found is None:
        return words or _cut(next(filter(None, map(own_lines.last_line, read)), ""))
    if words and ends_known:
        return words
    return _cut("; ".join(filter(None, (words, _shown(text, found[1])))))


def _found(read: Iterable[Sequence[str]]) -> tuple[str, tuple[str, re.Match[str]] | None]:
    """The text of these logs without what ranks repeat, and the class and the line in it that say why."""
    text = "\n".join(_once([line for lines in read for line in lines]))
    return text, causes.find(text)


def _thinned(lines: Sequence[str]) -> list[str]:
    alike: Counter[str] = Counter()
    kept = []
    for line in lines:
        shape = _DIGITS.sub("#", line)
        alike[shape] += 1
        if alike[shape] <= _ALIKE or causes.is_progress(line):
            kept.append(line)
    return kept


def _once(lines: Sequence[str]) -> list[str]:
    """The lines without those that another rank has printed before in the same words."""
    seen: dict[str, int] = {}
    kept = []
    for line in lines:
        rank = causes.label(line)
        if rank is None or seen.setdefault(own_lines.bare(line), rank) == rank:
            kept.append(line)
    return kept


def _line(text: str, match: re.Match[str]) -> str:
    start = text.rfind("\n", 0, match.start()) + 1
    end = text.find("\n", start)
    return text[start : end if end >= 0 else None]


def _of_ranks(text: str, match: re.Match[str], lines: Sequence[str]) -> str:
    """` (8 ranks)` if so many ranks have printed the matched line, but for its numbers; "" if one did."""
    line = _line(text, match)
    if causes.label(line) is None:
        return ""
    told = _DIGITS.sub("#", own_lines.bare(line))
    ranks = {causes.label(each) for each in lines if _DIGITS.sub("#", own_lines.bare(each)) == told} - {None}
    return f" ({len(ranks)} ranks)" if len(ranks) > 1 else ""


def _other_nodes(text: str, match: re.Match[str]) -> str:
    """The lines of the other nodes that srun could not reach either."""
    if not causes.is_no_answer(match[0]):
        return ""
    named = dict.fromkeys(node for line in text.split("\n") if causes.is_no_answer(line) for node in causes.nodes(line))
    first = list(causes.nodes(match[0]))
    return "".join(f"; failed on node {node}: the same" for node in named if node not in first)


def _cut(line: str, said: str = "") -> str:
    """At most _SHOWN_LENGTH characters of a line: its beginning and its end, or `said` where that stands further on."""
    if len(line) <= _SHOWN_LENGTH:
        return line
    at = line.find(said)
    if at < _SHOWN_LENGTH // 4:
        return f"{line[: _SHOWN_LENGTH // 2]} ... {line[5 - _SHOWN_LENGTH // 2 :]}"
    return f"{line[: _SHOWN_LENGTH // 4]} ... {line[at:]}"[:_SHOWN_LENGTH]


def _shown(text: str, match: re.Match[str]) -> str:
    """The matched line of a text, or the parts of it that matter."""
    parts = [part for part in match.groupdict().values() if part]
    if parts:
        return _cut(" ".join(" ".join(part.split()) for part in parts))
    start = text.rfind("\n", 0, match.start()) + 1
    end = text.find("\n", max(match.start(), match.end() - 1))
    line = text[start : end if end >= 0 else None]
    # A launcher may put a rank before our own message.
    own = line.find(ERROR_PREFIX)
    if own < 0 and "\n" not in line:
        line = own_lines.whole(text, start, max(0, match.start() - start)).removeprefix("| ")
    return _cut(" ".join(line[max(own, 0) :].split("\n")), match[0].partition("\n")[0])
