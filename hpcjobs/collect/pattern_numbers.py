"""The figures of one match of a pattern: which number a group stands for, and why some texts are none.

A wrong number is worse than none. Where the text around a group says that the number means something else than its
group, as in `time: 0.31 s` for step_ms, or goes on, as in 1.234,5, the match has no figure, and says why.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpcjobs.collect.pattern import TIMES
from hpcjobs.collect.pattern_cuts import BLANKS, cut

if TYPE_CHECKING:
    import regex


@dataclass(frozen=True)
class Found:
    """The figures of one match; None where a group took no part. `wrong` says which one cannot be read, and why.

    A score may be nan or infinite. `step_ms` is also the figure of the group step_s, in ms.
    """

    throughput: float | None = None
    step_ms: float | None = None
    samples: float | None = None
    step: int | None = None
    score: float | None = None
    wrong: str = ""

    @property
    def is_rate(self) -> bool:
        """Whether a figure of a rate could be read."""
        return not self.wrong and any(each is not None for each in (self.throughput, self.step_ms))


# Thousands are told apart by one kind of sign: 1,234,567 or 1_234 or 1'234 or 1 234 with a space that does not break.
_SIGNS = f",_'\u2019{BLANKS}"
_NUMBER = re.compile(
    rf"[+-]?(?:[1-9]\d{{0,2}}(?:([{_SIGNS}])\d{{3}}(?:\1\d{{3}})*)(?!\d)|\d+|(?=\.\d))(?:\.\d*)?(?:[eE][+-]?\d{{1,4}})?",
    re.ASCII,
)
_NO_SIGNS = str.maketrans("", "", _SIGNS)
_LARGE = {"k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
# `1.5k` and `1.5 K`, and in front of what is counted: `1.5 ktok/s`.
_COUNTED = r"(?:tok|img|image|sample|seq|step|it\b|it/|iter)"
_PREFIX = re.compile(rf"([kKMG])(?![\w=:])|([kKMGT])(?={_COUNTED})| ([kKM])(?![\w=:])| ([kKMGT])(?={_COUNTED})")
# A number that goes on: 1.234,5 and 1.5Ki. A second number with a point behind a comma is the next one of a list.
_GOES_ON = re.compile(r",\d+(?![.\d])|[_'\u2019]\d|[KMG]i(?!\w)")
_TIME = r"\s?(?:{})(?!\w)"
_NOT_MS = re.compile(_TIME.format(r"s|secs?|seconds?|us|\u00b5s|\u03bcs|ns|min|minutes?|hours?") + r"|h(?!\w)|:\d\d")
_NOT_S = re.compile(
    _TIME.format(r"ms|msecs?|milliseconds?|us|\u00b5s|\u03bcs|ns|min|minutes?|hours?") + r"|h(?!\w)|:\d\d"
)
_NAMES_MS, _NAMES_S = (re.compile(rf"(?:\(|\[|_|\b){unit}[\)\]]?\"?'?\s?[:=]?\s*$") for unit in ("ms", "(?:s|sec)"))
_NO_RATE = re.compile(r"\s?(?:ms|s|sec)/[a-z]")
# A rate of another time than a second: `512 img/min`, `512 images per hour`, `img/min: 512`, `img_per_min=512`.
_SLOW = r"(?:/|(?:\b|_)per[ _])\s?(?:mins?|minutes?|h|hrs?|hours?|days?|ms)"
_NOT_PER_S = re.compile(rf"\s?[A-Za-z]{{0,20}}\s?{_SLOW}(?!\w)", re.I)
_NAMES_NOT_PER_S = re.compile(rf"{_SLOW}[)\]]?[\"']?\s?[:=]?\s*$", re.I)
_MINUS = re.compile(r"(?:^|[^\w)\]%-])[-\u2212]$")
# No training is faster or slower: sums of these figures stay finite.
_LEAST, _MOST = 1e-12, 1e18


def figures(match: regex.Match[str]) -> Found:
    """The figures of a match. A rate must be above 0 and finite, a step whole."""
    values: dict[str, Any] = {}
    for group in match.re.groupindex:
        begin, end = match.span(group)
        if begin < 0:
            continue
        value = _value(match, group, begin, end)
        if isinstance(value, str):
            if group == "score":  # A score that is not known yet, such as n/a, does not make the line's rate wrong.
                continue
            return Found(wrong=f"{group} {value}")
        if group in TIMES:
            if "step_ms" in values:
                return Found(wrong="step_ms and step_s stand in one line")
            group, value = "step_ms", value * TIMES[group]
        values[group] = value
    if "samples" in values and "step_ms" not in values:
        return Found(wrong="samples stands in a line without step_ms")
    if "step" in values:
        values["step"] = int(values["step"])
    return Found(**values)


def _value(match: regex.Match[str], group: str, begin: int, end: int) -> float | str:
    """The number of a group, or why there is none.

    A group that ends inside a number, as `[\\d.]+` does in 1,234.5 and `\\d+` in 1.5e3, gets all of it, unless another
    group or a comma stands beside it, as in a table with commas. k, M and G after a number multiply it.
    """
    text = match.string
    while begin < end and text[begin].isspace():
        begin += 1
    # `[\d.,]+` takes the comma after a number, too.
    while begin < end and (text[end - 1].isspace() or text[end - 1] == ","):
        end -= 1
    if begin == end:
        return "is empty"
    if group == "score" and re.fullmatch(r"[+-]?(?:nan|inf(?:inity)?)", text[begin:end], re.I):
        return float(text[begin:end])
    whole = _NUMBER.match(text, begin)
    if whole and whole.end() > end and text[begin - 1 : begin] != "," and not _another(match, end, whole.end()):
        end = whole.end()
    shown = repr(text[begin:end])
    if wrong := _begins_wrong(text[:begin], text[begin], shown) or cut(match, group, begin, end):
        return wrong
    factor = 1.0
    if group in ("throughput", "samples"):
        if text[end - 1] in _LARGE:
            factor, end = _LARGE[text[end - 1]], end - 1
            end -= text[:end].endswith(" ")
        elif prefix := _PREFIX.match(text, end):
            factor = _LARGE[next(filter(None, prefix.groups()))]
    if not _NUMBER.fullmatch(text, begin, end):
        return f"{shown} is not a number"
    if wrong := _ends_wrong(match, group, begin, end):
        return f"{shown} {wrong}"
    number = float(text[begin:end].translate(_NO_SIGNS)) * factor
    if group == "score":
        return number
    if not math.isfinite(number):
        return f"{shown} is not a finite number"
    if group == "step":
        return number if number >= 0 and number.is_integer() else f"{shown} is not the number of a step"
    if number <= 0:
        return f"{shown} is not above 0"
    return number if _LEAST <= number <= _MOST else f"{shown} is not a figure of a training"


def _begins_wrong(before: str, first: str, shown: str) -> str:
    if first.isdigit() and re.search(r"\d\.?$", before, re.ASCII):
        return f"begins inside a number, at {shown}: a greedy .* stands before it? .*? is not greedy"
    if first not in "+-" and _MINUS.search(before):
        return f"begins after the minus of a number, at {shown}: take the minus into the group, as in -?[\\d.]+"
    return ""


def _ends_wrong(match: regex.Match[str], group: str, begin: int, end: int) -> str:
    """Why the text around a number says that it means something else, or ""."""
    text = match.string
    before, after = text[max(0, begin - 20) : begin], text[end:]
    goes_on = _GOES_ON.match(after)
    # The first column of a table, or one between commas, ends at a comma.
    column = after.startswith(",") and (not text[:begin].strip() or before.endswith(",") or match.end() > end)
    if goes_on and not column and not _another(match, end, end + goes_on.end()):
        why = "1,234.5 is a number, 1.234,5 is none; in a list, let the pattern go on to the comma"
        return f"is followed by {goes_on[0]!r}: {why}"
    if group == "throughput" and _NO_RATE.match(after):
        return "is the time of a step and no rate: name the group step_ms or step_s"
    if group == "throughput" and (_NOT_PER_S.match(after) or _NAMES_NOT_PER_S.search(before)):
        return "is not in units a second: hpcjobs does not convert a rate of another time"
    names_ms, names_s = _NAMES_MS.search(before), _NAMES_S.search(before)
    if group == "step_ms" and (_NOT_MS.match(after) or (names_s and not names_ms)):
        return "is not in ms: name the group step_s if it is in s"
    if group == "step_s" and (_NOT_S.match(after) or names_ms):
        return "is not in s: name the group step_ms if it is in ms"
    return ""


def _another(match: regex.Match[str], begin: int, end: int) -> bool:
    """Whether another named group begins between two positions."""
    return any(begin <= match.start(group) < end for group in match.re.groupindex)
