"""`hpcjobs cluster detect|list|show|schema`."""

from __future__ import annotations

import json

import click

from hpcjobs.cli import names
from hpcjobs.config import Cluster, Experiment, dump, profiles, to_builtins


@click.group()
def cluster() -> None:
    """Find out, list, show and describe cluster profiles."""


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
@click.argument("name", shell_complete=names.clusters)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(name: str, as_json: bool) -> None:
    """The profile NAME (or file) with every default spelt out, as YAML."""
    data = to_builtins(profiles.cluster(name))
    click.echo(json.dumps(data) if as_json else dump(data), nl=as_json)


@cluster.command("detect")
@click.option("--partition", metavar="NAME", help="Whose nodes to describe.  [default: the site's default one]")
@click.option(
    "--device", type=click.Choice(["cpu", "gpu"]), help="What ranks compute on.  [default: gpu where Slurm has GPUs]"
)
def detect(partition: str | None, device: str | None) -> None:
    """Print a commented profile of the Slurm that answers here, to begin with.

    \b
    hpcjobs cluster detect > ~/.config/hpcjobs/clusters/mine.yaml
    """
    from hpcjobs.site import facts
    from hpcjobs.site.detect import profile_of

    click.echo(profile_of(facts.ask(), partition, device).text, nl=False)


@cluster.command("schema")
@click.argument("kind", type=click.Choice(["cluster", "experiment"]), default="cluster")
def schema(kind: str) -> None:
    """A JSON Schema of profiles (or of experiments), with which an editor knows and explains the keys.

    Where the editor speaks YAML by yaml-language-server, a first line
    `# yaml-language-server: $schema=FILE` names the file it was written to.
    """
    from hpcjobs.config import keys

    click.echo(json.dumps(keys.schema(Cluster if kind == "cluster" else Experiment), indent=2))
