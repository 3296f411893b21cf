"""The one quoting filter: a value becomes a word of a job script."""

from __future__ import annotations

import re
import shlex

from hpcjobs.base.errors import InputError

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def quote(value: object) -> str:
    """One shell word that bash reads back as exactly `value`. sbatch reads a directive in the same way, except that
    backslashes have another meaning.

    Raises InputError for characters that a line of a script cannot hold.
    """
    text = _utf8(value)
    if _CONTROL.search(text):
        raise InputError(f"{text!r} holds a control character and cannot stand in a job script")
    return _quoted(text)


def quote_any(value: object) -> str:
    """As `quote`, for a word of a command in a script, which may hold line breaks and other control characters.

    Raises InputError for a zero byte, and for a text that is not UTF-8.
    """
    text = _utf8(value)
    if "\0" in text:
        raise InputError(f"{text!r} holds a zero byte, which no argument of a process can")
    if not _CONTROL.search(text):
        return _quoted(text)
    # $'...' keeps the word on one line.
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return "$'" + _CONTROL.sub(lambda match: f"\\{ord(match[0]):03o}", escaped) + "'"


def _utf8(value: object) -> str:
    text = str(value)
    if any(0xD800 <= ord(character) < 0xE000 for character in text):
        raise InputError(f"{text!r} is not UTF-8 and cannot stand in a job script")
    return text


def _quoted(text: str) -> str:
    # Unquoted, shellcheck would warn about a word that begins with = after the = of an assignment.
    return f"'{text}'" if text.startswith("=") and shlex.quote(text) == text else shlex.quote(text)
