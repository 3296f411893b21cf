"""An experiment as a file to begin with: every key in its section, each with the comment of its type."""

from __future__ import annotations

import dataclasses
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any

import msgspec

from hpcjobs.config.document import dump, to_builtins
from hpcjobs.config.experiment import Experiment
from hpcjobs.config.keys import comments
from hpcjobs.config.words import Section

_WIDTH = 110


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A key that is no section: its dotted name, its type, and what its comment says."""

    key: str
    type: Any
    comment: str


def leaves(kind: type[Section] = Experiment) -> Iterator[Leaf]:
    """Every key of an experiment, or of one of its sections, in the order of the source."""
    said = comments(kind)
    for field in msgspec.structs.fields(kind):
        if _is_section(field.type):
            for leaf in leaves(field.type):
                yield Leaf(f"{field.encode_name}.{leaf.key}", leaf.type, leaf.comment)
        else:
            yield Leaf(field.encode_name, field.type, said[field.encode_name])


def commented(experiment: Experiment, title: str) -> str:
    """The text of a YAML file that loads as `experiment`, under a comment that begins with `title`.

    A key that is absent stands there as `#key: null`: valid without its sign, too.
    """
    head = f"{title} A key behind # is absent: take the # away, and give it a value."
    return "".join([*_comment(head, ""), "\n", *_section(Experiment, to_builtins(experiment), "")])


def _section(kind: type[Section], values: dict[str, Any], indent: str) -> Iterator[str]:
    said = comments(kind)
    behind_section = False
    for field in msgspec.structs.fields(kind):
        name, value = field.encode_name, values[field.encode_name]
        is_section = _is_section(field.type)
        if is_section or behind_section:
            yield "\n"
        behind_section = is_section
        if is_section:
            yield from _comment(said[name] or inspect.getdoc(field.type) or "", indent)
            yield f"{indent}{name}:\n"
            yield from _section(field.type, value, f"{indent}  ")
            continue
        yield from _comment(said[name], indent)
        yield f"{indent}{'#' if value is None else ''}{name}: {_scalar(value)}\n"


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)


def _comment(text: str, indent: str) -> Iterator[str]:
    for line in textwrap.wrap(text, _WIDTH - len(indent) - 2, break_long_words=False, break_on_hyphens=False):
        yield f"{indent}# {line}\n"


def _scalar(value: Any) -> str:
    # Of several lines one, in double quotes.
    style = '"' if isinstance(value, str) and not value.isprintable() else None
    text = dump(value, width=float("inf"), default_style=style)
    return text.removesuffix("...\n").strip()
