"""`hpcjobs init`."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from hpcjobs.base.errors import InputError, SchedulerUnreachable
from hpcjobs.base.files import shown, write_new
from hpcjobs.cli import names, show
from hpcjobs.config import Cluster, Experiment, profiles
from hpcjobs.config.commented import commented
from hpcjobs.config.words import Name
from hpcjobs.plan import planning
from hpcjobs.schedulers.slurm import slurm_scheduler
from hpcjobs.schedulers.slurm.commands import Refused
from hpcjobs.trainers import chexnet

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
    whose = base if base.isprintable() else ascii(base)
    files = {own: commented(experiment, f"By `hpcjobs init`, with the values of {whose}.")}
    found, why = _profile(partition, device)
    if found is not None:
        profile = Path("clusters") / f"{found.cluster.name}.yaml"
        files[profile] = found.text
    written = _write(files, force)
    for path in written:
        click.echo(shown(path))
    for path in sorted(files.keys() - written.keys()):
        show.talk(f"{path} stays: it says the same")
    for path in files:
        kind = Experiment if path == own else Cluster
        for other in (other for each in profiles.available(kind) if each.name == path.stem for other in each.shadows):
            show.talk(f"in this folder '{path.stem}' now means {path}, and no more {other}")
    if found is not None:
        show.talk(f"look at what {profile} marks UNKNOWN")
    else:
        ignored = [flag for flag, value in (("--partition", partition), ("--device", device)) if value is not None]
        show.talk(
            f"no profile written{', for all ' + ' and '.join(ignored) if ignored else ''}: {why}. Give --cluster NAME "
            "(`hpcjobs cluster list`), or --cluster local to compute on this machine; on a login node `hpcjobs cluster "
            "detect` prints one"
        )
    if experiment.data.dir is None and not chexnet.makes_up_data(experiment):
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
    try:
        Path.cwd()
    except OSError as error:
        raise InputError(
            f"the working folder cannot be worked in: {error.strerror}; change to one that is there"
        ) from None
    (variant,) = planning.expand(profiles.read(Experiment, base), [])
    return msgspec.structs.replace(variant.experiment, name=name)


def _profile(partition: str | None, device: str | None) -> tuple[Detected | None, str]:
    """(what Slurm says of a partition, why there is none). Raises InputError where none can be chosen."""
    from hpcjobs.site import detect, facts

    if not slurm_scheduler.answers():
        return None, "Slurm does not answer here"
    try:
        return detect.detect(facts.ask(), partition, device), ""
    except (Refused, SchedulerUnreachable) as error:
        return None, f"Slurm did not say what its nodes are ({error})"


def _write(files: Mapping[Path, str], force: bool) -> dict[Path, str]:
    """Write all files or none, and return them, but for those that say the same already: they stay, so that a second
    experiment can be begun beside the first, and what was interrupted be run again.

    Raises InputError where one is there and may not be replaced, or cannot be written.
    """
    staged: dict[Path, Path] = {}
    made: list[Path] = []
    placed: list[Path] = []
    try:
        data = {path: _encoded(path, text) for path, text in files.items()}
        files = {path: text for path, text in files.items() if not _says(path, data[path])}
        for path in files:
            if path.is_dir():
                raise InputError(f"{path}: is a folder; move it away, or work in another folder")
            if os.path.lexists(path) and not force:
                raise _there_already(path)
        staged = {path: path.with_name(f".{path.name}.{secrets.token_hex(6)}") for path in files}
        for folder in {path.parent for path in files}:
            if not folder.is_dir():
                folder.mkdir()
                made.append(folder)
        write_new({staged[path]: text for path, text in files.items()})
        for path, temporary in staged.items():
            if force:
                os.replace(temporary, path)
            else:
                _place(temporary, path)
                placed.append(path)
        return dict(files)
    except BaseException as error:
        for path in placed:
            _undo(path.unlink)
        for path, temporary in staged.items():
            if isinstance(error, OSError) and error.filename == str(temporary):
                error.filename = str(path)
            _undo(temporary.unlink)
        for folder in made:
            _undo(folder.rmdir)
        if isinstance(error, OSError):
            raise InputError(f"{error.filename or Path.cwd()}: cannot be written: {error.strerror}") from None
        raise


def _undo(step: Callable[[], None]) -> None:
    with contextlib.suppress(OSError):
        step()


def _there_already(path: Path) -> InputError:
    return InputError(f"{path}: is there already; --force replaces it, and another folder leaves it as it is")


def _encoded(path: Path, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        line = text.split("\n")[text.count("\n", 0, error.start)].strip()
        raise InputError(f"{path}: cannot be written: {line!a} is not UTF-8; rename what is called so") from None


def _says(path: Path, data: bytes) -> bool:
    """Whether it says the same. What cannot be read does not."""
    try:
        return path.is_file() and path.read_bytes() == data
    except OSError:
        return False


def _place(temporary: Path, path: Path) -> None:
    """Rename a file. Raises InputError where another came there meanwhile: a rename would replace it."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise _there_already(path) from None
    except OSError:  # a file system without links: a last look is the best there is
        if os.path.lexists(path):
            raise _there_already(path) from None
        os.replace(temporary, path)
    else:
        temporary.unlink()
