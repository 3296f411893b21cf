"""The pipeline of a report: collect the runs, build the table, fit the models, write the files."""

from __future__ import annotations

import csv
import dataclasses
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpcjobs.analysis import compare, scaling
from hpcjobs.analysis.compare import Difference
from hpcjobs.base.contract import JOB_LOG
from hpcjobs.base.errors import InputError
from hpcjobs.base.files import read_json, write_atomic
from hpcjobs.base.metrics import Run, ScalingRow
from hpcjobs.base.records import Reference, Tell
from hpcjobs.base.sweepdir import SweepDir
from hpcjobs.base.tabular import to_csv
from hpcjobs.chexnet.classes import AUC_CSV
from hpcjobs.collect import inspector, runs_csv, sweep_runs
from hpcjobs.collect.evidence import tail
from hpcjobs.collect.reference_tables import read_reference
from hpcjobs.engine import follow, node_energy
from hpcjobs.engine.follow import Seen
from hpcjobs.engine.sweep import Sweep, load, run_configs
from hpcjobs.report.write import write_report
from hpcjobs.trainers.registry import check_run, trainer_of

# The page shows the end of each run's log: at most this many lines and bytes.
TAIL_LINES = 20
TAIL_BYTES = 4096


@dataclasses.dataclass(frozen=True)
class ReportRequest:
    """What a report contains in addition to the table of the runs.

    `baseline`: a number of GPUs that was measured, or "node", as text. `against`: the folder of another sweep, or a
    runs.csv. `reference`: the name or file of a published table.
    """

    baseline: str | None = None
    against: Path | None = None
    reference: str | None = None


@dataclasses.dataclass(frozen=True)
class Report:
    """A report that was written: its table, its comparisons, its files. `unfinished`: runs that have not ended."""

    rows: list[ScalingRow]
    unfinished: int
    differences: list[Difference]
    reference: Reference | None
    files: list[Path]


def collect_sweep(sweep: Sweep, seen: Seen, out: Path | None = None) -> list[Run]:
    """Collect a sweep, and write its runs.csv and the tables that its trainer's runs leave, into `out` or report/."""
    node_energy.update(sweep, seen.statuses)
    found = read_sweep(sweep, seen)
    sweep_runs.write(sweep.where, found, trainer_of(sweep.plan.variants[0].experiment).tables, out)
    return found


def read_sweep(sweep: Sweep, seen: Seen) -> list[Run]:
    """The runs of a sweep, as `collect_sweep` writes them. Writes nothing."""
    states = {run.run: (run.state, str(run.failure or "")) for run in seen.statuses}
    return sweep_runs.collect(sweep.where, run_configs(sweep), states, seen.readings.attempt, check_run)


def scaling_rows(sweep: Sweep, seen: Seen) -> list[ScalingRow]:
    """The scaling table of a sweep, as its report has it. Writes nothing."""
    from hpcjobs.analysis import predict  # importing scipy takes a third of a second

    return predict.fill(scaling.table(read_sweep(sweep, seen)))


def report_sweep(sweep: Sweep, seen: Seen, request: ReportRequest, tell: Tell, out: Path | None = None) -> Report:
    """Collect a sweep and write its report into `out` or report/. Raises InputError if the request cannot be met."""
    from hpcjobs.report import many  # imports rich

    where, folder = sweep.where, out or sweep.where.report
    if out is not None and SweepDir(out).sweep_yaml.exists():
        raise InputError(f"--out {out}: holds a sweep: give another folder, or none for the sweep's own report/")
    if request.baseline is not None:
        scaling.table(read_sweep(sweep, seen), _baseline(request.baseline))  # refuses one before a file is written
    runs = collect_sweep(sweep, seen, out)
    experiment = sweep.plan.variants[0].experiment.name
    return _write(
        runs,
        folder,
        request,
        tell,
        title=f"{experiment} on {sweep.plan.cluster.name}",
        auc=_rows(folder / AUC_CSV) if AUC_CSV in trainer_of(sweep.plan.variants[0].experiment).tables else [],
        provenance=read_json(where.provenance),
        tails={runs[number].run: _tail(where, runs[number]) for number in many.shown(many.of_runs(runs))},
        collectives=_collectives(where, runs, folder),
    )


def report_runs(runs: Sequence[Run], out: Path, request: ReportRequest, tell: Tell) -> Report:
    """Write the report of these runs into `out`. Raises InputError if the request cannot be met."""
    title = " and ".join(dict.fromkeys(run.experiment for run in runs if run.experiment))
    return _write(runs, out, request, tell, title=title)


def _write(runs: Sequence[Run], out: Path, request: ReportRequest, tell: Tell, *, title: str, **more: Any) -> Report:
    from hpcjobs.analysis import predict  # importing scipy takes a third of a second

    rows = scaling.table(runs, _baseline(request.baseline))
    try:
        models = predict.predict(rows)
    except InputError:
        models = []  # too few sizes for a model
    rows = predict.filled(rows, models)
    reference = read_reference(request.reference) if request.reference else None
    if reference is not None:
        compare.compare_reference(rows, reference)  # refuses one of another unit before a file is written
    others = scaling.table(_other_runs(request.against, tell)) if request.against else []
    differences = compare.compare_sweeps(rows, others) if others else []
    compared: dict[str, Any] = {"others": others, "others_name": str(request.against)} if others else {}
    files = write_report(
        out, rows, title=title, runs=runs, models=models, reference=reference, differences=differences,
        **compared, **more,
    )  # fmt: skip
    return Report(rows, sum(not run.state.final for run in runs), differences, reference, files)


def _rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


def _collectives(where: SweepDir, runs: Sequence[Run], folder: Path) -> list[inspector.Collective]:
    """What NCCL's Inspector recorded of the runs; collectives.csv has it, too, if it recorded anything."""
    attempts = [((where.root / run.source).parent, run) for run in runs if run.source]
    found = [each for attempt, run in attempts for each in inspector.read(attempt, run.run, run.gpus)]
    if found:
        write_atomic(folder / "collectives.csv", to_csv(inspector.columns(), inspector.rows(found)))
    return found


def _tail(where: SweepDir, run: Run) -> str:
    """The end of a run's log; empty if it has none."""
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


def _other_runs(path: Path, tell: Tell) -> list[Run]:
    """The runs of another sweep's folder, or of a runs.csv."""
    if path.is_dir():
        sweep = load(path)
        return read_sweep(sweep, follow.seen(sweep, tell))
    return read_runs(str(path), tell, "--against")


def read_runs(source: str, tell: Tell, option: str = "--runs") -> list[Run]:
    """The runs of a runs.csv or JSON file, or of standard input for `-`; `option` names it in errors.

    `tell` receives a line about rows that are copies of others.

    Raises InputError.
    """
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{option} {source}: cannot be read: {error}") from None
    return runs_csv.read_runs(text, f"{option} {source}", tell)
