"""`hpcjobs cluster detect|list|show|schema`."""

from __future__ import annotations

import json

import click

from hpcjobs.cli import names
from hpcjobs.config import Cluster, dump, profiles, to_builtins


@click.group()
def cluster() -> None:
    """Detect, list and show cluster profiles, and print their JSON Schema."""


@cluster.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(as_json: bool) -> None:
    """List every profile that --cluster accepts, its origin, and the profiles that it shadows."""
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
    """Print the profile NAME (or a file) as YAML, with all defaults filled in."""
    data = to_builtins(profiles.cluster(name))
    click.echo(json.dumps(data) if as_json else dump(data), nl=as_json)


@cluster.command("detect")
@click.option("--partition", metavar="NAME", help="Partition to describe.  [default: the site's default partition]")
@click.option(
    "--device", type=click.Choice(["cpu", "gpu"]), help="What ranks compute on.  [default: gpu if Slurm has GPUs there]"
)
def detect(partition: str | None, device: str | None) -> None:
    """Print a commented profile of the Slurm cluster that answers here, as a first version.

    \b
    hpcjobs cluster detect > ~/.config/hpcjobs/clusters/mine.yaml
    """
    from hpcjobs.site import facts
    from hpcjobs.site.detect import profile_of

    click.echo(profile_of(facts.ask(), partition, device).text, nl=False)


@cluster.command("schema")
@click.argument("kind", type=click.Choice(["cluster", "experiment"]), default="cluster")
def schema(kind: str) -> None:
    """Print a JSON Schema of profiles (or of experiments), from which an editor completes and explains the keys.

    If the editor uses yaml-language-server, write the schema to a FILE and begin the profile with the line
    `# yaml-language-server: $schema=FILE`.
    """
    from hpcjobs.config import keys
    from hpcjobs.trainers.registry import DEFAULT, TRAINERS

    kinds = {name: trainer.keys for name, trainer in TRAINERS.items()}
    found = keys.schema(Cluster) if kind == "cluster" else keys.schema_by("trainer", kinds, DEFAULT)
    click.echo(json.dumps(found, indent=2))
