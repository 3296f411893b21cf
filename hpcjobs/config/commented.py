"""An experiment as a YAML file to begin with: every key in its section, each below its description."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

from hpcjobs.config.document import dump, to_builtins
from hpcjobs.config.experiment import Experiment
from hpcjobs.config.keys import keys_of
from hpcjobs.config.words import Section

_WIDTH = 110


def commented(experiment: Experiment, title: str) -> str:
    """The text of a YAML file that loads as `experiment`, under a comment that begins with `title`.

    A key that is absent is written as `#key: null`, which is also valid without its `#`.
    """
    head = f"{title} A key behind # is absent: to set it, remove the # and give a value."
    return "".join([*_comment(head, ""), "\n", *_lines(type(experiment), to_builtins(experiment), "")])


def _lines(kind: type[Section], values: dict[str, Any], indent: str) -> Iterator[str]:
    after_section = False
    for key in keys_of(kind):
        value = values[key.name]
        is_section = key.section is not None and value is not None
        if is_section or after_section:
            yield "\n"
        after_section = is_section
        yield from _comment(key.description, indent)
        if key.section is not None and value is not None:
            yield f"{indent}{key.name}:\n"
            yield from _lines(key.section, value, f"{indent}  ")
        else:
            yield f"{indent}{'#' if value is None else ''}{key.name}: {_scalar(value)}\n"


def _comment(text: str, indent: str) -> Iterator[str]:
    for line in textwrap.wrap(
        " ".join(text.split()), _WIDTH - len(indent) - 2, break_long_words=False, break_on_hyphens=False
    ):
        yield f"{indent}# {line}\n"


def _scalar(value: Any) -> str:
    # A text of several lines is written as one line in double quotes.
    style = '"' if isinstance(value, str) and not value.isprintable() else None
    # A list or a mapping stands on one line, too.
    text = dump(value, width=float("inf"), default_style=style, default_flow_style=True)
    return text.removesuffix("...\n").strip()
