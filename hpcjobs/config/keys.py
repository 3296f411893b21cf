"""The keys of experiments and profiles for readers: what their comments say, and a JSON Schema for editors."""

from __future__ import annotations

import ast
import inspect
import textwrap
from typing import Any

import msgspec

from hpcjobs.config.cluster import Cluster
from hpcjobs.config.experiment import Experiment
from hpcjobs.config.words import Section


def comments(kind: type[Section]) -> dict[str, str]:
    """What stands above each key of a section in its source, by the key's name in YAML; "" where nothing does."""
    source = textwrap.dedent(inspect.getsource(kind))
    lines = source.splitlines()
    (tree,) = ast.parse(source).body
    assert isinstance(tree, ast.ClassDef)
    named = {field.name: field.encode_name for field in msgspec.structs.fields(kind)}
    found = {}
    for node in tree.body:
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
            continue
        first = node.lineno - 1
        while first and lines[first - 1].strip().startswith("#"):
            first -= 1
        above = [line.strip().removeprefix("#").strip() for line in lines[first : node.lineno - 1]]
        found[named[node.target.id]] = " ".join(above)
    return found


def schema(kind: type[Experiment] | type[Cluster]) -> dict[str, Any]:
    """JSON Schema (2020-12) of a YAML file of that kind, with the keys' comments as descriptions."""
    result: dict[str, Any] = msgspec.json.schema(kind)
    sections = {each.__name__: each for each in Section.__subclasses__()}
    for name, about in result["$defs"].items():
        for key, text in comments(sections[name]).items():
            if text:
                about["properties"][key]["description"] = text
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_of_ecma(result)}


def _of_ecma(schema: Any) -> Any:
    """With patterns as JSON Schema has them: JavaScript's $ is the very end, and \\Z is unknown."""
    if isinstance(schema, dict):
        return {
            key: value.replace(r"\Z", "$") if key == "pattern" else _of_ecma(value) for key, value in schema.items()
        }
    return [_of_ecma(each) for each in schema] if isinstance(schema, list) else schema
