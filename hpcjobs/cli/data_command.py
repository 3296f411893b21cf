"""`hpcjobs data`: shards from NIH's files, or made up."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpcjobs.base.errors import HpcjobsError, InputError
from hpcjobs.cli import names
from hpcjobs.cli.progress import following

if TYPE_CHECKING:
    from hpcjobs.chexnet.data.dataset import Dataset
    from hpcjobs.chexnet.data.recipe import Recipe
    from hpcjobs.chexnet.data.spread import Where

_PATH = click.Path(path_type=Path)
# Of the images that are not there; a partial download lacks thousands.
_NAMED_MISSING = 10


class _SpreadImages(click.Command):
    """Takes `--images A B C`, as a shell makes it of `--images images_*/`, for `--images A --images B --images C`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, list(_spread(args)))


def _spread(args: list[str]) -> Iterator[str]:
    within = False  # among the values of --images, past the first
    previous = ""
    for arg in args:
        if arg.startswith("-"):
            within = arg.startswith("--images=")
        elif previous == "--images":
            within = True
        elif within:
            yield "--images"
        yield arg
        previous = arg


@click.group()
def data() -> None:
    """Make and check training shards: from NIH ChestX-ray14, or made up."""


_OUTPUT = (
    click.option("--out", type=_PATH, required=True, metavar="DIR", help="New folder for the shards."),
    click.option(
        "--workers", type=int, metavar="N", help="Processes; with --cluster in each job (1). Default: as many as help."
    ),
    click.option(
        "--cluster",
        metavar="NAME",
        shell_complete=names.clusters,
        help="Work as one Slurm job array, asked for as this profile says.",
    ),
    click.option("--jobs", type=int, metavar="N", help="Jobs of that array (4)."),
    click.option(
        "--only", multiple=True, metavar="SHARD", help="Make just this shard of a finished DIR anew; repeatable."
    ),
    click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON."),
)


def _making(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options of the commands that make shards."""
    for option in reversed(_OUTPUT):
        command = option(command)
    return command


@data.command(cls=_SpreadImages)
@click.option("--images", "folders", type=_PATH, multiple=True, required=True, metavar="DIR...")
@click.option("--metadata", type=_PATH, required=True, metavar="CSV[.gz]", help="Data_Entry_2017, either release.")
@click.option("--train-list", type=_PATH, required=True, metavar="FILE", help="NIH's train_val_list.txt, or .gz.")
@click.option("--test-list", type=_PATH, required=True, metavar="FILE", help="NIH's test_list.txt, or .gz.")
@click.option("--size", type=int, default=256, show_default=True, help="Pixels a side.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of the val patients and the order of train.")
@click.option("--val-fraction", type=float, default=0.1, show_default=True, help="Of the train_val patients.")
@click.option("--skip-bad", is_flag=True, help="Exit 0 though images are corrupt, missing or not listed.")
@_making
def prepare(
    folders: tuple[Path, ...],
    metadata: Path,
    train_list: Path,
    test_list: Path,
    size: int,
    seed: int,
    val_fraction: float,
    skip_bad: bool,
    **output: Any,
) -> None:
    """Turn NIH ChestX-ray14 as downloaded into shards.

    --images takes one or many folders (`--images images_*/`), searched with all that is below them.
    Images that are corrupt, missing or listed nowhere are left out, named in DIR/bad-images.csv, and
    make the exit code 1 after all the rest is done; a partial download wants --skip-bad. Whatever
    interrupts it, the same command goes on.
    """
    quiet_tensorflow()
    from hpcjobs.chexnet.data.prepare import nih_recipe

    _make(nih_recipe(folders, metadata, train_list, test_list, size, seed, val_fraction), "preparing", **output)
    if not output["only"]:
        _tell_bad(output["out"], skip_bad)


@data.command()
@click.option("--images", type=int, default=512, show_default=True, help="Images in all: 70/10/20 train/val/test.")
@click.option("--size", type=int, default=64, show_default=True, help="Pixels a side.")
@click.option("--seed", type=int, default=1, show_default=True)
@_making
def synth(images: int, size: int, seed: int, **output: Any) -> None:
    """Make up X-rays with findings that a network can learn, as often as in NIH's data."""
    quiet_tensorflow()
    from hpcjobs.chexnet.data.synth import synth_recipe

    _make(synth_recipe(images, size, seed), "drawing", **output)


@data.command()
@click.argument("folder", type=_PATH, metavar="DIR")
@click.option("--json", "as_json", is_flag=True, help="Print what is damaged as JSON.")
def verify(folder: Path, as_json: bool) -> None:
    """Read every shard in DIR again: size, checksum, records and label sums.

    Says which is damaged and how to make just that one anew; the exit code is then 1.
    """
    quiet_tensorflow()
    from hpcjobs.chexnet.data.dataset import read_dataset
    from hpcjobs.chexnet.data.verify import rebuild_command
    from hpcjobs.chexnet.data.verify import verify as run

    with following("verifying") as (progress, _):
        found = run(folder, progress)
    dataset = read_dataset(folder)
    count = sum(len(split.shards) for split in dataset.splits.values())
    shards = [damage.shard for damage in found if damage.shard]
    rebuild = rebuild_command(dataset, shards) if shards else None
    if as_json:
        damaged = [{"split": damage.split, "shard": damage.shard, "problem": damage.problem} for damage in found]
        click.echo(
            json.dumps({"path": str(dataset.folder), "shards": count, "damaged": damaged, "rebuild": rebuild}, indent=2)
        )
    else:
        for damage in found:
            click.echo(f"{dataset.folder / damage.shard if damage.shard else damage.split}: {damage.problem}")
        if rebuild:
            folders = " (each DIR: the folder of what stands there)" if "DIR..." in rebuild else ""
            click.echo(f"make just {'these' if len(shards) > 1 else 'this'} anew with{folders}\n  {rebuild}")
    if found:
        raise HpcjobsError(
            f"{folder}: {len(shards)} of {count} shards are damaged" if shards else f"{folder}: wrong counts"
        )
    if not as_json:
        click.echo(f"{dataset.folder}: {count} shards are whole")


def quiet_tensorflow() -> None:
    """Call before TensorFlow is imported in a command of the control half."""
    # Its notes on CUDA, which no data command uses, would bury ours. Errors come as exceptions.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # A data command must not take memory from a training on the same GPU.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


def _make(
    recipe: Recipe,
    what: str,
    *,
    out: Path,
    workers: int | None,
    cluster: str | None,
    jobs: int | None,
    only: tuple[str, ...],
    as_json: bool,
) -> None:
    from hpcjobs.chexnet.data.build import make, rebuild

    where = _where(workers, cluster, jobs)
    if only and (cluster or workers):
        raise InputError("--only works in this process: leave out --workers and --cluster")
    with following(what) as (progress, say):
        try:
            dataset = rebuild(recipe, out, only, progress) if only else make(recipe, out, where, progress, say)
        except KeyboardInterrupt:
            say(f"{out}: what is done is kept, and the same command goes on")
            raise
    _summary(dataset, as_json)


def _where(workers: int | None, cluster: str | None, jobs: int | None) -> Where:
    from hpcjobs.chexnet.data.spread import Array, Local
    from hpcjobs.config import profiles

    if cluster is not None:
        return Array(profiles.cluster(cluster), 4 if jobs is None else jobs, 1 if workers is None else workers)
    if jobs is not None:
        raise InputError("--jobs needs --cluster; on this machine give --workers")
    return Local(workers)


def _tell_bad(out: Path, skip: bool) -> None:
    """Name the bad images, of the missing the first. Raises HpcjobsError where there are any, unless `skip`."""
    from hpcjobs.chexnet.data.build import BAD_IMAGES, MISSING, bad_images

    kinds = defaultdict(list)
    for name, problem, detail in bad_images(out):
        kinds[problem].append((name, detail))
    for problem, found in kinds.items():
        named = found[:_NAMED_MISSING] if problem == MISSING else found
        for name, detail in named:
            click.echo(f"hpcjobs: warning: {name} is {problem}: {detail}", err=True)
        if more := len(found) - len(named):
            click.echo(f"hpcjobs: warning: and {more} more that are {problem}, see {out / BAD_IMAGES}", err=True)
    if kinds:
        counts = ", ".join(f"{len(found)} {problem}" for problem, found in kinds.items())
        text = f"images left out: {counts}: see {out / BAD_IMAGES}"
        if not skip:
            raise HpcjobsError(
                f"{text}. All the rest is done; with --skip-bad this is no error. To take up images that you add or "
                "mend, give --out a new folder"
            )
        click.echo(f"hpcjobs: warning: {text}", err=True)


def _summary(dataset: Dataset, as_json: bool) -> None:
    rows = {
        name: {"images": split.images, "patients": split.patients, "shards": len(split.shards)}
        for name, split in dataset.splits.items()
    }
    bad = {"corrupt": dataset.corrupt, "missing": dataset.missing, "surplus": dataset.surplus}
    if as_json:
        click.echo(json.dumps({"path": str(dataset.folder), "splits": rows, **bad}, indent=2))
        return
    click.echo(f"{'split':5}  {'images':>7}  {'patients':>8}  {'shards':>6}")
    for name, row in rows.items():
        click.echo(f"{name:5}  {row['images']:7d}  {row['patients']:8d}  {row['shards']:6d}")
    click.echo(", ".join(f"{count} {problem}" for problem, count in bad.items()))
    click.echo(str(dataset.folder))
