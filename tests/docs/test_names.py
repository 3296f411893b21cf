"""What a text names in passing is there: options, keys, columns, flags, files and targets of make."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

import click
import pytest

from hpcjobs.cli import hpcjobs
from hpcjobs.config import Cluster
from hpcjobs.config.document import known_keys
from hpcjobs.trainers.registry import TRAINERS
from tests.docs.pages import PAGES, ROOT, code

# Of sbatch, pip, uv, horovodrun, pytest, torchrun, PyTorch and DeepSpeed: hpcjobs never writes them.
OTHERS = {
    "--use_cpu",
    "get_batch",  # Hugging Face's Trainer; nanoGPT
    *("--part", "send_user_signal"),
    *("--no-cache-dir", "--force-reinstall", "--no-deps", "--reinstall-package", "--refresh-package"),
    *("--check-build", "--update-golden", "--local-addr", "init_process_group", "init_distributed"),
}
# Whose keys are named.
KINDS = (Cluster, *(trainer.keys for trainer in TRAINERS.values()))
# A file and two Python names that look like keys.
NO_KEYS = {"train.log", "model.fit", "horovod.tensorflow"}
# What lies in a sweep's folder or in a user's, and so in none of ours.
OF_A_SWEEP = {"scripts/g0004.sbatch", "scripts/python", "scripts/python/inject", "experiments/mine.yaml"}


def spans() -> Iterator[tuple[str, str]]:
    """Where, and what stands in code within a text."""
    for page in PAGES:
        for each in code(page):
            if each.kind == "span":
                yield each.where, each.text


@cache
def source() -> str:
    """All that is run: code, templates, what ships, benchmarks."""
    folders = ("hpcjobs", "templates", "experiments", "benchmarks")
    paths = [path for folder in folders for path in sorted((ROOT / folder).rglob("*"))]
    return "\n".join(path.read_text() for path in paths if path.suffix in (".py", ".j2", ".yaml"))


def options(command: click.Command) -> set[str]:
    """The long options of a command and of all below it."""
    found = {word for parameter in command.params for word in parameter.opts if word.startswith("--")}
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            found |= options(inner)
    return found


def is_an_option(word: str) -> bool:
    """Of hpcjobs, or of another program to which hpcjobs gives it."""
    name = re.escape(word.removeprefix("--"))
    known = options(hpcjobs) | {"--help"} | OTHERS
    return word in known or bool(re.search(rf'--{name}(?![\w-])|"{name}"', source()))


def is_a_key(word: str) -> bool:
    section, _, name = word.partition(".")
    return any(name in known_keys(kind, (section,)) for kind in KINDS)


SECTIONS = sorted(key for kind in KINDS for key in known_keys(kind) if known_keys(kind, (key,)))
FOLDERS = ("hpcjobs", "tests", "templates", "benchmarks", "experiments", "examples", "docs", "scripts")


def test_every_option_is_one() -> None:
    named = [(where, word) for where, text in spans() for word in re.findall(r"(?<!\S)--[a-z][\w-]*", text)]
    assert [(where, word) for where, word in named if not is_an_option(word)] == []
    assert len(named) > 50


def test_every_key_of_a_section_is_one() -> None:
    key = re.compile(rf"(?<![\w/.])(?:{'|'.join(SECTIONS)})\.[a-z_]+(?!\w)(?!/)")
    named = [(where, word) for where, text in spans() for word in key.findall(text) if word not in NO_KEYS]
    assert [(where, word) for where, word in named if not is_a_key(word)] == []
    assert len(named) > 20


def test_every_column_flag_and_state_is_a_word_of_the_code() -> None:
    words = set(re.findall(r"\w+", source())) | OTHERS
    snake = re.compile(r"(?<![\w/.-])[a-z]+(?:_[a-z]+)+(?![\w/-])")
    named = [(where, word) for where, text in spans() for word in snake.findall(text)]
    assert [(where, word) for where, word in named if word not in words] == []
    assert len(named) > 100


def test_every_file_and_target_of_make_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    wrong = []
    for where, text in spans():
        if re.fullmatch(rf"(?:{'|'.join(FOLDERS)})/[\w./-]+", text) and text not in OF_A_SWEEP:
            wrong += [(where, text)] if not (ROOT / text).exists() else []
        elif text.startswith("make "):
            wrong += [(where, text)] if text.split()[1] not in targets else []
    assert wrong == []


@pytest.mark.parametrize(
    ("word", "there"), [("--watch", True), ("--kill-on-invalid-dep", True), ("--wach", False), ("--kill", False)]
)
def test_an_option_that_is_none_is_noticed(word: str, there: bool) -> None:
    assert is_an_option(word) == there


@pytest.mark.parametrize(
    ("word", "there"), [("train.stall_s", True), ("collect.job", True), ("train.stall", False), ("lr.stall_s", False)]
)
def test_a_key_that_is_none_is_noticed(word: str, there: bool) -> None:
    assert is_a_key(word) == there
