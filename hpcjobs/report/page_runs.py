"""The runs on the page: a row and the end of the log of each; of many, counts, and some of those that failed. Pure."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterator, Mapping, Sequence

from hpcjobs.base.metrics import Run
from hpcjobs.report import many
from hpcjobs.report.contents import by_unit, clean, unit_of
from hpcjobs.report.page_cells import Cell, Table, numeric, plain


@dataclasses.dataclass(frozen=True)
class Log:
    """A run, facts about it, and the last lines of its log. `anchor` is unique on the page."""

    anchor: str
    name: str
    state: str
    facts: Sequence[tuple[str, str]]
    tail: str


def runs_tables(briefs: Sequence[many.Brief], shown: Sequence[Run], logs: Sequence[Log]) -> Iterator[Table]:
    """The table of the runs that are shown; if there are more, counts of all come before it."""
    caption = "All runs"
    if len(shown) < len(briefs):
        yield plain("states", f"How many of the {len(briefs):,} runs are in which state", many.by_size(briefs))
        if shown:
            caption = "Why runs ended without a result: each class, one of its runs, and its sizes"
            yield dataclasses.replace(plain("causes", caption, many.by_cause(briefs)), head=0)
        caption = _capital(many.left_out(briefs, "runs.csv, which names the log of each,"))
    if shown:
        yield _of_runs(shown, logs, f"{caption}. The name links to the end of the log")


def _of_runs(runs: Sequence[Run], logs: Sequence[Log], caption: str) -> Table:
    has_params = any(run.params for run in runs)
    units = by_unit(run for run in runs if run.throughput is not None)
    rate = f"{unit_of(next(iter(units.values()), []))}/s" if len(units) < 2 else "rate"
    header = ["run", *(["params"] if has_params else []), "state", "GPUs", rate, "step, ms", "job", "nodes"]
    has_why = any(run.failure for run in runs)
    header += ["why"] if has_why else []
    words = ("run", "params", "state", "job", "nodes", "why")
    rows = [
        [
            Cell(log.name, href=f"#{log.anchor}"),
            *([Cell(run.params)] if has_params else []),
            Cell(log.state),
            numeric(run.gpus, ","),
            dataclasses.replace(numeric(run.throughput), note=f"{unit_of([run])}/s" if rate == "rate" else ""),
            numeric(run.step_ms),
            Cell(run.job_ids),
            Cell(run.nodelist),
            *([Cell(textwrap.shorten(clean(run.failure), 90, placeholder=" ..."))] if has_why else []),
        ]
        for run, log in zip(runs, logs, strict=True)
    ]
    return Table("runs", caption, header, rows, 0, words)


def run_logs(runs: Sequence[Run], tails: Mapping[str, str]) -> list[Log]:
    """What the page says of each run below the tables; `tails` has the ends of their logs by name."""
    found = []
    for place, run in enumerate(runs, 1):
        facts = {
            "Why": run.failure, "Log": run.source, "Attempt": run.attempt, "Params": run.params, "Job": run.job_ids,
            "Nodes": run.nodelist, "GPU": run.gpu_model, "Transport": run.transport, "Software": run.software,
            "Flags": run.flags,
        }  # fmt: skip
        known = [(name, text) for name, text in facts.items() if text]
        tail = tails.get(run.run, "").strip("\n")
        found.append(Log(f"run-{place}", run.run, str(run.state), known, tail))
    return found


def _capital(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"
