"""`hpcjobs data`: shards from NIH's files, or synthetic ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpcjobs.base.errors import HpcjobsError
from hpcjobs.cli import names
from hpcjobs.cli.progress import following

if TYPE_CHECKING:
    from hpcjobs.chexnet.data.dataset import Dataset
    from hpcjobs.chexnet.data.recipe import Recipe

_PATH = click.Path(path_type=Path)


class _SpreadImages(click.Command):
    """Reads `--images A B C`, to which a shell expands `--images images_*/`, as `--images A --images B --images C`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, list(_spread(args)))


def _spread(args: list[str]) -> Iterator[str]:
    within = False  # whether `arg` is a value of --images after the first
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
    """Make and check training shards, from NIH ChestX-ray14 or synthetic."""


_OUTPUT = (
    click.option("--out", type=_PATH, required=True, metavar="DIR", help="New folder for the shards."),
    click.option(
        "--workers",
        type=int,
        metavar="N",
        help="Processes.  [default: as many as are useful; 1 per job with --cluster]",
    ),
    click.option(
        "--cluster",
        metavar="NAME",
        shell_complete=names.clusters,
        help="Run as one Slurm job array, with the options of this profile.",
    ),
    click.option("--jobs", type=int, metavar="N", help="Jobs of that array.  [default: 4]"),
    click.option(
        "--only", multiple=True, metavar="SHARD", help="Rebuild only this shard of a finished DIR; may be repeated."
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
@click.option("--size", type=int, default=256, show_default=True, help="Width and height in pixels.")
@click.option("--seed", type=int, default=1, show_default=True, help="Picks the val patients and the order of train.")
@click.option(
    "--val-fraction", type=float, default=0.1, show_default=True, help="Part of the train_val patients in val."
)
@click.option("--skip-bad", is_flag=True, help="Exit 0 even if images are corrupt, missing or not listed.")
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

    --images takes one or more folders (`--images images_*/`) and searches them recursively. Images that are
    corrupt, missing or in no list are left out and named in DIR/bad-images.csv. The rest is prepared, but
    the exit code is 1; for a partial download give --skip-bad. After an interruption, run the same command
    again: it continues.
    """
    from hpcjobs.chexnet.data.quiet import quiet_tensorflow

    quiet_tensorflow()
    from hpcjobs.chexnet.data.prepare import nih_recipe

    _make(nih_recipe(folders, metadata, train_list, test_list, size, seed, val_fraction), "preparing", **output)
    if not output["only"]:
        _name_left_out(output["out"], skip_bad)


@data.command()
@click.option("--images", type=int, default=512, show_default=True, help="Number of images: 70/10/20 % train/val/test.")
@click.option("--size", type=int, default=64, show_default=True, help="Width and height in pixels.")
@click.option("--seed", type=int, default=1, show_default=True)
@_making
def synth(images: int, size: int, seed: int, **output: Any) -> None:
    """Make synthetic X-rays with findings that a network can learn, each as frequent as in NIH's data."""
    from hpcjobs.chexnet.data.quiet import quiet_tensorflow

    quiet_tensorflow()
    from hpcjobs.chexnet.data.synth import synth_recipe

    _make(synth_recipe(images, size, seed), "drawing", **output)


@data.command()
@click.argument("folder", type=_PATH, metavar="DIR")
@click.option("--json", "as_json", is_flag=True, help="Print what is damaged as JSON.")
def verify(folder: Path, as_json: bool) -> None:
    """Check every shard in DIR: size, checksum, records and label sums.

    If shards are damaged, their names and the command that rebuilds only them are printed, and the exit code is 1.
    """
    from hpcjobs.chexnet.data.quiet import quiet_tensorflow

    quiet_tensorflow()
    from hpcjobs.chexnet.data.verify import examine

    with following("verifying") as (progress, _):
        found = examine(folder, progress)
    where = found.dataset.folder
    if as_json:
        damaged = [{"split": each.split, "shard": each.shard, "problem": each.problem} for each in found.damages]
        shown = {"path": str(where), "shards": found.shards, "damaged": damaged, "rebuild": found.rebuild}
        click.echo(json.dumps(shown, indent=2))
    else:
        for each in found.damages:
            click.echo(f"{where / each.shard if each.shard else each.split}: {each.problem}")
        if found.rebuild:
            folders = " (each DIR: the folder of that file)" if "DIR..." in found.rebuild else ""
            these = "these shards" if len(found.damaged) > 1 else "this shard"
            click.echo(f"rebuild only {these} with{folders}\n  {found.rebuild}")
    if found.damages:
        raise HpcjobsError(
            f"{folder}: {len(found.damaged)} of {found.shards} shards are damaged"
            if found.damaged
            else f"{folder}: wrong counts"
        )
    if not as_json:
        click.echo(f"{where}: {found.shards} shards are undamaged")


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
    from hpcjobs.chexnet.data.build import make_or_rebuild
    from hpcjobs.chexnet.data.spread import chosen

    where = chosen(workers, cluster, jobs, only)
    with following(what) as (progress, say):
        dataset = make_or_rebuild(recipe, out, where, only, progress, say)
    _summary(dataset, as_json)


def _name_left_out(out: Path, skip: bool) -> None:
    """Name the images that are left out. Raises HpcjobsError if there are any, unless `skip`."""
    from hpcjobs.chexnet.data.bad_images import left_out

    found = left_out(out)
    if found is None:
        return
    for line in found.lines:
        click.echo(f"hpcjobs: warning: {line}", err=True)
    if not skip:
        raise HpcjobsError(
            f"{found.summary}. The rest is prepared; with --skip-bad this is not an error. To include images that you "
            "add or repair, give --out a new folder"
        )
    click.echo(f"hpcjobs: warning: {found.summary}", err=True)


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
