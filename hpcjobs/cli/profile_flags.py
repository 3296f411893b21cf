"""Flags that replace keys of the cluster profile, for what changes from day to day."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import click

from hpcjobs.config import Cluster
from hpcjobs.site.choose import OVERRIDABLE, overridden

# The parameter names of all these flags and of --sbatch.
NAMES = (*OVERRIDABLE, "sbatch")


@dataclasses.dataclass(frozen=True)
class Flags:
    """The flags that were given."""

    keys: dict[str, str]
    sbatch: tuple[str, ...]

    def applied_to(self, cluster: Cluster) -> Cluster:
        """The profile with these flags applied. Raises InputError."""
        return overridden(cluster, self.keys, self.sbatch)


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add these flags to a command, which receives them as `flags`."""

    @functools.wraps(command)
    def wrapped(*args: Any, sbatch: tuple[str, ...], **others: Any) -> Any:
        given = {key: value for key in OVERRIDABLE if (value := others.pop(key)) is not None}
        return command(*args, flags=Flags(given, sbatch), **others)

    help_ = "Any other option of sbatch, without the dashes; may be repeated."
    decorate = [
        click.option(f"--{key}", metavar="TEXT", help=f"{text}  [default: the profile's]")
        for key, text in OVERRIDABLE.items()
    ]
    decorate.append(click.option("--sbatch", multiple=True, metavar="OPTION=VALUE", help=help_))
    for each in reversed(decorate):
        wrapped = each(wrapped)
    return wrapped
