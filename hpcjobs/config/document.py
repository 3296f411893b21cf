"""From YAML to a typed spec, with errors that name file, key and line.

An unknown key is an error that names the nearest known key. A value of the wrong type is an error that names the type.
"""

from __future__ import annotations

import ast
import math
import re
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
import yaml

from hpcjobs.base.errors import InputError, nearest
from hpcjobs.base.files import open_plain
from hpcjobs.config.keys import Key, exclusive, keys_of, leaves
from hpcjobs.config.words import PLAINLY, Section

Spec = TypeVar("Spec", bound=Section)


def load(path: Path, kind: type[Spec]) -> Spec:
    """Read one YAML file as `kind`.

    Raises InputError (file, line, key, what would be right) where the file is missing or wrong.
    """
    return convert(read_yaml(path), kind)


# A whole number is 64 bits wide wherever a run counts with it.
_TOO_LARGE = 2**63


class _Loader(yaml.SafeLoader):
    """Reads `1e-4` as a number, as YAML 1.2 does. PyYAML follows YAML 1.1, which asks for a dot."""


class _Dumper(yaml.SafeDumper):
    """Quotes a text that `_Loader` would read as a number."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """In quotes, PyYAML writes these line breaks of Unicode as they are, with spaces that it then reads."""
    style = '"' if {"\x85", "\u2028", "\u2029"} & set(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _text)
for _each in (_Loader, _Dumper):
    _each.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
    )


class Document:
    """A YAML mapping, and the file it came from.

    `lines` is the line of each key, 0 where `--set` gave it. `texts` is the text of each plain value as it was written;
    an item of a list has its index, from 0, as the last part of its path.
    """

    def __init__(
        self,
        source: str,
        data: dict[str, Any],
        lines: Mapping[tuple[str, ...], int],
        texts: Mapping[tuple[str, ...], str] | None = None,
    ):
        self.source = source
        self.data = data
        self.lines = lines
        self.texts = texts or {}
        # Flags that stand for --set of a key.
        self.flags: dict[str, str] = {}

    def where(self, path: tuple[str, ...]) -> str:
        """`FILE:LINE` of a key, or of the nearest section around it that the file has; `--set` where that gave it."""
        given = {key[:end] for key, line in self.lines.items() if not line for end in range(1, len(key) + 1)}
        for end in range(len(path), 0, -1):
            if path[:end] in given:
                return self.flags.get(".".join(path[:end]), "--set")
            if path[:end] in self.lines:
                return f"{self.source}:{self.lines[path[:end]]}"
        return self.source

    def placed(self, error: InputError, settings: Iterable[str] = ()) -> InputError:
        """The error of a key with the place of the key: that of `--set` if one of the settings gave it."""
        if not error.key:
            return error
        label = ".".join(error.key)
        given = {setting.partition("=")[0].strip() for setting in settings}
        is_given = label in given or error.key[0] in given
        where = self.flags.get(label, "--set") if is_given else self.where(error.key)
        text = str(error) if label in str(error) else f"key '{label}': {error}"
        # The command line has no lines to point to.
        return InputError(f"{where}: {text}" if is_given or self.lines else text)

    def set(self, key: str, text: str, kind: type[Section]) -> None:
        """Override one dotted key of a `kind`, as `--set` does. Raises InputError where a parent is not a mapping.

        A key that is a list gets the values between commas.

        Of two keys that exclude each other, the one that is set replaces the other.
        """
        path, value = tuple(key.split(".")), parse_scalar(text)
        if next((each.is_list for each in leaves(kind) if each.name == key), False) and value is not None:
            value = [word.strip() for word in text.split(",")]
        target = self.data
        for part in path[:-1]:
            if target.get(part) is None:
                target[part] = {}  # `hpcjobs init` writes a section without values as a heading alone
            inner = target[part]
            if not isinstance(inner, dict):
                raise InputError(f"--set {key}: '{part}' is not a section")
            target = inner
        other = exclusive(kind).get(path[:2])
        if value is not None and other is not None:
            self.data[path[0]].pop(other[-1], None)
        target[path[-1]] = value
        self.lines = {**self.lines, path: 0}
        self.texts = {**self.texts, path: text}


def read_yaml(path: Path) -> Document:
    """Parse a YAML file. Raises InputError for a missing file, bad syntax, or a top level that is not a mapping."""
    try:
        with open_plain(path, follow=True) as file:
            text = file.read().decode("utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    lines: dict[tuple[str, ...], int] = {}
    texts: dict[tuple[str, ...], str] = {}
    try:
        node = yaml.compose(text, Loader=_Loader)
        data = yaml.load(text, Loader=_Loader)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InputError(f"{path}:{line}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise InputError(f"{path}: lists or sections lie too deep in each other") from None
    if not isinstance(data, dict):
        raise InputError(f"{path}: {'is empty: ' if data is None else ''}expected 'key: value' lines")
    try:
        _collect(path, node, (), lines, texts)
    except RecursionError:
        raise InputError(f"{path}: an alias (*NAME) stands inside what it repeats") from None
    return Document(str(path), data, lines, texts)


def _collect(
    path: Path,
    node: Any,
    above: tuple[str, ...],
    lines: dict[tuple[str, ...], int],
    texts: dict[tuple[str, ...], str],
) -> None:
    """Fill in the lines and texts of a node. Raises InputError for a key that is given twice or is no text."""
    if isinstance(node, yaml.ScalarNode):
        texts[above] = node.value
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _collect(path, item, (*above, str(index)), lines, texts)
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        inner = (*above, str(key.value))
        line = key.start_mark.line + 1
        if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
            raise InputError(f"{path}:{line}: key '{'.'.join(inner)}' is read as something other than text: quote it")
        if inner in lines:
            raise InputError(f"{path}:{line}: key '{'.'.join(inner)}' is given twice (first in line {lines[inner]})")
        lines[inner] = line
        _collect(path, value, inner, lines, texts)


def convert(document: Document, kind: type[Spec]) -> Spec:
    """Check a document against its type. Raises InputError for the first mistake."""
    _drop_empty(document.data, kind)
    for key in leaves(kind):
        if key.verbatim:
            _restore(document, key)
    try:
        spec = msgspec.convert(document.data, kind)
    except msgspec.ValidationError as error:
        raise InputError(_explain(document, kind, str(error))) from None
    for key in leaves(kind):
        path = tuple(key.name.split("."))
        value = _value_at(document.data, path)
        if isinstance(value, float) and math.isinf(value):
            raise InputError(f"{document.where(path)}: key '{key.name}': expected a finite number, got {value}")
        if isinstance(value, int) and value >= _TOO_LARGE:
            raise InputError(f"{document.where(path)}: key '{key.name}': expected less than 2^63, got {value:.3g}")
    return spec


def _value_at(data: Any, path: tuple[str, ...]) -> Any:
    """The value of a key, or None."""
    for name in path:
        data = data.get(name) if isinstance(data, dict) else None
    return data


def _drop_empty(data: dict[str, Any], kind: type[Section]) -> None:
    """Remove sections that hold no key, such as a `batch:` all of whose keys are behind a #."""
    for key in keys_of(kind):
        if key.section is not None and key.name in data:
            if data[key.name] is None and not key.optional:
                del data[key.name]
            elif isinstance(data[key.name], dict):
                _drop_empty(data[key.name], key.section)


def _restore(document: Document, key: Key) -> None:
    """Put the texts of a key back in place of what YAML read them as."""
    path = tuple(key.name.split("."))
    holder: Any = document.data
    for name in path[:-1]:
        holder = holder.get(name) if isinstance(holder, dict) else None
    value = holder.get(path[-1]) if isinstance(holder, dict) else None
    if isinstance(value, list):
        holder[path[-1]] = [document.texts.get((*path, str(index)), item) for index, item in enumerate(value)]
    elif isinstance(value, dict):
        holder[path[-1]] = {name: document.texts.get((*path, str(name)), item) for name, item in value.items()}
    elif path in document.texts and value is not None:
        holder[path[-1]] = document.texts[path]


_PLACE = re.compile(r" - at (?:`key` in )?`(?P<path>(?:key in )?\$[^`]*)`$")
_UNKNOWN = re.compile(r"Object contains unknown field `([^`]*)`")
_MISSING = re.compile(r"Object missing required field `([^`]*)`")


def _explain(document: Document, kind: type[Section], message: str) -> str:
    match = _PLACE.search(message)
    text = message[: match.start()] if match else message
    place = match["path"].removeprefix("key in ") if match else "$"
    path = tuple(re.findall(r"\.([A-Za-z_][\w-]*)", place))
    if unknown := _UNKNOWN.search(text):
        full = (*path, unknown[1])
        near = nearest(unknown[1], known_keys(kind, path))
        advice = "" if path or not kind.ADVICE or near.startswith("did you mean") else f"; {kind.ADVICE}"
        return f"{document.where(full)}: unknown key '{'.'.join(full)}': {near}{advice}"
    if missing := _MISSING.search(text):
        full = (*path, missing[1])
        return f"{document.where(path)}: key '{'.'.join(full)}' is missing"
    value = _value_at(document.data, path)
    key = next((each for each in leaves(kind) if each.name == ".".join(path)), None)
    if isinstance(value, dict) and value and key is not None and typing.get_origin(key.type) is dict:
        # msgspec does not say which of a mapping's free keys it means.
        name = _wrong_item(value, key.type)
        path, value = (*path, name), name if match and "key" in match[0].partition("$")[0] else value[name]
    elif isinstance(value, list) and (index := re.search(r"\[(\d+)\]$", place)):
        value = value[int(index[1])]
    where = document.where(path)
    label = f"key '{'.'.join(path)}': " if path else ""
    text = _plainly(text)
    if key is not None and text.startswith("invalid enum value"):
        text = f"expected one of {', '.join(choices(key.type))}"
    # The value helps more than its type, which msgspec names.
    is_shown = path and text.startswith("expected") and not isinstance(value, dict)
    found = f", got {_shown(value)}" if is_shown else ""
    if text == "expected a list" and isinstance(value, str) and value.split():
        found += f": write [{', '.join(value.split())}]"
    return f"{where}: {label}{text}{found}"


def _wrong_item(items: Mapping[str, Any], kind: Any) -> str:
    """The first key whose item alone is not of a mapping's type, or the first key."""
    for name, item in items.items():
        try:
            msgspec.convert({name: item}, kind)
        except msgspec.ValidationError:
            return name
    return next(iter(items))


def _shown(value: Any) -> str:
    return "nothing (null)" if value is None else repr(value)


def choices(kind: Any) -> list[str]:
    """All values of a type that names them, or of an optional one; else []."""
    if typing.get_origin(kind) is Literal:
        return list(map(str, typing.get_args(kind)))
    return [word for inner in typing.get_args(kind) for word in choices(inner)]


_PLAIN_TYPES = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text", "array": "a list"}


def _plainly(text: str) -> str:
    """msgspec's message with the words of YAML."""
    text = re.sub(r", got `[^`]*`$", "", text[0].lower() + text[1:])
    text = text.replace(" | null`", "`")
    if asked := re.search(r"`str` matching regex (.*)$", text):
        pattern = ast.literal_eval(asked[1])
        return f"expected {PLAINLY[pattern]}" if pattern in PLAINLY else text
    text = text.replace("`array` of length >= 1", "a list of one or more")
    return re.sub(
        r"`(\w+)`", lambda match: _PLAIN_TYPES.get(match[1], "a section" if match[1] == "object" else match[0]), text
    )


def known_keys(kind: type[Section], path: tuple[str, ...] = ()) -> list[str]:
    """Names of the keys that the section at `path` of `kind` may hold; none where there is no such section."""
    for name in path:
        inner = next((key.section for key in keys_of(kind) if key.name == name), None)
        if inner is None:
            return []
        kind = inner
    return [key.name for key in keys_of(kind)]


def dump(value: Any, **how: Any) -> str:
    """YAML that `read_yaml` reads as exactly this value; `how` are arguments of yaml.dump."""
    return str(yaml.dump(value, Dumper=_Dumper, **{"sort_keys": False, "allow_unicode": True, **how}))


def to_builtins(spec: Section) -> dict[str, Any]:
    """The spec as plain mappings and lists with every default, ready for YAML, and as YAML gives it back."""
    result: dict[str, Any] = _with_lists(msgspec.to_builtins(spec))
    return result


def _with_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_lists(inner) for key, inner in value.items()}
    return [_with_lists(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def parse_scalar(text: str) -> Any:
    """A value of `--set`, read as YAML reads it; what YAML reads as a list, a mapping or nothing stays text."""
    try:
        value = yaml.load(text, Loader=_Loader)  # a SafeLoader
    except (yaml.YAMLError, ValueError):
        return text
    return text if isinstance(value, (dict, list)) or (value is None and text.strip().lower() != "null") else value
