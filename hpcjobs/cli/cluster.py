"""`hpcjobs cluster list|show|schema`."""

from __future__ import annotations

import json

import click
import yaml

from hpcjobs import profiles
from hpcjobs.spec import Cluster, Experiment, to_builtins


@click.group()
def cluster() -> None:
    """List, show and describe cluster profiles."""


@cluster.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(as_json: bool) -> None:
    """Every profile that --cluster takes, where it comes from, and what it shadows."""
    found = profiles.available(Cluster)
    if as_json:
        click.echo(
            json.dumps(
                [
                    {
                        "name": each.name,
                        "origin": each.origin,
                        "path": str(each.path),
                        "shadows": [str(path) for path in each.shadows],
                    }
                    for each in found
                ]
            )
        )
        return
    for each in found:
        shadows = f"  (shadows {', '.join(str(path) for path in each.shadows)})" if each.shadows else ""
        click.echo(f"{each.name:<12} {each.origin:<15} {each.path}{shadows}")


@cluster.command("show")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(name: str, as_json: bool) -> None:
    """The profile NAME (or file) with every default spelt out, as YAML."""
    data = to_builtins(profiles.cluster(name))
    click.echo(json.dumps(data) if as_json else yaml.safe_dump(data, sort_keys=False, allow_unicode=True), nl=as_json)


@cluster.command("schema")
@click.argument("kind", type=click.Choice(["cluster", "experiment"]), default="cluster")
def schema(kind: str) -> None:
    """A JSON Schema of profiles (or of experiments), with which an editor knows and explains the keys.

    Where the editor speaks YAML by yaml-language-server, a first line
    `# yaml-language-server: $schema=FILE` names the file it was written to.
    """
    from hpcjobs.spec import keys

    click.echo(json.dumps(keys.schema(Cluster if kind == "cluster" else Experiment), indent=2))
