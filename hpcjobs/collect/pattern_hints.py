"""Lines of a log that look like a rate, for a user whose pattern matches none."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from hpcjobs.collect.lines import Line
from hpcjobs.collect.pattern import Pattern
from hpcjobs.collect.pattern_log import texts
from hpcjobs.collect.sources import Source

# A number beside a word of a rate, and beside a word that stands in the same lines.
_RATE = re.compile(
    r"(?i)\d ?(?:s/it|it/s|[a-z]*(?:samples|tokens|tok|images|imgs?|sequences|seqs?|steps|examples)(?:/| per )s)"
    r"|(?:throughput|speed|(?:samples|tokens|tok|images|img|steps|it)[ _]?(?:per|/)[ _]?s\w*|tps"
    r"|(?:step|iteration|batch)[_ ](?:time|avg)|elapsed time per iteration|ms/step)\b[^\w\n]{0,20}[\d(]"
)
_OTHER = re.compile(r"(?i)\b(?:loss|tokens|iteration|iter|step)\b[^\n]{0,40}?\d")
_NUMBERS = re.compile(r"\d[\d.,]*(?:e[+-]?\d+)?")
# Of so many matches the usual warm-up is no more than a tenth.
_FEW = 10 * Pattern.warmup
# Lines that are shown, of each kind; lines that differ in their numbers alone are shown once.
_SHOWN = 4
_LENGTH = 200


# A rate before its unit (but after a colon behind the unit stands the rate itself), a rate after its name,
# and a time of a step in either order.
_UNIT = r"(?P<unit>samples|tokens|tok|images|imgs?|sequences|seqs?|examples|steps|it)"
_BEFORE = re.compile(rf"(?i)\d[\d.,]* ?(?P<words>{_UNIT}(?:/| per )s(?:ec(?:ond)?)?)\b(?!\s*[:=])")
_AFTER = re.compile(
    rf"(?i)(?P<words>\b(?:throughput|speed|tps|{_UNIT}[ _]?(?:per|/)[ _]?s(?:ec(?:ond)?)?)\b[^\w\n]{{0,4}})\d"
)
_STEP = re.compile(
    r"(?i)(?P<words>\b(?:step|iteration|batch|iter)[ _](?:time|avg)(?: ?\(m?s\))?[^\w\n]{0,4}"
    r"|elapsed time per iteration \(ms\): ?)\d[\d.,]* ?(?P<in>ms|s)?\b"
)
_BETWEEN = re.compile(r" +\d")
_OF_ONE = re.compile(r"(?i) ?(?:/|per) ?(?:gpu|device|rank)\b")
_UNITS = {"tok": "tokens", "img": "images", "imgs": "images", "seq": "sequences", "seqs": "sequences", "it": "steps"}


def suggested(text: str) -> tuple[str, str]:
    """(a pattern that reads a line like this one, its further options), both empty if no figure has clear words."""
    if (match := _BEFORE.search(text)) and _BETWEEN.match(text, match.end()):
        return "", ""  # Whether the number before or after the unit is the rate, is not known.
    if match:
        unit = match["unit"].lower()
        words = re.escape(match["words"]).replace(r"\ ", " ").replace(r"\/", "/")
        of = " --of rank" if _OF_ONE.match(text, match.end()) else ""
        return f"(?P<throughput>[\\d.,]+) ?{words}", f"--unit {_UNITS.get(unit, unit)}{of}"
    if match := _AFTER.search(text):
        unit = (match["unit"] or "samples").lower()
        words = re.escape(match["words"]).replace(r"\ ", " ").replace(r"\/", "/")
        return f"{words}(?P<throughput>[\\d.,]+)", f"--unit {_UNITS.get(unit, unit)}"
    if match := _STEP.search(text):
        group = "step_ms" if match["in"] == "ms" or "(ms)" in match["words"] else "step_s"
        words = re.escape(match["words"]).replace(r"\ ", " ")
        return f"{words}(?P<{group}>[\\d.,]+)", "--batch N"
    return "", ""


def suggested_for(path: Path, likely: Sequence[Line]) -> str:
    """The options that read a log by the first of its likely lines that has clear words, empty if none has.

    Of a log with few such lines the usual warm-up would leave out most: one in ten is.
    """
    pattern, options = next((found for each in likely if (found := suggested(each.text))[0]), ("", ""))
    if not pattern:
        return ""
    words, count = re.compile(pattern), 0
    for number, block in Source(path).blocks():
        count += sum(words.search(each.text) is not None for each, _ in texts(block, number))
        if count > _FEW:
            return f"--pattern {shlex.quote(pattern)} {options}"
    return f"--pattern {shlex.quote(pattern)} {options} --warmup {-(-count // 10) if count > 1 else 0}"


def likely_lines(path: Path) -> list[Line]:
    """Up to four lines with a rate; if there is none, up to four that hold a number beside loss, step and the like."""
    rates: dict[str, Line] = {}
    others: dict[str, Line] = {}
    source = Source(path)
    for number, block in source.blocks():
        for each, _ in texts(block, number):
            text = each.text[:_LENGTH].strip()
            for kept, words in ((rates, _RATE), (others, _OTHER)):
                if len(kept) < _SHOWN and words.search(text):
                    kept.setdefault(_NUMBERS.sub("#", text), each._replace(text=text))
                    break
        if len(rates) == _SHOWN:
            break
    return list((rates or others).values())
