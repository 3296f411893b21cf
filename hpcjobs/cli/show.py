"""What the commands print: results to stdout, lines for the user to stderr.

Importing rich takes 50 ms, so it is imported in functions: completion and --help do not need it.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpcjobs.base.files import shown
from hpcjobs.base.records import RunState
from hpcjobs.engine.state import RunStatus
from hpcjobs.engine.sweep import Sweep
from hpcjobs.plan.estimate import Estimate
from hpcjobs.schedulers.factory import capabilities

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from hpcjobs.study import Study

# Width of a table that goes to a file or a pipe, which have no width.
_PIPE_WIDTH = 160
_STYLES = {
    RunState.DONE: "green",
    RunState.FAILED: "red",
    RunState.LOST: "red",
    RunState.CANCELLED: "yellow",
    RunState.RUNNING: "cyan",
}


def talk(text: str) -> None:
    """A line to stderr."""
    click.echo(text, err=True)


def shorten(path: Path) -> str:
    """The path as one would type it here, quoted for a shell if needed."""
    return shlex.quote(shown(path))


def terminal(stderr: bool = False) -> Console:
    """The console for a table. Its width is the terminal's, or a fixed one if the output is not a terminal."""
    from rich.console import Console

    console = Console(stderr=stderr, highlight=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=_PIPE_WIDTH)


def plan(sweep: Sweep, expected: Estimate, to_stdout: bool = False) -> None:
    """Print the plan: one line per job, then its cost, then the warnings."""
    from rich.table import Table
    from rich.text import Text

    cluster = sweep.plan.cluster
    grid = Table(box=None, header_style="bold", pad_edge=False)
    words = (
        "gpus",
        "nodes",
        "processes/node",
        "CPUs/process",
        "runs",
        "minutes/run",
        "GPU-hours",
        "script",
        "could start",
    )
    for name in words:
        grid.add_column(name, justify="left" if name in ("script", "could start") else "right")
    for group in sweep.plan.submitted:
        size, cost = group.size, expected.costs[group.name]
        one = group is sweep.plan.allocation
        minutes = cost.minutes if not one or cost.minutes is None else cost.minutes / len(group.runs)
        grid.add_row(
            *map(
                str,
                (
                    size.gpus,
                    size.nodes,
                    size.processes_per_node,
                    size.per_process(cluster.cpus_per_gpu),
                    len(group.runs),
                ),
            ),
            *map(_figure, (minutes, cost.gpu_hours)),
            f"{group.name}.sbatch",
            expected.starts.get(group.name, "unknown"),
        )
    console = terminal(stderr=not to_stdout)
    name = sweep.plan.variants[0].experiment.name
    # Nobody shares this machine by a profile's key.
    sharing = f" ({cluster.sharing} nodes)" if capabilities(cluster).compute_nodes else ""
    title = f"sweep of {name} on {cluster.name}{sharing}: {_count(len(sweep.plan.runs), 'run')}"
    console.print(f"{title} in {_count(len(sweep.plan.submitted), 'job')}", soft_wrap=True)
    console.print(grid)
    for line in _commands(sweep):
        console.print(Text(line), soft_wrap=True)
    console.print(_whole_cost(sweep, expected), soft_wrap=True)
    for warning in expected.warnings:
        console.print(Text(f"warning: {warning}"), soft_wrap=True)


def _commands(sweep: Sweep) -> Iterator[str]:
    """What the runs of each variant execute, quoted: a line, or one for each size if the sizes differ.

    Nothing, if it is no command of the user's.
    """
    from hpcjobs.jobs.arms import launch_of, shown_command

    plan = sweep.plan
    for variant in plan.variants:
        sizes: dict[str, list[int]] = {}
        for run in plan.runs:
            if run.variant is variant and run.repeat == 1 and launch_of(run, plan.cluster).open:
                sizes.setdefault(shown_command(run, plan.cluster), []).append(run.size.gpus)
        for command, gpus in sizes.items():
            places = [f"gpus {','.join(map(str, gpus))}"] if len(sizes) > 1 else []
            label = "; ".join([*places, *([variant.params] if variant.params else [])])
            yield f"{label or 'command'}: {command}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _whole_cost(sweep: Sweep, expected: Estimate) -> str:
    costs = [expected.costs[group.name] for group in sweep.plan.submitted]
    hours = [cost.gpu_hours for cost in costs if cost.gpu_hours is not None]
    if len(hours) < len(costs):
        return f"GPU-hours: unknown ({expected.unknown})"
    idle = sum(cost.idle_gpu_hours or 0 for cost in costs)
    kept = f", {_figure(idle)} of them on idle GPUs" if idle else ""
    most = "at most " if expected.at_most else ""
    return f"GPU-hours: {most}{_figure(sum(hours))}{kept} (without evaluations, at {expected.source})"


def _figure(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"


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
    if run.failure is not None:
        return f"{run.failure} -- {run.failure.hint}"
    word = "" if run.word.lower() in (str(run.state), "completed") else run.word
    return " ".join(part for part in (word, run.reason) if part)


def elapsed(run: RunStatus) -> str:
    """Time since the run began, H:MM:SS; empty before."""
    if run.start is None:
        return ""
    seconds = int((run.end or time.time()) - run.start)
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def last_line(run: RunStatus) -> str:
    """How long ago the log of a running command was last written, such as `12 s ago`; empty if it is not known."""
    ago = run.progress.ago_s
    if ago is None or run.state is not RunState.RUNNING:
        return ""
    return f"{ago:.0f} s ago" if ago < 120 else f"{ago / 60:.0f} min ago"


def status_json(runs: Sequence[RunStatus]) -> str:
    """The status as a JSON list."""
    return json.dumps(
        [
            {
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
            }
            for run in runs
        ]
    )


def counts(runs: Sequence[RunStatus]) -> str:
    """Such as `2 done, 1 running`, in the order in which a run goes through the states."""
    states = [run.state for run in runs]
    return ", ".join(f"{states.count(state)} {state}" for state in RunState if state in states)


def exit_code(runs: Sequence[RunStatus]) -> int:
    """1 if a run failed, was cancelled or is lost; else 0."""
    return int(any(run.state.final and run.state is not RunState.DONE for run in runs))


def print_status(runs: Sequence[RunStatus], as_json: bool) -> None:
    """The status to stdout."""
    if as_json:
        click.echo(status_json(runs))
    else:
        terminal().print(status_table(runs))


def wait(study: Study) -> list[RunStatus]:
    """Follow the runs live on stderr until every one has ended. Raises KeyboardInterrupt."""
    console = terminal(stderr=True)
    if console.is_terminal:
        from rich.live import Live

        with Live(console=console, auto_refresh=False, transient=True) as live:
            return study.wait(lambda now: live.update(status_table(now), refresh=True))
    shown_last = ""

    def changed(now: Sequence[RunStatus]) -> None:
        nonlocal shown_last
        if shown_last != counts(now):
            shown_last = counts(now)
            talk(shown_last)

    return study.wait(changed)
