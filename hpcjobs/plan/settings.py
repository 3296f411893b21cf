"""Values of Python as the command line has them: settings as those of --set, and the words of a command."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import PurePath

from hpcjobs.base.errors import InputError
from hpcjobs.config.keys import leaves
from hpcjobs.config.words import Section


def texts(command: Iterable[object]) -> list[str]:
    """The words of a command as texts; a number or a path becomes its text.

    Raises InputError for any other value, and for a command that is one text.
    """
    if isinstance(command, (str, bytes)):
        raise InputError(f"command: expected a list of words, got {command!r}; shlex.split makes a list of a text")
    if not isinstance(command, Iterable) or isinstance(command, Mapping):
        raise InputError(f"command: expected a list of words, got {command!r}")
    found = list(command)
    for index, word in enumerate(found):
        if isinstance(word, bool) or not isinstance(word, (str, int, float, PurePath)):
            raise InputError(f"command[{index}]: expected a text, a number or a path, got {word!r}")
    return [str(word) for word in found]


def settings_of(settings: Mapping[str, object], about: Mapping[str, object], kind: type[Section]) -> list[str]:
    """The values of --set for keys of `kind`. `about`, whose values of None are absent, holds other keys, nested.

    Raises InputError, also for a key that is in both.
    """
    flat = dict(_flat(settings))
    more = {key: value for key, value in _flat(about) if value is not None}
    known = {key.name for key in leaves(kind)}
    for key in more:
        name = key.rpartition(".")[2]
        if key not in known:
            raise InputError(f"{name} is for a training command: give one as command")
        if key in flat:
            raise InputError(f"{name} and settings: {key} are the same: give one of them")
    return list(written({**flat, **more}, [key.name for key in leaves(kind) if key.verbatim]))


def _flat(settings: Mapping[str, object], above: str = "") -> Iterator[tuple[str, object]]:
    """Each value by its dotted key."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def written(settings: Mapping[str, object], verbatim: Collection[str] = ()) -> Iterator[str]:
    """The settings as the values of --set. Keys in `verbatim` take one text as it is written, with its commas."""
    for key, value in settings.items():
        if key in verbatim:
            if value is not None and not isinstance(value, str):
                raise InputError(f"settings: {key}: expected one text, got {value!r}")
            yield f"{key}={_word(value)}"
            continue
        # An array of numpy is an iterable, too.
        is_list = isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping))
        words = [_word(each) for each in value] if is_list else [_word(value)]  # type: ignore[attr-defined]
        if any("," in word for word in words):
            raise InputError(f"settings: {key}: a value cannot contain a comma; to sweep a key, give a list")
        yield f"{key}={','.join(words)}"


def _word(value: object) -> str:
    """A value as YAML writes it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
