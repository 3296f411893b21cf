"""A command line of the user becomes an experiment, without a file."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path, PurePath

from hpcjobs.base.errors import InputError
from hpcjobs.config import Document

# Endings of scripts, which name an experiment better than the program that runs them.
_SCRIPTS = (".py", ".sh", ".jl", ".lua", ".R", ".pl")


def document_of(words: Sequence[str]) -> Document:
    """The experiment that runs this command. Raises InputError for an empty command."""
    if not words or not words[0]:
        raise InputError("no command after --: give one, such as `-- python train.py --batch {batch.local}`")
    if len(words[0].split()) > 1 and not Path(words[0]).exists():
        raise InputError(f"command: {words[0]!r} is one word, and no file: leave out the quotes around it")
    data = {"name": name_of(words), "trainer": "command", "command": list(words)}
    return Document("command", data, {})


def name_of(command: Sequence[str]) -> str:
    """A name for the experiment of a command, in letters that it may have: its script's, or else its first word's."""
    paths = [PurePath(word) for word in command if not word.startswith("-")]
    script = next((path for path in paths if path.suffix in _SCRIPTS), PurePath(command[0]))
    return re.sub(r"[^A-Za-z0-9_-]+", "-", script.stem).strip("-_")[:40] or "command"


def script_of(command: Sequence[str]) -> str:
    """The script that the command's first word runs, as it is written; empty if none can be told.

    A word after an option may be the option's value, such as a file that the command is to write.
    """
    for before, word in itertools.pairwise(command):
        if word.endswith(_SCRIPTS) and not word.startswith("-"):
            is_value = before.startswith("-") and "=" not in before
            return "" if is_value or set("{}") & set(word) else word
    return ""
