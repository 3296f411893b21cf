"""Shows the progress of a long command on stderr: a bar on a terminal, otherwise a line every half minute."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

# Time between two lines if stderr is not a terminal.
_LINE_S = 30.0


@contextmanager
def following(what: str) -> Iterator[tuple[Callable[[int, int], None], Callable[[str], None]]]:
    """Yields (progress, say): progress takes the images done and their total; say takes a line for the user."""
    if not sys.stderr.isatty():
        yield _Lines(what).progress, lambda text: click.echo(text, err=True)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    # A copy of the descriptor: while the bar is drawn, decoding captures what libraries write to stderr.
    with os.fdopen(os.dup(2), "w") as stderr, Progress(*columns, console=Console(file=stderr)) as bar:
        task = bar.add_task(what, total=None, rate="")

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)
            if speed := bar.tasks[task].speed:
                bar.update(task, rate=f"{speed:.0f} images/s")

        yield progress, lambda text: bar.console.print(text, highlight=False, soft_wrap=True)


class _Lines:
    def __init__(self, what: str):
        self.what = what
        self.started = self.printed = time.monotonic()
        self.first: int | None = None

    def progress(self, done: int, total: int) -> None:
        if self.first is None:
            self.first = done
        now = time.monotonic()
        if now - self.printed < _LINE_S:
            return
        self.printed = now
        rate = (done - self.first) / (now - self.started)
        left = f", {(total - done) / rate / 60:.0f} min left" if rate else ""
        click.echo(f"{self.what}: {done} of {total} images, {rate:.0f} images/s{left}", err=True)
