"""Whether a group of a pattern begins or ends inside a number with thousands, such as 386.2 of 36,386.2.

A pattern may have matched the sign before the group on purpose: `\\d+,(?P<throughput>\\d+)` reads a table with commas.
So what the pattern writes beside its group decides: a number and the sign. A wildcard such as `.*` says nothing.

A plain blank stands between thousands and between two numbers. It is a part of the number if one to three digits, and
groups of three after them, are all that stands there; unless a word such as step counts with the first of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import regex

# Blanks that do not break: no-break, narrow no-break and thin.
BLANKS = "\u00a0\u202f\u2009"
_SIGNS = f",_'\u2019{BLANKS} "
_BEFORE = re.compile(rf"(?<![\w.])[1-9]\d{{0,2}}([{_SIGNS}])(?:\d{{3}}\1)*$", re.ASCII)
_DECIMAL_BEFORE = re.compile(r"(?<![\w.])\d+,$", re.ASCII)
_THREE = re.compile(r"\d{3}(?!\d)", re.ASCII)
_FIRST = re.compile(r"[1-9]\d{0,2}", re.ASCII)
_AFTER = re.compile(r" \d{3}(?: \d{3})*(?:\.\d*)?(?!\w|[/:,. ]\d|%)", re.ASCII)
# A word that counts with the number after it: in `step 10 200.5` the blank is no part of a number.
_COUNTS = re.compile(
    r"(?:steps?|iter\w*|it|epochs?|ep|batch(?:es)?|ranks?|gpus?|nodes?|worker|step/s)\b[\"']?\s?[:=#]?\s*$", re.I
)
# A number and then the sign, as a pattern writes them before a group, and a blank and a number behind one.
_DIGITS = r"(?:\\d|\[[^\]^]*(?:\\d|0-9)[^\]]*\]|\d)[+*?]*(?:\{[\d,]*\})?"
_WRITES_BEFORE = re.compile(rf"{_DIGITS}\)?(?:\\s|\\?[{_SIGNS}])(?:[+*?]|\{{[\d,]*\}})*$")
_WRITES_AFTER = re.compile(rf"[^()]*\)(?:\\s|\\? )[+*?]*(?:\(\?:|\()?{_DIGITS}")


def cut(match: regex.Match[str], group: str, begin: int, end: int) -> str:
    """Why the number of a group, from begin to end of the line, is a part of a larger one, or ""."""
    if group == "score":
        return ""
    text = match.string
    before = _BEFORE.search(text, max(0, begin - 40), begin)
    grouped = before is not None and _THREE.match(text, begin) is not None and not _list(text, group, before)
    if before is not None and grouped and not _begins_apart(match, group, begin, before[1]):
        return _inside("begins", text[before.start() : end], before[1] == " ")
    decimal = _DECIMAL_BEFORE.search(text, max(0, begin - 40), begin)
    if decimal is not None and text[begin:end].isdecimal() and not _begins_apart(match, group, begin, ","):
        return _inside("begins", text[decimal.start() : end], False)
    after = _AFTER.match(text, end)
    if after is None or group == "step" or not _FIRST.fullmatch(text, begin, end):
        return ""
    if any(end <= match.start(each) < after.end() for each in match.re.groupindex) or _all(_writes_after, match, group):
        return ""
    return _inside("ends", text[begin : after.end()], True)


def _inside(where: str, number: str, blank: bool) -> str:
    why = f"{where} inside a number: the group should match all of {number!r}"
    if blank:
        return f"{why}, without the blank; if these are two numbers, the pattern should match both, as in \\d+ [\\d.]+"
    return why


def _list(text: str, group: str, before: re.Match[str]) -> bool:
    """Whether the sign before a number stands between two of them, and not within one."""
    begin, sign = before.start(), before[1]
    if begin > 1 and text[begin - 1] == sign and text[begin - 2].isdecimal():
        return True
    return sign == " " and (group == "step" or _COUNTS.search(text, max(0, begin - 20), begin) is not None)


def _begins_apart(match: regex.Match[str], group: str, begin: int, sign: str) -> bool:
    """Whether the pattern says that another number ends before the sign in front of a group."""
    if any(match.end(each) == begin - 1 for each in match.re.groupindex):
        return True
    return _all(lambda pattern, at: _writes_before(pattern, at, sign), match, group)


def _writes_before(pattern: str, at: re.Match[str], sign: str) -> bool:
    written = pattern[: at.start()]
    # `[^,]*,` skips the columns of a table with commas.
    return (sign == "," and "[^,]" in written) or _WRITES_BEFORE.search(written) is not None


def _writes_after(pattern: str, at: re.Match[str]) -> bool:
    return _WRITES_AFTER.match(pattern, at.end()) is not None


def _all(writes: Callable[[str, re.Match[str]], bool], match: regex.Match[str], group: str) -> bool:
    """Whether a pattern writes something at each place where it has the group."""
    pattern = match.re.pattern
    places = list(re.finditer(rf"\(\?P?<{group}>", pattern))
    return bool(places) and all(writes(pattern, at) for at in places)
