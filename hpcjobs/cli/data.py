"""`hpcjobs data`: shards from NIH's files, or made up."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpcjobs.errors import HpcjobsError

if TYPE_CHECKING:
    from hpcjobs.data.dataset import Dataset

_PATH = click.Path(path_type=Path)
_NAMED = 10


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
    """Make training shards: from NIH ChestX-ray14, or made up."""


@data.command(cls=_SpreadImages)
@click.option("--images", "folders", type=_PATH, multiple=True, required=True, metavar="DIR...")
@click.option("--metadata", type=_PATH, required=True, metavar="CSV[.gz]", help="Data_Entry_2017, either release.")
@click.option("--train-list", type=_PATH, required=True, metavar="FILE", help="NIH's train_val_list.txt, or .gz.")
@click.option("--test-list", type=_PATH, required=True, metavar="FILE", help="NIH's test_list.txt, or .gz.")
@click.option("--out", type=_PATH, required=True, metavar="DIR", help="New folder for the shards.")
@click.option("--size", type=int, default=256, show_default=True, help="Pixels a side.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of the val patients and the order of train.")
@click.option("--val-fraction", type=float, default=0.1, show_default=True, help="Of the train_val patients.")
@click.option("--skip-bad", is_flag=True, help="Exit 0 though images could not be decoded and were left out.")
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
def prepare(
    folders: tuple[Path, ...],
    metadata: Path,
    train_list: Path,
    test_list: Path,
    out: Path,
    size: int,
    seed: int,
    val_fraction: float,
    skip_bad: bool,
    as_json: bool,
) -> None:
    """Turn NIH ChestX-ray14 as downloaded into shards.

    --images takes one or many folders (`--images images_*/`), searched with all that is below them;
    a partial download will do. Images that cannot be decoded are left out, listed in
    OUT/bad-images.csv, and make the exit code 1.
    """
    quiet_tensorflow()
    from hpcjobs.data.build import BAD_IMAGES
    from hpcjobs.data.prepare import bad_images
    from hpcjobs.data.prepare import prepare as run

    with _progress("preparing", out) as progress:
        dataset = run(folders, metadata, train_list, test_list, out, size, seed, val_fraction, progress)
    _summary(dataset, as_json)
    bad = bad_images(out)
    for name, reason in bad[:_NAMED]:
        click.echo(f"hpcjobs: warning: {name} left out: {reason}", err=True)
    if bad:
        text = f"{len(bad)} images could not be decoded and were left out: see {out / BAD_IMAGES}"
        if not skip_bad:
            raise HpcjobsError(text)
        click.echo(f"hpcjobs: warning: {text}", err=True)


@data.command()
@click.option("--out", type=_PATH, required=True, metavar="DIR", help="New folder for the shards.")
@click.option("--images", type=int, default=512, show_default=True, help="Images in all: 70/10/20 train/val/test.")
@click.option("--size", type=int, default=64, show_default=True, help="Pixels a side.")
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
def synth(out: Path, images: int, size: int, seed: int, as_json: bool) -> None:
    """Make up X-rays with findings that a network can learn, as often as in NIH's data."""
    quiet_tensorflow()
    from hpcjobs.data.synth import synth as run

    with _progress("drawing", out) as progress:
        dataset = run(out, images, size, seed, progress)
    _summary(dataset, as_json)


def quiet_tensorflow() -> None:
    """Call before TensorFlow is imported in a command of the control half."""
    # Its notes on CUDA, which no data command uses, would bury ours. Errors come as exceptions.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # A data command must not take memory from a training on the same GPU.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


@contextmanager
def _progress(what: str, out: Path) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr where that is a terminal; where nothing is to do, a line that says so."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    calls = 0
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)

        def update(done: int, total: int) -> None:
            nonlocal calls
            calls += 1
            bar.update(task, completed=done, total=total)

        yield update
    if not calls:
        click.echo(f"{out}: already made from the same inputs, nothing to do", err=True)


def _summary(dataset: Dataset, as_json: bool) -> None:
    rows = {
        name: {"images": split.images, "patients": split.patients, "shards": len(split.shards)}
        for name, split in dataset.splits.items()
    }
    if as_json:
        whole = {"path": str(dataset.folder), "splits": rows, "absent": dataset.absent, "bad": dataset.bad}
        click.echo(json.dumps(whole, indent=2))
        return
    click.echo(f"{'split':5}  {'images':>7}  {'patients':>8}  {'shards':>6}")
    for name, row in rows.items():
        click.echo(f"{name:5}  {row['images']:7d}  {row['patients']:8d}  {row['shards']:6d}")
    click.echo(f"{dataset.absent} images absent, {dataset.bad} bad")
    click.echo(str(dataset.folder))
