"""What a shell can complete: names of experiments, clusters, sweeps, runs, keys, formats, tables and files.

Each public function is a `shell_complete=` of click's options and arguments. It takes the beginning of a value and
returns all values that begin so, each with a short description. After a value that ends in `/` or `=` more can be
typed. A file that cannot be read adds no names. This runs at every press of the tab key, so it neither queries Slurm
nor reads logs.
"""

from __future__ import annotations

import os
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from click import Context, Parameter
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from hpcjobs.config import Cluster, Experiment
    from hpcjobs.config.keys import Key


def experiments(ctx: Context, param: Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of experiments; if none matches, files."""
    from hpcjobs.config import Experiment

    return _profiles(Experiment, incomplete) or paths(incomplete)


def clusters(ctx: Context, param: Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of cluster profiles; if none matches, files."""
    from hpcjobs.config import Cluster

    return _profiles(Cluster, incomplete) or paths(incomplete)


def _profiles(kind: type[Experiment] | type[Cluster], incomplete: str) -> list[CompletionItem]:
    from hpcjobs.config import profiles

    try:
        found = profiles.available(kind)
    except OSError:
        return []
    return _beginning(incomplete, ((each.name, f"from {each.origin}") for each in found if each.name.isprintable()))


def sweeps(ctx: Context, param: Parameter, incomplete: str) -> list[CompletionItem]:
    """Folders of sweeps: those here, in sweeps/ and below the typed path; if there are none, all folders."""
    return _sweeps(incomplete) or paths(incomplete, folders=True)


def sweeps_or_files(ctx: Context, param: Parameter, incomplete: str) -> list[CompletionItem]:
    """Folders of sweeps; if none matches, files."""
    return _sweeps(incomplete) or paths(incomplete)


def collected(ctx: Context, param: Parameter, incomplete: str) -> list[CompletionItem]:
    """The arguments of `hpcjobs collect`: a sweep, or files after --logs."""
    return paths(incomplete) if ctx.params.get("logs") else sweeps(ctx, param, incomplete)


def _sweeps(incomplete: str) -> list[CompletionItem]:
    from hpcjobs.base.sweepdir import SweepDir

    found = list(_entries(incomplete))
    if "/" not in incomplete:
        found += [(name, path) for name, path in _entries("sweeps/") if name.startswith(incomplete)]
    return [CompletionItem(name) for name, path in found if os.path.isfile(SweepDir(Path(path)).sweep_yaml)]


def runs(ctx: Context, param: Parameter, incomplete: str) -> list[CompletionItem]:
    """Runs of the sweep in the argument FOLDER that are not named yet."""
    from hpcjobs.base.sweepdir import SweepDir

    folder, named = ctx.params.get("folder"), ctx.params.get("runs") or ()
    if folder is None:
        return []
    found = _entries(f"{SweepDir(Path(folder)).runs}/")
    names = (os.path.basename(path) for _, path in found if os.path.isdir(path))
    # -x can only be typed after --; before that it is an option.
    names = (name for name in names if incomplete or not name.startswith("-"))
    return _beginning(incomplete, ((name, "") for name in names if name not in named))


def settings(ctx: Context, param: Parameter, incomplete: str) -> list[CompletionItem]:
    """KEY= for each key of an experiment that is not set yet; after the =, a key's few possible values, or paths."""
    keys = _keys(ctx)
    key, equals, values = incomplete.partition("=")
    if not equals:
        done = {setting.partition("=")[0] for setting in ctx.params.get("settings") or ()}
        return _beginning(
            incomplete, ((f"{name}=", each.description) for name, each in keys.items() if name not in done)
        )
    begun = incomplete[: len(incomplete) - len(values.rpartition(",")[2])]  # of V1,V2 only V2 is completed
    typed = incomplete[len(begun) :]
    about = keys.get(key)
    found = _beginning(typed, ((word, "") for word in _choices(about.type if about else None)))
    if not found and about and about.path:
        found = paths(typed, folders=about.path == "folder")
    return [CompletionItem(begun + item.value, help=item.help) for item in found]


def _keys(ctx: Context) -> dict[str, Key]:
    """The keys that the experiment may have: those of its trainer, which a command after -- or a file names."""
    from hpcjobs.base.errors import InputError
    from hpcjobs.cli import command_flags
    from hpcjobs.cli.command_flags import given_command
    from hpcjobs.config import Experiment, profiles
    from hpcjobs.config.keys import leaves
    from hpcjobs.plan.planning import NEVER_SET
    from hpcjobs.trainers.registry import DEFAULT, TRAINERS, trainer_in

    is_command = given_command(ctx) is not None or any(ctx.params.get(flag) for flag in command_flags.NAMES)
    trainer, data = TRAINERS["command" if is_command else DEFAULT], {}
    name = ctx.params.get("experiment")
    if name is not None:
        try:
            document = profiles.read(Experiment, name)
            trainer, data = trainer_in(document), document.data
        except (InputError, OSError):
            return {}
    found: dict[str, Key] = {}
    for each in leaves(trainer.keys):
        given = data.get(each.name)
        if each.is_mapping and isinstance(given, dict):
            found |= {f"{each.name}.{key}": each for key in given}
        elif not each.is_mapping and each.name not in NEVER_SET:
            found[each.name] = each
    return found


def _choices(kind: Any) -> list[str]:
    """All values of a type that has only a few; else []."""
    if kind is bool:
        return ["true", "false"]
    return list(map(str, typing.get_args(kind))) if typing.get_origin(kind) is Literal else []


def formats(ctx: Context, param: Parameter, incomplete: str) -> list[CompletionItem]:
    """Formats of logs."""
    from hpcjobs.collect.reading import FORMATS

    return _beginning(incomplete, FORMATS.items())


def references(ctx: Context, param: Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of published tables; if none matches, files."""
    from hpcjobs.collect import reference_tables

    return _beginning(incomplete, ((name, "") for name in reference_tables.references())) or paths(incomplete)


def files(ctx: Context, param: Parameter, incomplete: str) -> list[CompletionItem]:
    """Files and folders."""
    return paths(incomplete)


def paths(incomplete: str, folders: bool = False) -> list[CompletionItem]:
    """Files and folders, or with `folders` only these. A folder ends with a slash, so that more can be typed."""
    return [
        CompletionItem(f"{name}/" if folder else name)
        for name, path in _entries(incomplete)
        if (folder := os.path.isdir(path)) or not folders
    ]


def _entries(incomplete: str) -> Iterator[tuple[str, str]]:
    """(name as typed, path) of each file that begins with `incomplete`, sorted; hidden files only after a typed dot.

    A file -x becomes ./-x, because -x would be an option; but if its dash is typed already, it follows --, and stays.
    """
    head, slash, tail = incomplete.rpartition("/")
    folder = os.path.expandvars(os.path.expanduser(head + slash)) or "."
    try:
        names = sorted(os.listdir(folder))
    except (OSError, ValueError):
        return
    for name in names:
        # The answer has one line per name, so a name must not hold a line break.
        if name.startswith(tail) and name.isprintable() and (tail or not name.startswith(".")):
            here = "./" if not incomplete and name.startswith("-") else head + slash
            yield here + name, os.path.join(folder, name)


def _beginning(incomplete: str, words: Iterable[tuple[str, str]]) -> list[CompletionItem]:
    return [CompletionItem(word, help=text or None) for word, text in words if word.startswith(incomplete)]
