"""What the commands print of a report, and of collectives."""

from __future__ import annotations

import csv
import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from hpcjobs.analysis import compare
from hpcjobs.base.columns import FLAGS
from hpcjobs.cli.show import shorten, talk, terminal
from hpcjobs.cli.show_runs import exit_code, tell_lost, wait
from hpcjobs.collect.measurements import Bandwidth
from hpcjobs.report.build import Report
from hpcjobs.report.contents import by_unit

if TYPE_CHECKING:
    from hpcjobs.report import tables
    from hpcjobs.study import Study


def print_report(report: Report, *, as_json: bool = False, markdown: bool = False) -> None:
    """Print the table and the comparisons below it to stdout; flags and files to stderr."""
    from hpcjobs.report import tables  # imports rich

    if as_json:
        click.echo(json.dumps(_json(report)))
    elif markdown:
        click.echo(tables.markdown(report.rows), nl=False)
        for cells in _comparisons(report):
            click.echo(f"\n{cells.markdown()}", nl=False)
    else:
        console = terminal()
        for number, table in enumerate(tables.terminal(report.rows)):
            if number:
                console.print()
            console.print(table)
        for cells in _comparisons(report):
            console.print()
            console.print(cells.terminal())
    if report.unfinished:
        talk(f"{report.unfinished} run(s) have not ended: the table counts them under failed")
    for flag, meaning in FLAGS.items():
        if sizes := dict.fromkeys(str(row.gpus) for row in report.rows if flag in row.flags.split()):
            talk(f"{flag} ({', '.join(sizes)}): {meaning}")
    for path in report.files:
        talk(f"wrote {shorten(path)}")


def _comparisons(report: Report) -> list[tables.Cells]:
    from hpcjobs.report import tables

    found = []
    if report.reference is not None:
        found.append(tables.beside(compare.compare_reference(report.rows, report.reference), report.reference))
    return [*found, *(tables.differences(those) for those in by_unit(report.differences).values())]


def _json(report: Report) -> object:
    """A list of rows; with comparisons, or rows of several units, an object that holds them.

    Rows of one unit are its `rows`. Of several, `tables` has a unit and its rows for each.
    """
    tables = [{"unit": unit, "rows": [row.row() for row in those]} for unit, those in by_unit(report.rows).items()]
    more: dict[str, object] = {}
    if report.reference is not None:
        beside = compare.compare_reference(report.rows, report.reference)
        more["reference"] = {
            "name": report.reference.name,
            "unit": report.reference.unit,
            "rows": [dataclasses.asdict(each) for each in beside],
        }
    if report.differences:
        more["against"] = [dataclasses.asdict(each) for each in report.differences]
    if len(tables) > 1:
        return {"tables": tables, **more}
    rows = [row.row() for row in report.rows]
    return {"rows": rows, **more} if more else rows


def print_collectives(found: Sequence[Bandwidth], as_json: bool) -> None:
    """Print measurements of collectives to stdout, as CSV or JSON; Bandwidth's docstring has the units."""
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


def wait_and_report(study: Study, as_json: bool) -> int:
    """Follow the runs live on stderr, then write the report and print the table. Returns the exit code.

    Ctrl-C leaves the runs as they are, prints how to continue, and gives 130.
    """
    folder = shorten(study.folder)
    try:
        runs = wait(study)
    except KeyboardInterrupt:
        talk(f"\nleft running. Come back with `hpcjobs status {folder}`, end them with `hpcjobs cancel {folder}`.")
        return 130
    tell_lost(runs)
    print_report(study.report(), as_json=as_json)
    return exit_code(runs)
