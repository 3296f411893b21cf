"""The errors that a user can cause or meet. Each is printed as one line, without a traceback.

Every room may import this module. It imports nothing but the standard library.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HpcjobsError(Exception):
    """Base of all errors that are printed as one line. `exit_code` is the exit code of the command."""

    exit_code = 1


class InputError(HpcjobsError):
    """The user's input is wrong. The text says what, where (file, key, line), and what would be right.

    `key`: the path of the key of an experiment that is wrong, if the text does not say yet where it stands; see
    Document.placed.
    """

    exit_code = 2

    def __init__(self, text: str, key: tuple[str, ...] = ()):
        super().__init__(text)
        self.key = key


class SchedulerUnreachable(HpcjobsError):
    """The scheduler gave no answer. This does not mean that a job does not exist."""

    exit_code = 3


class SubmitRefused(HpcjobsError):
    """The scheduler refused a submission. The text has its reason."""

    exit_code = 2


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint for a misspelt `word`: `did you mean 'x'?`, or the list of the known words if none is close."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
