"""Placeholders of a command, such as {gpus} or {params.lr}: what they are filled with, and when."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from hpcjobs.base.errors import InputError, nearest
from hpcjobs.trainers import Variable, Word

# Those that are known only on the node, and the variable of the job script that holds each.
ON_THE_NODE: Mapping[str, str] = {
    "head": "MASTER_ADDR",
    "port": "MASTER_PORT",
    "repeat": "HPCJOBS_REPEAT",
    "seed": "HPCJOBS_SEED",
    "run_dir": "HPCJOBS_RUN_DIR",
    "attempt_dir": "HPCJOBS_ATTEMPT_DIR",
}
# Those that the plan knows.
OF_THE_PLAN = ("gpus", "nodes", "gpus_per_node", "processes_per_node", "batch.local", "batch.global")

_PART = re.compile(r"\{\{|\}\}|\{[^{}]*\}|[{}]")


def names(text: str) -> set[str]:
    """The names of the placeholders in a word of a command, such as batch.local."""
    parts = (match[0] for match in _PART.finditer(text))
    return {part[1:-1] for part in parts if len(part) > 2}


def filled(text: str, values: Mapping[str, str]) -> Word:
    """A word of a command with its placeholders filled in.

    `values` are those of OF_THE_PLAN and of `params.KEY`; one that this run does not have is missing from it. Raises
    InputError for an unknown or missing placeholder, and for a single brace.
    """
    found: list[str | Variable] = []
    end = 0
    for match in _PART.finditer(text):
        found.append(text[end : match.start()])
        end = match.end()
        part = match[0]
        if part in ("{{", "}}"):
            found.append(part[0])
        elif len(part) == 1:
            raise InputError(f"command: {text!r} has a single {part}: write {part * 2} for a brace", ("command",))
        elif (name := part[1:-1]) in ON_THE_NODE:
            found.append(Variable(ON_THE_NODE[name]))
        elif name in values:
            found.append(values[name])
        else:
            raise InputError(f"command: {text!r}: {_why_not(name, values)}", ("command",))
    return _joined((*found, text[end:]))


def _why_not(name: str, values: Mapping[str, str]) -> str:
    if name in OF_THE_PLAN:
        return f"{{{name}}} needs a batch: give batch.local or batch.global"
    known = [*OF_THE_PLAN, *ON_THE_NODE, *(key for key in values if key.startswith("params."))]
    if name.startswith("params."):
        return f"no parameter '{name.removeprefix('params.')}': give it under params, or --set {name}=VALUE"
    return f"no placeholder {{{name}}}: {_nearest(name, known)}; write {{{{ and }}}} for braces"


def _nearest(name: str, known: Iterable[str]) -> str:
    # { gpus } has spaces, which no placeholder has.
    return f"write {{{name.strip()}}}" if name.strip() in known else nearest(name.strip(), sorted(known))


def _joined(parts: Iterable[str | Variable]) -> Word:
    """The parts, with neighbouring texts as one; an empty word is one empty text."""
    joined: list[str | Variable] = []
    for part in parts:
        if isinstance(part, str) and joined and isinstance(joined[-1], str):
            joined[-1] += part
        elif part != "":
            joined.append(part)
    return tuple(joined) or ("",)
