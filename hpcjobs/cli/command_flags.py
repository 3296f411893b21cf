"""`-- COMMAND...` and the flags that belong to it, for `hpcjobs sweep`, `check` and `init`."""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hpcjobs.base.errors import InputError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from hpcjobs.config import Document

# The keys of the experiment that the flags below set.
_KEYS = {"mode": "mode", "start": "start", "pattern": "measure.pattern", "of": "measure.of", "unit": "measure.unit"}
# Their parameter names.
NAMES = tuple(_KEYS)
_META = "hpcjobs.command"
# Flags that are easily put after the training command, where they do nothing.
_MISPLACED = ("--dry-run", "--wait", "--json", "--preflight", "--one-allocation")
# What a program's name or path looks like; KEY=VALUE and 2 are none.
_PROGRAM = re.compile(r"[A-Za-z_./~][^=,]*\Z")
_Function = TypeVar("_Function", bound=Callable[..., Any])


class TakesCommand(click.Command):
    """A command of hpcjobs for which all words after the first `--` are the user's training command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take the training command off the arguments."""
        if "--" in args:
            at = args.index("--")
            ctx.meta[_META] = tuple(args[at + 1 :])
            self._tell_misplaced(args[at + 1 :])
            return super().parse_args(ctx, args[:at])
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            words = self._left_over(given, ctx)
            if words and _PROGRAM.match(words[0]):
                shown = shlex.join(words[:2]) + (" ..." if len(words) > 2 else "")
                raise click.UsageError(f"{shown!r} looks like a command: write -- before it", ctx) from error
            raise

    def _tell_misplaced(self, words: Sequence[str]) -> None:
        """Tell of flags of this command that stand after `--`. Raises InputError for --dry-run.

        A command may have flags of the same names, but a preview that submits is worse than a refusal.
        """
        flags = {flag for option in self.params if getattr(option, "is_flag", False) for flag in option.opts}
        for flag in _MISPLACED:
            if flag not in words or flag not in flags:
                continue
            if flag == "--dry-run":
                raise InputError(
                    "--dry-run stands after --, where it is an argument of the command: for a preview give it before "
                    "--; if the command has such an option of its own, write the command into a file with `hpcjobs "
                    "init NAME -- COMMAND`, and give --experiment NAME"
                )
            click.echo(f"warning: {flag} stands after --: it is an argument of the command", err=True)

    def _left_over(self, args: list[str], ctx: click.Context) -> list[str]:
        """The words from the first one that is neither an option, nor its value, nor an argument of this command."""
        arguments = sum(isinstance(each, click.Argument) for each in self.params)
        ctx.allow_interspersed_args = False
        try:
            _, rest, _ = self.make_parser(ctx).parse_args(list(args))
            while rest and arguments:
                arguments -= 1
                _, rest, _ = self.make_parser(ctx).parse_args(rest[1:])
        except click.UsageError:
            return []
        return rest

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Files, in the words of the training command."""
        from hpcjobs.cli import names

        return super().shell_complete(ctx, incomplete) if given_command(ctx) is None else names.paths(incomplete)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """The words of the usage line."""
        return [*super().collect_usage_pieces(ctx), "[-- COMMAND...]"]


def given_command(ctx: click.Context) -> tuple[str, ...] | None:
    """The training command after `--`; None without one."""
    words: tuple[str, ...] | None = ctx.meta.get(_META)
    return words


class CommandFlags:
    """The training command after `--`, None without one, and the settings that its flags stand for."""

    def __init__(self, words: Sequence[str] | None, settings: Sequence[str]):
        self.words = words
        self.settings = tuple(settings)

    def document(
        self, experiment: str | None, default: str, settings: Sequence[str] = (), option: str = "--experiment"
    ) -> Document:
        """The experiment to run: that of the command, or else the one of that name, which `option` gave.

        Raises InputError, also if its trainer has no use for the flags, or `settings` of --set give the same key.
        """
        from hpcjobs.config import Experiment, profiles
        from hpcjobs.config.keys import leaves
        from hpcjobs.trainers.command_line import document_of
        from hpcjobs.trainers.registry import trainer_in

        flags = {key: f"--{name}" for name, key in _KEYS.items()}
        given = [setting.partition("=")[0] for setting in self.settings]
        for key in given:
            if key in {setting.partition("=")[0].strip() for setting in settings}:
                raise InputError(f"{flags[key]} and --set {key} are the same: give one of them")
        if self.words is None:
            document = profiles.read(Experiment, experiment or default)
            known = {each.name for each in leaves(trainer_in(document).keys)}
            if unused := [flags[key] for key in given if key not in known]:
                raise InputError(
                    f"{unused[0]} is for a training command: give one after --, or {option} NAME with "
                    "`trainer: command`"
                )
            document.flags = {key: flags[key] for key in given}
            return document
        if experiment is not None:
            raise InputError(f"{option} and a command after -- exclude each other: give one of them")
        document = document_of(self.words)
        document.flags = {key: flags[key] for key in given}
        return document


def options(function: _Function) -> _Function:
    """Adds --mode, --start, --pattern, --of and --unit; the function gets them, and the command, as `command`."""

    @functools.wraps(function)
    def called(*args: Any, **given: Any) -> Any:
        values = {key: given.pop(name) for name, key in _KEYS.items()}
        for name, key in _KEYS.items():
            value = values[key]
            # A setting with a comma would be two values.
            if value is not None and (not value or (name == "unit" and "," in value)):
                raise InputError(f"--{name} {value!r}: expected {'one word' if name == 'unit' else 'a text'}")
        settings = [f"{key}={value}" for key, value in values.items() if value is not None]
        words = given_command(click.get_current_context())
        return function(*args, command=CommandFlags(words, settings), **given)

    for option in reversed(_OPTIONS):
        called = option(called)
    return called  # type: ignore[return-value]


_OPTIONS = (
    click.option(
        "--mode",
        type=click.Choice(["train", "benchmark"]),
        help="The whole training, or steps alone until their time is known.  [default: train]",
    ),
    click.option(
        "--start",
        type=click.Choice(["rank", "node", "once"]),
        help="Who starts COMMAND's processes: the launcher one for each GPU (rank) or node (node: torchrun starts the "
        "rest), or the job script (once).  [default: rank]",
    ),
    click.option(
        "--pattern", metavar="REGEX", help="How COMMAND prints its rate: 'tokens/s: (?P<throughput>[\\d.]+)'."
    ),
    click.option("--of", type=click.Choice(["all", "rank"]), help="Whose work such a figure counts.  [default: all]"),
    click.option("--unit", metavar="WORD", help="What it counts: images, samples, tokens, ..."),
)
