"""The errors a user can cause or meet: each prints as one line, none as a traceback.

Every room may import this module; it imports nothing but the standard library.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HpcjobsError(Exception):
    """Base of all errors that are told to the user as one line; `exit_code` is the command's."""

    exit_code = 1


class InputError(HpcjobsError):
    """Something the user gave is wrong: what, where (file, key, line) and what would be right."""

    exit_code = 2


class SchedulerUnreachable(HpcjobsError):
    """The scheduler gave no answer. It never means that a job does not exist."""

    exit_code = 3


class SubmitRefused(HpcjobsError):
    """The scheduler answered, and refused a submission; the text says what it objected to."""

    exit_code = 2


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint for a misspelt `word`: `did you mean 'x'?`, else the list of what is known."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
