"""What `hpcjobs collect --logs` tells of logs beside their runs: to stderr, each thing once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from hpcjobs.cli.show import talk, terminal
from hpcjobs.cli.show_pattern import hint
from hpcjobs.collect import reading
from hpcjobs.collect.log_files import LogsFound
from hpcjobs.collect.measurements import Bandwidth, LogResult, Throughput


def show_logs(found: LogsFound) -> None:
    """A table of many logs, or what a single one gives and lacks; then lines that a pattern could read."""
    if len(found.results) > 1:
        _table(found.results)
    else:
        for result in found.results:
            for line in _refused(result):
                talk(line)
        for problem in found.problems:
            talk(str(problem))
        rows = [row for result in found.results for row in _collectives(result)] if found.runs else []
        for row in rows:
            talk(f"{row[0]}: {row[1]}: {row[2]} ranks, {row[3]} {row[4]}")
    if found.collectives and found.runs:
        count = len(found.collectives)
        talk(
            f"{count} measurements of collectives are not in this table of runs: --format nccl-tests or osu prints them"
        )
    for result in found.results:
        if any(problem.reason.startswith(reading.UNKNOWN) for problem in result.problems):
            hint(Path(result.path), "; --pattern reads them")


def _table(results: Sequence[LogResult]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("file", "format"):
        table.add_column(heading, overflow="fold")
    for heading in ("GPUs", "rate"):
        table.add_column(heading, justify="right")
    table.add_column("unit")
    table.add_column("missing or contradicts", overflow="fold")
    for result in results:
        for row in _rows(result):
            table.add_row(*row)
    terminal(stderr=True).print(table)


def _rows(result: LogResult) -> Iterator[tuple[str, ...]]:
    """Rows of one log: one for each run, each table of a collective, and each problem beyond these."""
    notes = [
        # What contradicts something names the lines itself.
        f"line {problem.line}: {problem.reason}" if problem.line and "line" not in problem.reason else problem.reason
        for problem in result.problems
    ]
    rows = [*_runs(result), *_collectives(result)]
    if not rows:
        rows = [(result.path, result.format or "-", "", "", "")]
    for number, row in enumerate(rows):
        yield (*row, "; ".join(notes) if number == 0 else "")


def _refused(result: LogResult) -> Iterator[str]:
    """What is known of each training of a log that makes no row."""
    for one in result.measurements:
        if isinstance(one, Throughput) and (one.gpus is None or one.throughput is None):
            _, format_, gpus, rate, unit = _run(result.path, one)
            figure = f"{rate} {unit}" if rate else "no rate"
            yield f"{result.path}:{one.line}: {format_}, {f'{gpus} GPUs' if gpus else 'GPUs not known'}, {figure}"


def _runs(result: LogResult) -> Iterator[tuple[str, ...]]:
    return (_run(result.path, one) for one in result.measurements if isinstance(one, Throughput))


def _run(path: str, one: Throughput) -> tuple[str, ...]:
    """File, format, GPUs, rate and unit of a training."""
    rate, unit = one.throughput, f"{one.unit}/s"
    if rate is None and one.per_gpu is not None:
        rate, unit = one.per_gpu, f"{one.unit}/s of one GPU"
    elif rate is None and one.step_ms is not None:
        rate, unit = one.step_ms, "ms a step"
    known = f"{rate:.6g}" if rate is not None else ""
    gpus = f"{one.gpus}{' (CPU)' if one.device == 'cpu' else ''}" if one.gpus else ""
    return path, one.format, gpus, known, unit if known else ""


def _collectives(result: LogResult) -> Iterator[tuple[str, ...]]:
    best: dict[tuple[str, str, int | None], Bandwidth] = {}
    for one in result.measurements:
        if isinstance(one, Bandwidth):
            kept = best.get((one.format, one.op, one.ranks))
            if kept is None or _rate(one) > _rate(kept):
                best[one.format, one.op, one.ranks] = one
    for (format_, op, ranks), one in best.items():
        rate, unit = (f"{_rate(one):.4g}", "GB/s") if _rate(one) else (f"{one.time_us or 0:.4g}", "us")
        yield result.path, format_, str(ranks or ""), rate, f"{unit} {op}, best".strip()


def _rate(one: Bandwidth) -> float:
    return one.busbw or one.algbw or 0.0
