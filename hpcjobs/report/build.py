"""From runs to the report, and what of it is printed."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpcjobs import report as reports
from hpcjobs.analysis import compare, scaling
from hpcjobs.analysis.compare import Difference, Reference
from hpcjobs.base.columns import FLAGS
from hpcjobs.base.contract import JOB_LOG
from hpcjobs.base.errors import InputError
from hpcjobs.base.files import read_json
from hpcjobs.base.metrics import Run, ScalingRow
from hpcjobs.base.records import RunState
from hpcjobs.base.sweepdir import SweepDir
from hpcjobs.cli import show
from hpcjobs.collect import runs_csv, sweep_runs
from hpcjobs.collect.evidence import tail
from hpcjobs.collect.measurements import Bandwidth
from hpcjobs.engine import follow
from hpcjobs.engine import sweep as sweeps
from hpcjobs.engine.state import RunStatus
from hpcjobs.engine.sweep import Sweep

if TYPE_CHECKING:
    from hpcjobs.report import tables

# Of each run's log that stands in the page.
TAIL_LINES = 20
TAIL_BYTES = 4096


@dataclasses.dataclass(frozen=True)
class Wish:
    """What a report is asked for beside the table: its base, and what to lay beside it."""

    baseline: str | None = None
    against: Path | None = None
    reference: str | None = None


@dataclasses.dataclass(frozen=True)
class Report:
    """A report that was written: its table, what was laid beside it, and its files; `going` runs have not ended."""

    rows: list[ScalingRow]
    going: int
    differences: list[Difference]
    reference: Reference | None
    files: list[Path]


def collected(sweep: Sweep, runs: Sequence[RunStatus]) -> list[Run]:
    """Collect a sweep and write runs.csv and auc.csv."""
    found = _collect(sweep, runs)
    sweep_runs.write(sweep.where, found)
    return found


def _collect(sweep: Sweep, runs: Sequence[RunStatus]) -> list[Run]:
    from hpcjobs.engine.folder import run_configs  # it imports jinja2

    states = {run.run: (run.state, str(run.failure or "")) for run in runs}
    return sweep_runs.collect(sweep.where, run_configs(sweep), states)


def reported(sweep: Sweep, runs: Sequence[RunStatus], wish: Wish) -> Report:
    """Collect a sweep and write its report. Raises InputError where a wish cannot be met."""
    where = sweep.where
    found = collected(sweep, runs)
    experiment = sweep.plan.variants[0].experiment.name
    return _write(
        found,
        where.report,
        wish,
        title=f"{experiment} on {sweep.plan.cluster.name}",
        auc=list(csv.DictReader(io.StringIO((where.report / "auc.csv").read_text(encoding="utf-8")))),
        provenance=read_json(where.provenance),
        tails={run.run: _tail(where, run) for run in found},
    )


def report_of(runs: Sequence[Run], out: Path, wish: Wish) -> Report:
    """Write the report of these runs into `out`. Raises InputError where a wish cannot be met."""
    return _write(runs, out, wish, title=" and ".join(dict.fromkeys(run.experiment for run in runs if run.experiment)))


def _write(runs: Sequence[Run], out: Path, wish: Wish, *, title: str, **more: Any) -> Report:
    from hpcjobs.analysis import predict  # scipy takes a third of a second

    rows = predict.fill(scaling.table(runs, _baseline(wish.baseline)))
    reference = compare.read_reference(wish.reference) if wish.reference else None
    others = scaling.table(_others(wish.against)) if wish.against else []
    differences = compare.against(rows, others) if others else []
    try:
        outlooks = predict.predict(rows)
    except InputError:
        outlooks = []  # too few sizes
    beside: dict[str, Any] = {"others": others, "others_name": str(wish.against)} if others else {}
    files = reports.write(
        out, rows, title=title, runs=runs, outlooks=outlooks, reference=reference, differences=differences,
        **beside, **more,
    )  # fmt: skip
    return Report(rows, sum(not run.state.final for run in runs), differences, reference, files)


def _tail(where: SweepDir, run: Run) -> str:
    """The end of a run's log, if it has one."""
    folder = (where.root / run.source).parent if run.source else None
    return "\n".join(tail(folder / JOB_LOG, TAIL_BYTES)[-TAIL_LINES:]) if folder else ""


def _baseline(text: str | None) -> scaling.Baseline:
    if text is None:
        return None
    if text == "node":
        return "node"
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise InputError(f"--baseline {text}: give a number of GPUs that was measured, or node")
    return int(text)


def _others(path: Path) -> list[Run]:
    """The runs of another sweep's folder, or of its runs.csv."""
    if path.is_dir():
        sweep = sweeps.load(path)
        return _collect(sweep, follow.snapshot(sweep, show.talk))
    return read_runs(str(path), "--against")


def read_runs(source: str, option: str = "--runs") -> list[Run]:
    """The runs of a file, or of standard input for `-`. Raises InputError."""
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{option} {source}: cannot be read: {error}") from None
    return runs_csv.read_runs(text, f"{option} {source}")


def print_report(report: Report, *, as_json: bool = False, markdown: bool = False) -> None:
    """The table to stdout, what was laid beside it below it; what to know of it, and its files, to stderr."""
    from hpcjobs.report import tables  # rich, as in show

    if as_json:
        click.echo(json.dumps(_json(report)))
    elif markdown:
        click.echo(tables.markdown(report.rows), nl=False)
        for cells in _beside(report):
            click.echo(f"\n{cells.markdown()}", nl=False)
    else:
        console = show.terminal()
        console.print(tables.terminal(report.rows))
        for cells in _beside(report):
            console.print()
            console.print(cells.terminal())
    if report.going:
        show.talk(f"{report.going} run(s) have not ended: the table counts them under failed")
    for flag, meaning in FLAGS.items():
        if sizes := dict.fromkeys(str(row.gpus) for row in report.rows if flag in row.flags.split()):
            show.talk(f"{flag} ({', '.join(sizes)}): {meaning}")
    for path in report.files:
        show.talk(f"wrote {show.shorten(path)}")


def _beside(report: Report) -> list[tables.Cells]:
    from hpcjobs.report import tables

    found = []
    if report.reference is not None:
        found.append(tables.beside(compare.beside(report.rows, report.reference), report.reference.name))
    if report.differences:
        found.append(tables.differences(report.differences))
    return found


def _json(report: Report) -> object:
    """A list of rows; with something laid beside, an object that holds them."""
    rows = [row.row() for row in report.rows]
    more: dict[str, object] = {}
    if report.reference is not None:
        beside = compare.beside(report.rows, report.reference)
        more["reference"] = {"name": report.reference.name, "rows": [dataclasses.asdict(each) for each in beside]}
    if report.differences:
        more["against"] = [dataclasses.asdict(each) for each in report.differences]
    return {"rows": rows, **more} if more else rows


def print_collectives(found: Sequence[Bandwidth], as_json: bool) -> None:
    """Measurements of collectives to stdout, as CSV or JSON; Bandwidth's docstring has the units."""
    rows = [dataclasses.asdict(one) for one in found]
    if as_json:
        click.echo(json.dumps(rows))
        return
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(rows[0])
    for row in rows:
        writer.writerow(
            "" if value is None else " ".join(value) if isinstance(value, tuple) else value for value in row.values()
        )


def wait_and_report(sweep: Sweep, as_json: bool) -> int:
    """Follow the runs live on stderr, then write the report and print the table. Returns the exit code.

    Ctrl-C leaves the runs as they are, says how to come back, and gives 130.
    """
    folder = show.shorten(sweep.where.root)
    try:
        runs = show.watched(sweep)
    except KeyboardInterrupt:
        show.talk(f"\nleft running. Come back with `hpcjobs status {folder}`, end them with `hpcjobs cancel {folder}`.")
        return 130
    for run in runs:
        if run.state is not RunState.DONE:
            show.talk(f"{run.run} {run.state}: {show.reason(run)}")
    print_report(reported(sweep, runs, Wish()), as_json=as_json)
    return show.code(runs)
