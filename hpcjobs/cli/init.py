"""`hpcjobs init`."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from hpcjobs import plan as planning
from hpcjobs import profiles
from hpcjobs.cli import demo, names, show
from hpcjobs.errors import InputError, SchedulerUnreachable
from hpcjobs.files import shown, write_new
from hpcjobs.schedulers import slurm
from hpcjobs.schedulers.slurm.commands import Refused
from hpcjobs.spec import Cluster, Experiment
from hpcjobs.spec.commented import commented
from hpcjobs.spec.words import Name

if TYPE_CHECKING:
    from hpcjobs.site.detect import Detected


@click.command()
@click.argument("name", default="mine")
@click.option(
    "--base",
    default="chexnet",
    show_default=True,
    metavar="EXPERIMENT",
    shell_complete=names.experiments,
    help="The experiment whose values it begins with: a name, or a file.",
)
@click.option("--partition", metavar="NAME", help="Whose nodes the profile describes.  [default: the site's default]")
@click.option(
    "--device", type=click.Choice(["cpu", "gpu"]), help="What ranks compute on.  [default: gpu where Slurm has GPUs]"
)
@click.option("--force", is_flag=True, help="Replace files that are there.")
def init(name: str, base: str, partition: str | None, device: str | None, force: bool) -> None:
    """Begin a study in this folder: write experiments/NAME.yaml, and clusters/CLUSTER.yaml where Slurm answers.

    The experiment (NAME is `mine` unless you give one) has every key with a comment, and the values of --base; the
    profile is what `hpcjobs cluster detect` prints. Commands that run in this folder find both by their names.

    \b
    hpcjobs init
    hpcjobs init trial --base demo
    """
    experiment = _experiment(name, base)
    own = Path("experiments") / f"{name}.yaml"
    files = {own: commented(experiment, f"By `hpcjobs init`, with the values of {base}.")}
    found, why = _profile(partition, device)
    if found is not None:
        profile = Path("clusters") / f"{found.cluster.name}.yaml"
        # One that says the same stays, so that a second experiment can be begun beside the first.
        if not (profile.is_file() and profile.read_bytes() == found.text.encode()):
            files[profile] = found.text
    _write(files, force)
    for path in files:
        click.echo(shown(path))
    if found is not None:
        show.talk(f"look at what {profile} marks UNKNOWN")
    else:
        ignored = [flag for flag, value in (("--partition", partition), ("--device", device)) if value is not None]
        show.talk(
            f"no profile written{', for all ' + ' and '.join(ignored) if ignored else ''}: {why}. Give --cluster NAME "
            "(`hpcjobs cluster list`), or --cluster local to compute on this machine; on a login node `hpcjobs cluster "
            "detect` prints one"
        )
    if experiment.data.dir is None and not demo.is_made_up(experiment):
        show.talk(f"name the data in {own}: data.dir, a folder that `hpcjobs data prepare` (or `data synth`) made")
    cluster = found.cluster if found is not None else profiles.cluster("local")
    words = f"--gpus {_sizes(cluster)} --experiment {name} --cluster {cluster.name}"
    show.talk(f"then:\n  hpcjobs check {words}\n  hpcjobs sweep {words} --dry-run\n  hpcjobs sweep {words}")


def _sizes(cluster: Cluster) -> str:
    """GPU counts to begin with: one, a node, two nodes."""
    node = cluster.gpus_per_node or 2
    several = cluster.gpus_per_node is not None and cluster.nodes != 1
    return ",".join(map(str, sorted({1, node, 2 * node if several else node})))


def _experiment(name: str, base: str) -> Experiment:
    """The base under its new name, its paths absolute. Raises InputError."""
    try:
        msgspec.convert(name, Name)
    except msgspec.ValidationError:
        raise InputError(
            f"NAME {name}: cannot name an experiment: give up to 40 letters (A to z), digits, - and _, the first a "
            "letter or a digit"
        ) from None
    (variant,) = planning.expand(profiles.read(Experiment, base), [])
    return msgspec.structs.replace(variant.experiment, name=name)


def _profile(partition: str | None, device: str | None) -> tuple[Detected | None, str]:
    """(what Slurm says of a partition, why there is none). Raises InputError where none can be chosen."""
    from hpcjobs.site import detect, facts

    if not slurm.answers():
        return None, "Slurm does not answer here"
    try:
        return detect.detect(facts.ask(), partition, device), ""
    except (Refused, SchedulerUnreachable) as error:
        return None, f"Slurm did not say what its nodes are ({error})"


def _write(files: Mapping[Path, str], force: bool) -> None:
    """Write all files or none. Raises InputError where one is there and may not be replaced, or cannot be written."""
    for path in files:
        if path.is_dir():
            raise InputError(f"{path}: is a folder; move it away, or work in another folder")
        if os.path.lexists(path) and not force:
            raise InputError(f"{path}: is there already; --force replaces it, and another folder leaves it as it is")
    staged = {path: path.with_name(f".{path.name}.{secrets.token_hex(6)}") for path in files}
    made: list[Path] = []
    try:
        for folder in {path.parent for path in files}:
            if not folder.is_dir():
                folder.mkdir()
                made.append(folder)
        write_new({staged[path]: text for path, text in files.items()})
        # Behind this nothing fails but the disk itself: each rename is within a folder that was just written to.
        for path, temporary in staged.items():
            os.replace(temporary, path)
    except BaseException as error:
        for undo in (*(path.unlink for path in staged.values()), *(folder.rmdir for folder in made)):
            with contextlib.suppress(OSError):
                undo()
        if isinstance(error, OSError):
            raise InputError(f"{error.filename or Path.cwd()}: cannot be written: {error.strerror}") from None
        raise
