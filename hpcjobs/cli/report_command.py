"""`hpcjobs collect` and `hpcjobs report`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from hpcjobs.base.errors import InputError
from hpcjobs.base.metrics import Run
from hpcjobs.cli import names, show
from hpcjobs.cli.show_logs import show_logs
from hpcjobs.cli.show_pattern import show_matches
from hpcjobs.cli.show_report import print_collectives, print_report
from hpcjobs.collect import runs_csv
from hpcjobs.collect.log_files import read_logs, try_pattern
from hpcjobs.collect.pattern import OF, TAKE, Pattern
from hpcjobs.report import build
from hpcjobs.report.build import ReportRequest
from hpcjobs.study import open_study


@click.command()
@click.argument(
    "paths",
    nargs=-1,
    type=click.Path(path_type=Path),
    metavar="FOLDER | --logs PATH...",
    shell_complete=names.collected,
)
@click.option("--logs", is_flag=True, help="The PATHs are logs of any training, or folders of them, not a sweep.")
@click.option(
    "--format",
    "format_",
    metavar="NAME",
    shell_complete=names.formats,
    help="Format of these logs.  [default: detected in each log]",
)
@click.option(
    "--gpus-from",
    metavar="REGEX",
    help="For logs without the number of GPUs: the group of REGEX finds it in their path.",
)
@click.option(
    "--pattern",
    metavar="REGEX",
    help="Try the pattern of an experiment: groups throughput, step_ms, step_s, samples, step, score.",
)
@click.option("--of", type=click.Choice(OF), help="With --pattern: what its figure counts.  [default: all]")
@click.option("--unit", metavar="WORD", help="With --pattern: what is counted, such as tokens.  [default: samples]")
@click.option("--warmup", type=int, metavar="N", help="With --pattern: matches or steps left out.  [default: 10]")
@click.option("--take", type=click.Choice(TAKE), help="With --pattern: how matches become one.  [default: mean]")
@click.option("--gpus", type=click.IntRange(1), metavar="N", help="The number of GPUs of logs that do not say it.")
@click.option("--batch", type=click.IntRange(1), metavar="N", help="With --pattern: the batch of all GPUs together.")
@click.option("--json", "as_json", is_flag=True, help="Print the runs as JSON.")
@click.pass_context
def collect(
    ctx: click.Context,
    paths: tuple[Path, ...],
    logs: bool,
    format_: str | None,
    gpus_from: str | None,
    pattern: str | None,
    of: str | None,
    unit: str | None,
    warmup: int | None,
    take: str | None,
    gpus: int | None,
    batch: int | None,
    as_json: bool,
) -> None:
    """Read the logs of the sweep in FOLDER into report/runs.csv and report/auc.csv, or print the runs of other logs.
    Exit code 1 if there is no measurement: no run of the sweep, or none of the logs, gives one.

    \b
    hpcjobs collect study
    hpcjobs collect --logs *.log --gpus-from '(\\d+)gpu' --json | hpcjobs report --runs - --out theirs
    hpcjobs collect --logs job.log --pattern 'tokens/s: (?P<throughput>[\\d.]+)' --of rank --unit tokens --gpus 8
    """
    asked: dict[str, Any] = {"of": of, "unit": unit, "warmup": warmup, "take": take}
    given = {name: value for name, value in asked.items() if value is not None}
    if pattern is None and (given or batch):
        raise InputError("--of, --unit, --warmup, --take and --batch need --pattern")
    if pattern is not None and (format_ or not logs):
        raise InputError("--pattern needs --logs and excludes --format: give `--logs FILE --pattern REGEX`")
    if pattern is not None:
        tried = _tried(paths, Pattern(pattern, **given), gpus_from, gpus, batch)
        _print_runs(tried, as_json)
        ctx.exit(int(not tried))
    if logs:
        runs = _any_logs(paths, format_, gpus_from, gpus, as_json)
    else:
        if format_ or gpus_from or gpus:
            raise InputError("--format, --gpus and --gpus-from need --logs: a sweep's logs are known")
        if len(paths) != 1:
            raise InputError("give one FOLDER of a sweep, or --logs and the paths of logs")
        runs = open_study(paths[0], tell=show.talk).collect()
    if runs is None:
        return
    _print_runs(runs, as_json)
    if logs:
        ctx.exit(int(not runs))  # Each log that gives no run has said why.
    ctx.exit(_nothing_measured(any(run.measured for run in runs)))


def _print_runs(runs: Sequence[Run], as_json: bool) -> None:
    click.echo(json.dumps([run.row() for run in runs]) if as_json else runs_csv.to_text(runs), nl=as_json)


def _tried(
    paths: Sequence[Path], pattern: Pattern, gpus_from: str | None, gpus: int | None, batch: int | None
) -> list[Run]:
    """The runs of logs as a pattern reads them; their matches are shown."""
    reads, found = try_pattern(paths, pattern, gpus_from, gpus, batch)
    for read in reads:
        show_matches(read, pattern)
    return found.runs


def _any_logs(
    paths: Sequence[Path], format_: str | None, gpus_from: str | None, gpus: int | None, as_json: bool
) -> list[Run] | None:
    """The runs of any training's logs; None if the logs measure only collectives, which are printed here."""
    found = read_logs(paths, format_, gpus_from, gpus)
    show_logs(found)
    if found.collectives and not found.runs:
        print_collectives(found.collectives, as_json)
        return None
    return found.runs


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), required=False, shell_complete=names.sweeps)
@click.option(
    "--runs",
    "runs_file",
    metavar="FILE|-",
    shell_complete=names.files,
    help="Report these runs (runs.csv, or what collect --json prints).",
)
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="Folder of the report.  [default: report/ in FOLDER]"
)
@click.option(
    "--baseline", metavar="GPUS|node", help="Size that speed-up is relative to.  [default: the smallest size measured]"
)
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    metavar="DIR|CSV",
    shell_complete=names.sweeps_or_files,
    help="Another sweep, or its runs.csv.",
)
@click.option(
    "--reference",
    metavar="NAME|CSV",
    shell_complete=names.references,
    help="A published table, such as dell-c4140-v100-2019.",
)
@click.option("--markdown", is_flag=True, help="Print the table for a pull request.")
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
@click.pass_context
def report(
    ctx: click.Context,
    folder: Path | None,
    runs_file: str | None,
    out: Path | None,
    baseline: str | None,
    against: Path | None,
    reference: str | None,
    markdown: bool,
    as_json: bool,
) -> None:
    """Collect the sweep in FOLDER, then write report/scaling-report.csv, the figures and the page.

    \b
    hpcjobs report study --reference dell-c4140-v100-2019
    hpcjobs report study --against study-before
    hpcjobs report /home/colleague/study --out theirs
    """
    if (folder is None) == (runs_file is None):
        raise InputError("give the FOLDER of a sweep, or --runs FILE and --out DIR")
    if runs_file is not None and out is None:
        raise InputError("--runs FILE needs --out DIR, the folder of the report")
    if markdown and as_json:
        raise InputError("--markdown and --json exclude each other: give one of them")
    if folder is not None:
        study = open_study(folder, tell=show.talk)
        done = study.report(baseline=baseline, against=against, reference=reference, out=out)
    else:
        assert runs_file is not None
        assert out is not None
        done = build.report_runs(
            build.read_runs(runs_file, show.talk), out, ReportRequest(baseline, against, reference), show.talk
        )
    print_report(done, as_json=as_json, markdown=markdown)
    ctx.exit(_nothing_measured(any(row.runs for row in done.rows)))


def _nothing_measured(measured: bool) -> int:
    if not measured:
        show.talk("no run has a measurement yet")
    return int(not measured)
