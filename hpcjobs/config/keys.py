"""The keys of experiments and profiles: names, types and descriptions, and a JSON Schema for editors."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Union

import msgspec

from hpcjobs.config.words import Section


@dataclasses.dataclass(frozen=True)
class Key:
    """One key of a section.

    `name` is the key as YAML spells it; `leaves` puts its sections in front (`train.steps`). `type` is the type without
    its `Annotated`. `section` is the class of the keys below this one, or None where the key holds a plain value; an
    `optional` section may be absent. `path` is folder or file if the value is a path or one of `words`, else empty;
    `here`: an absent path is the working folder. `verbatim`: the texts in the value are taken as they are written.
    """

    name: str
    type: Any
    description: str
    section: type[Section] | None
    optional: bool = False
    path: str = ""
    words: tuple[str, ...] = ()
    here: bool = False
    verbatim: bool = False

    @property
    def is_mapping(self) -> bool:
        """Whether the value holds keys of the user's own."""
        return typing.get_origin(self.type) is dict

    @property
    def is_list(self) -> bool:
        """Whether the value is a list."""
        return typing.get_origin(self.type) in (tuple, list)


@functools.cache  # msgspec evaluates the annotations anew each time: 20,000 run.yaml would take minutes
def keys_of(kind: type[Section]) -> tuple[Key, ...]:
    """The keys of one section, in the order of the source; those of sections within it are not included."""
    return tuple(_keys(kind))


def _keys(kind: type[Section]) -> Iterator[Key]:
    for field in msgspec.structs.fields(kind):
        bare, metadata = _unwrapped(field.type)
        inner, optional = _section(bare)
        described = next((each.description for each in metadata if each.description), None)
        if described is None and inner is not None:
            described = inspect.getdoc(inner)
        extra = {name: value for each in metadata for name, value in (each.extra or {}).items()}
        yield Key(field.encode_name, bare, described or "", inner, optional, **extra)


@functools.cache
def leaves(kind: type[Section]) -> tuple[Key, ...]:
    """Every key that holds a plain value, also those of inner sections, by dotted name, in the order of the source."""
    return tuple(_leaves(kind))


def _leaves(kind: type[Section]) -> Iterator[Key]:
    for key in keys_of(kind):
        if key.section is None:
            yield key
        else:
            for leaf in leaves(key.section):
                yield dataclasses.replace(leaf, name=f"{key.name}.{leaf.name}")


def exclusive(kind: type[Section]) -> dict[tuple[str, ...], tuple[str, ...]]:
    """The path of each key that excludes another one of its section, and the path of that other one."""
    found: dict[tuple[str, ...], tuple[str, ...]] = {}
    for key in keys_of(kind):
        if key.section is not None and key.section.EXCLUSIVE is not None:
            first, second = ((key.name, name) for name in key.section.EXCLUSIVE)
            found |= {first: second, second: first}
    return found


def _unwrapped(annotation: Any) -> tuple[Any, list[msgspec.Meta]]:
    """(type, its metadata) of an annotation."""
    if typing.get_origin(annotation) is not Annotated:
        return annotation, []
    bare, *metadata = typing.get_args(annotation)
    return bare, [each for each in metadata if isinstance(each, msgspec.Meta)]


def _section(kind: Any) -> tuple[type[Section] | None, bool]:
    """(the section that a type is, whether it may be None)."""
    choices = typing.get_args(kind) if typing.get_origin(kind) in (Union, types.UnionType) else (kind,)
    for choice in choices:
        if isinstance(choice, type) and issubclass(choice, Section):
            return choice, types.NoneType in choices
    return None, False


def schema(kind: type[Section]) -> dict[str, Any]:
    """JSON Schema (2020-12) of a YAML file of that kind, with a description of every key."""
    result: dict[str, Any] = msgspec.json.schema(kind)
    _describe_sections(kind, result["$defs"])
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_of_ecma(result)}


def schema_by(key: str, kinds: Mapping[str, type[Section]], default: str) -> dict[str, Any]:
    """JSON Schema of a YAML file whose `key` names its kind; without the key, it is of the kind `default`."""
    schemas = {name: schema(kind) for name, kind in kinds.items()}
    definitions = {name: about for each in schemas.values() for name, about in each["$defs"].items()}
    rules = [
        {
            "if": {"properties": {key: {"const": name}}, **_required(key, name != default)},
            "then": {"$ref": each["$ref"]},
        }
        for name, each in schemas.items()
    ]
    names = {"properties": {key: {"enum": list(kinds)}}}
    return {"$schema": schemas[default]["$schema"], **names, "allOf": rules, "$defs": definitions}


def _required(key: str, is_required: bool) -> dict[str, list[str]]:
    return {"required": [key]} if is_required else {}


def _describe_sections(kind: type[Section], definitions: dict[str, Any]) -> None:
    # msgspec puts a section's docstring where the section is defined, not at the key that refers to it.
    for key in keys_of(kind):
        if key.section is not None:
            about = definitions[kind.__name__]["properties"][key.name]
            about.setdefault("description", key.description)
            if "$ref" in about:  # a heading whose keys are all comments holds null
                about["anyOf"] = [{"$ref": about.pop("$ref")}, {"type": "null"}]
            _describe_sections(key.section, definitions)
        elif key.verbatim:
            # 3e-4 and yes are taken as texts.
            about = definitions[kind.__name__]["properties"][key.name]
            for place in ("items", "additionalProperties"):
                if place in about:
                    about[place]["type"] = ["string", "number", "boolean", "null"]


def _of_ecma(schema: Any) -> Any:
    """The same schema with patterns in JavaScript's dialect, as JSON Schema asks: `$` for `\\Z`, which it lacks."""
    if isinstance(schema, dict):
        return {
            key: value.replace(r"\Z", "$") if key == "pattern" and isinstance(value, str) else _of_ecma(value)
            for key, value in schema.items()
        }
    return [_of_ecma(each) for each in schema] if isinstance(schema, list) else schema
