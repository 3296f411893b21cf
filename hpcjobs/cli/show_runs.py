"""What the commands print of the runs of a study: a row for each, or of many, counts and some of those that failed."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import click

from hpcjobs.base.records import RunState
from hpcjobs.cli.show import talk, terminal
from hpcjobs.engine.state import RunStatus

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from hpcjobs.study import Study

_STYLES = {
    RunState.DONE: "green",
    RunState.FAILED: "red",
    RunState.LOST: "red",
    RunState.CANCELLED: "yellow",
    RunState.RUNNING: "cyan",
}


def status_table(runs: Sequence[RunStatus]) -> Table:
    """One line per run."""
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, header_style="bold", pad_edge=False)
    units = {run.progress.unit for run in runs if run.progress.throughput}
    rate_name = f"{next(iter(units)) or 'units'}/s" if len(units) == 1 else "rate"
    for name in ("run", "gpus", "state", "job", "nodes", "steps", "epoch", rate_name, "elapsed", "last line", "reason"):
        figure = name in ("gpus", "steps", "epoch", rate_name, "elapsed", "last line")
        grid.add_column(name, justify="right" if figure else "left", overflow="fold")
    for run in runs:
        done = run.progress
        steps = f"{done.step}/{done.steps}" if done.steps else str(done.step or "")
        epoch = f"{done.epoch}/{done.epochs}" if done.epoch and done.epochs else ""
        rate = f"{done.throughput:.1f}" if done.throughput else ""
        rate += f" {done.unit or 'units'}/s" if rate and len(units) > 1 else ""
        state = Text(str(run.state), style=_STYLES.get(run.state, ""))
        # Text, not markup: a log line may hold brackets.
        places = run.nodelist
        figures = (steps, epoch, rate, elapsed(run), last_line(run))
        grid.add_row(run.run, str(run.gpus), state, run.task, places, *figures, Text(reason(run)))
    return grid


def reason(run: RunStatus) -> str:
    """The reason of a run's state, as one line."""
    why = run.said if run.failure is None else f"{run.failure} -- {run.failure.hint}"
    return "; ".join(part for part in (why, run.clock) if part)


def elapsed(run: RunStatus) -> str:
    """Time since the run began, H:MM:SS; empty before, and where clocks contradict each other."""
    if run.start is None or run.clock or (run.end is not None and run.end < run.start):
        return ""
    seconds = int((run.end or time.time()) - run.start)
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def last_line(run: RunStatus) -> str:
    """How long ago the log of a running command was last written, such as `12 s ago`; empty if it is not known."""
    ago = run.progress.ago_s
    if ago is None or run.state is not RunState.RUNNING:
        return ""
    return f"{ago:.0f} s ago" if ago < 120 else f"{ago / 60:.0f} min ago"


def status_json(runs: Iterable[RunStatus]) -> Iterator[str]:
    """The status as a JSON list, in parts: the nodes of all runs together may be millions."""
    yield "["
    for number, run in enumerate(runs):
        yield f"{', ' if number else ''}{json.dumps(_as_json(run))}"
    yield "]\n"


def _as_json(run: RunStatus) -> dict[str, object]:
    return {
        "run": run.run,
        "gpus": run.gpus,
        "state": str(run.state),
        "job": run.task,
        "word": run.word,
        "attempt": run.attempt,
        "nodes": list(run.nodes),
        "step": run.progress.step,
        "steps": run.progress.steps,
        "epoch": run.progress.epoch,
        "epochs": run.progress.epochs,
        "throughput": run.progress.throughput,
        "unit": run.progress.unit,
        "ago_s": run.progress.ago_s if run.state is RunState.RUNNING else None,
        "start": run.start,
        "end": run.end,
        "failure": run.failure.kind if run.failure else None,
        "reason": run.failure.evidence if run.failure else run.reason,
        "hint": run.failure.hint if run.failure else "",
        "clock": run.clock,
    }


def counts(runs: Sequence[RunStatus]) -> str:
    """Such as `2 done, 1 running`, in the order in which a run goes through the states."""
    found = Counter(run.state for run in runs)
    return ", ".join(f"{found[state]} {state}" for state in RunState if state in found)


def exit_code(runs: Sequence[RunStatus]) -> int:
    """1 if a run failed, was cancelled or is lost; else 0."""
    return int(any(run.state.final and run.state is not RunState.DONE for run in runs))


def print_status(runs: Sequence[RunStatus], as_json: bool) -> None:
    """The status to stdout."""
    if as_json:
        for part in status_json(runs):
            click.echo(part, nl=False)
    else:
        terminal().print(_view(runs))


def _view(runs: Sequence[RunStatus], height: int | None = None) -> RenderableType:
    """A row for each run, or of more than anybody reads (or than a terminal of that height has lines) a summary."""
    from rich.console import Group
    from rich.text import Text

    from hpcjobs.report import many  # imports rich

    if len(runs) <= many.EACH and (height is None or len(runs) < height):
        return status_table(runs)
    briefs = many.of_statuses(runs)
    parts: list[RenderableType] = [Text(f"{len(runs):,} runs: {counts(runs)}"), "", many.by_size(briefs).terminal()]
    if any(run.is_lost for run in briefs):
        parts += ["", many.by_cause(briefs).terminal()]
    if (reasons := many.by_reason(briefs)).rows:
        parts += ["", reasons.terminal()]
    if len(runs) > many.EACH and height is None:
        few = [runs[number] for number in many.shown(briefs)]
        parts += ["", status_table(few)] if few else []
        parts += ["", Text(many.left_out(briefs, "--json"))]
    return Group(*parts)


def tell_lost(runs: Sequence[RunStatus]) -> None:
    """A line to stderr for each run without a result; of many for some that ended without one, and how many did."""
    from hpcjobs.report import many  # imports rich

    briefs = many.of_statuses(runs)
    for number in many.shown(briefs):
        if runs[number].state is not RunState.DONE:
            talk(f"{runs[number].run} {runs[number].state}: {reason(runs[number])}")
    if len(runs) > many.EACH:
        talk(many.left_out(briefs, "`hpcjobs status FOLDER --json`"))


def wait(study: Study) -> list[RunStatus]:
    """Follow the runs live on stderr until every one has ended. Raises KeyboardInterrupt."""
    console = terminal(stderr=True)
    if console.is_terminal:
        from rich.live import Live

        with Live(console=console, auto_refresh=False, transient=True) as live:
            return study.wait(lambda now: live.update(_view(now, console.height), refresh=True))
    shown_last = ""

    def changed(now: Sequence[RunStatus]) -> None:
        nonlocal shown_last
        if shown_last != counts(now):
            shown_last = counts(now)
            talk(shown_last)

    return study.wait(changed)
