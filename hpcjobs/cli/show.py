"""What the commands print: results to stdout, lines for the user to stderr.

Importing rich takes 50 ms, so it is imported in functions: completion and --help do not need it.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpcjobs.base.files import shown
from hpcjobs.engine.sweep import Sweep
from hpcjobs.plan.estimate import Estimate
from hpcjobs.schedulers.factory import capabilities

if TYPE_CHECKING:
    from rich.console import Console


# Width of a table that goes to a file or a pipe, which have no width.
_PIPE_WIDTH = 160


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
