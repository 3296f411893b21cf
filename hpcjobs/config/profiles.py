"""Finds experiments and cluster profiles by name.

The working folder is searched first, then the user's config folder, the site's config folder, and what ships with
hpcjobs. The first file of a name is used: it shadows the others.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import platformdirs

from hpcjobs.base.errors import InputError, nearest
from hpcjobs.config import Cluster, Document, Experiment, convert, read_yaml, to_builtins


@dataclasses.dataclass(frozen=True)
class Found:
    """A YAML file with its name, where it was found, and the files of the same name that it shadows."""

    name: str
    origin: str
    path: Path
    shadows: tuple[Path, ...] = ()


def _shipped(folder: str) -> Path:
    # hpcjobs is installed from a wheel or as an editable package, never as a zip: this is a real folder.
    root = Path(str(resources.files("hpcjobs.experiments")))
    return root / folder


def _folders(kind: type[Experiment] | type[Cluster]) -> Iterator[tuple[str, Path]]:
    own = "clusters" if kind is Cluster else "experiments"
    yield "working folder", Path.cwd() / own
    yield "user", Path(platformdirs.user_config_dir("hpcjobs")) / own
    yield "site", Path(platformdirs.site_config_dir("hpcjobs")) / own
    yield "hpcjobs", _shipped("clusters" if kind is Cluster else "")


def available(kind: type[Experiment] | type[Cluster]) -> list[Found]:
    """All experiments or profiles that can be named, sorted by name."""
    by_name: dict[str, list[tuple[str, Path]]] = {}
    seen: set[str] = set()
    for origin, folder in _folders(kind):
        for path in sorted(folder.glob("*.yaml")):
            real = os.path.realpath(path)  # raises no error for a loop of links
            if real not in seen:  # the working folder may be the repository of hpcjobs, whose files also ship
                seen.add(real)
                by_name.setdefault(path.stem, []).append((origin, path))
    return [
        Found(name, places[0][0], places[0][1], tuple(path for _, path in places[1:]))
        for name, places in sorted(by_name.items())
    ]


def read(kind: type[Experiment] | type[Cluster], name: str) -> Document:
    """The document called `name`, or at that path if `name` looks like a path.

    Raises InputError where there is none. It names the nearest known name, or all of them.
    """
    if "/" in name or name.endswith((".yaml", ".yml")):
        return read_yaml(Path(name))
    known = {found.name: found for found in available(kind)}
    if name not in known:
        raise InputError(f"no {kind.__name__.lower()} '{name}': {nearest(name, known)}")
    return read_yaml(known[name].path)


def cluster(name: str) -> Cluster:
    """The profile of that name or path, with an absolute `template`. Raises InputError."""
    document = read(Cluster, name)
    template = document.data.get("template")
    if isinstance(template, str) and template:
        document.data["template"] = str((Path(document.source).parent / template).resolve())
    return convert(document, Cluster)


def override(cluster: Cluster, keys: Mapping[str, str], sbatch: Sequence[str] = ()) -> Cluster:
    """The profile with the values of `keys` and the `sbatch` options (OPTION=VALUE or OPTION) in place of its own.

    Raises InputError, which names the flag, for a value that the profile itself could not have.
    """
    changes: list[tuple[str, str, Any]] = [(f"--{key}", key, value) for key, value in keys.items()]
    options: dict[str, Any] = dict(cluster.sbatch)
    for word in sbatch:
        option, equals, value = word.removeprefix("--").partition("=")
        # The value is not read as YAML, because 010 or `on` may be a name.
        known = {"true": True, "false": False}.get(value, value) if equals else True
        options = {**options, option: known}
        changes.append((f"--sbatch {word}", "sbatch", options))
    for source, key, value in changes:
        cluster = convert(Document(source, {**to_builtins(cluster), key: value}, {}), Cluster)
    return cluster


def config_files() -> list[Path]:
    """The config.yaml files that exist: the user's, then the site's. The first one is used."""
    folders = (platformdirs.user_config_dir("hpcjobs"), platformdirs.site_config_dir("hpcjobs"))
    return [path for folder in folders if (path := Path(folder) / "config.yaml").is_file()]


def default_cluster() -> str | None:
    """The default profile, as `cluster: NAME` in the user's or else the site's config.yaml names it.

    Raises InputError where that file holds anything else.
    """
    for path in config_files()[:1]:
        document = read_yaml(path)
        for key in document.data:
            if key != "cluster":
                raise InputError(f"{document.where((str(key),))}: unknown key '{key}': known: cluster")
        name = document.data.get("cluster")
        if not isinstance(name, str):
            raise InputError(f"{document.where(('cluster',))}: key 'cluster': expected the name of a profile")
        return name
    return None
