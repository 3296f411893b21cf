"""The documentation as data: fenced blocks, inline code, and the command lines that stand in them."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

import click
from markdown_it import MarkdownIt
from markdown_it.token import Token

from hpcjobs.cli import hpcjobs

ROOT = Path(__file__).parents[2]
# All that a reader may follow.
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
SHELL = "sh"
UNRUN = "sh not-run"


@dataclasses.dataclass(frozen=True)
class Code:
    """A fenced block by its info string, an indented one (`indented`), or a span in a text (`span`)."""

    page: Path
    line: int
    kind: str
    text: str

    @property
    def where(self) -> str:
        """`docs/data.md:12`."""
        return f"{os.path.relpath(self.page, ROOT)}:{self.line}"


def code(page: Path) -> list[Code]:
    """All the code on a page, from top to bottom."""
    tokens = MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))
    return [Code(page, line + 1, kind, text) for line, kind, text in _code(tokens)]


def _code(tokens: Iterable[Token]) -> Iterator[tuple[int, str, str]]:
    for token in tokens:
        line = token.map[0] if token.map else 0
        if token.type == "fence":
            yield line, token.info, token.content
        elif token.type == "code_block":
            yield line, "indented", token.content
        for inner in token.children or ():
            if inner.type == "code_inline":
                yield line, "span", inner.content


def blocks(page: Path, kind: str) -> list[Code]:
    """The page's blocks of that kind."""
    return [each for each in code(page) if each.kind == kind]


_HEREDOC = re.compile(r"<<-?\s*'?(\w+)'?.*?\n.*?^\1$", re.DOTALL | re.MULTILINE)
_OPERATORS = ("|", "||", "&&", ";", "&", "\n")


def commands(text: str) -> list[list[str]]:
    """The words of each `hpcjobs` that a shell would run, without the program's name."""
    text = _HEREDOC.sub("", text).replace("\\\n", " ")
    found = []
    for line in text.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in (*lexer, "\n"):
            if word not in _OPERATORS:
                words.append(word)
                continue
            if words[:1] == ["hpcjobs"]:
                # `> FILE` is the shell's.
                found.append(words[1 : words.index(">") if ">" in words else None])
            words = []
    return found


def refusal(words: list[str], *, whole: bool) -> str | None:
    """What hpcjobs' command line finds wrong with these words, without doing any of it.

    `whole`: all that must be given is there. NAME, N and `...` stand for anything.
    """
    words = ["1" if word == "N" else word for word in words if word != "..."]
    command: click.Command = hpcjobs
    context = click.Context(command, info_name="hpcjobs")
    try:
        while isinstance(command, click.Group) and words and not words[0].startswith("-"):
            name, inner, words = command.resolve_command(context, words)
            assert inner is not None
            command, context = inner, click.Context(inner, parent=context, info_name=name)
        if isinstance(command, click.Group) and not words:
            return f"`{context.command_path}` wants a command" if whole else None
        command.make_context(context.info_name, words, parent=context.parent)
    except click.MissingParameter as error:
        return error.format_message() if whole else None
    except click.ClickException as error:
        return error.format_message()
    except click.exceptions.Exit:
        return None  # --help
    return None
