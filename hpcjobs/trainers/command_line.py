"""A command line of the user becomes an experiment, without a file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath

from hpcjobs.base.errors import InputError
from hpcjobs.config import Document

# Endings of scripts, which name an experiment better than the program that runs them.
_SCRIPTS = (".py", ".sh", ".jl", ".lua", ".R", ".pl")


def document_of(words: Sequence[str | PurePath | float]) -> Document:
    """The experiment that runs this command. Raises InputError for an empty command, or one that is not a list."""
    if isinstance(words, str):
        raise InputError(f"command: expected a list of words, got the text {words!r}; shlex.split makes a list of it")
    if not isinstance(words, Iterable) or isinstance(words, (bytes, Mapping)):
        raise InputError(f"command: expected a list of words, got {words!r}")
    command = [_text(word) for word in words]
    if not command or not command[0]:
        raise InputError("no command after --: give one, such as `-- python train.py --batch {batch.local}`")
    data = {"name": name_of(command), "trainer": "command", "command": command}
    return Document("command", data, {})


def _text(word: object) -> str:
    """A word as text. Python may give numbers and paths, too."""
    if isinstance(word, (str, PurePath)) or (isinstance(word, (int, float)) and not isinstance(word, bool)):
        return str(word)
    raise InputError(f"command: expected words, got {word!r}")


def name_of(command: Sequence[str]) -> str:
    """A name for the experiment of a command, in letters that it may have: its script's, or else its first word's."""
    paths = [PurePath(word) for word in command if not word.startswith("-")]
    script = next((path for path in paths if path.suffix in _SCRIPTS), PurePath(command[0]))
    return re.sub(r"[^A-Za-z0-9_-]+", "-", script.stem).strip("-_")[:40] or "command"
