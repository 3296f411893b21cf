"""A sweep's files become runs: one per planned run, measured or not."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hpcjobs import contract, rundir
from hpcjobs.contract import split_batch
from hpcjobs.files import read_json, write_atomic
from hpcjobs.hostlist import expand
from hpcjobs.logs import mllog, nvml
from hpcjobs.records import (
    FLAG_OVERSUBSCRIBED,
    FLAG_SHARED,
    FLAG_SHORT_WARMUP,
    RUN_COLUMNS,
    Measurement,
    Run,
    RunState,
    to_csv,
)
from hpcjobs.rundir import SweepDir


def collect(where: SweepDir, states: Mapping[str, tuple[RunState, str]]) -> list[Run]:
    """Every run of a sweep, in the order of its plan.

    `states` gives each run its state and, where it failed, why. The newest attempt with a measurement
    counts; a run that has none keeps its row.
    """
    shared = rundir.read_sweep_yaml(where.sweep_yaml)["cluster"].get("sharing") == "shared"
    return [_run(where, name, *states[name], shared=shared) for name in states]


def _run(where: SweepDir, name: str, state: RunState, failure: str, *, shared: bool) -> Run:
    config = contract.load_run(where.run(name) / contract.RUN_YAML)
    attempt, measured = _newest(where, name)
    claim = (read_json(attempt / contract.CLAIM) or {}) if attempt else {}
    local_batch, global_batch = split_batch(config.experiment["batch"], config.gpus)
    fields: dict[str, Any] = {"start": claim.get("start")}
    nodes: Sequence[str] = expand(str(claim.get("nodelist", "")))
    if measured is not None:
        started = claim.get("start")
        fields |= {
            name: getattr(measured, name)
            for name in (
                "images_per_sec",
                "step_ms",
                "epoch_s",
                "time_to_train_s",
                "time_to_train_kind",
                "eval_s",
                "mean_auc",
                "input_wait_ms",
                "allreduce_ms",
                "skew_ms",
            )
        }
        if started is not None and measured.first_step_at is not None:
            fields["startup_s"] = measured.first_step_at - started
        nodes = measured.hosts or nodes
    return Run(
        run=name,
        attempt=attempt.name if attempt else "",
        state=state,
        failure=failure,
        source=str(attempt.relative_to(where.root) / contract.TRAIN_LOG) if attempt else "",
        experiment=config.experiment["name"],
        params=config.params,
        gpus=config.gpus,
        nodes=config.nodes,
        gpus_per_node=config.tasks_per_node,
        local_batch=local_batch,
        global_batch=global_batch,
        job_ids=str(claim.get("job", "")),
        nodelist=" ".join(nodes),
        flags=" ".join([*_flags(attempt, config, shared=shared), *(measured.flags if measured else ())]),
        **fields,
    )


def _flags(attempt: Path | None, config: contract.RunConfig, *, shared: bool) -> Iterator[str]:
    if shared:
        yield FLAG_SHARED
    if contract.warmup_steps(config.experiment) < config.experiment["measure"]["warmup_steps"]:
        yield FLAG_SHORT_WARMUP
    yield from _gpu_flags(attempt) if attempt else ()
    for path in sorted(attempt.glob(contract.node_json("*"))) if attempt else ():
        cpus = (read_json(path) or {}).get("cpus")
        if isinstance(cpus, int) and cpus < config.tasks_per_node * config.cpus_per_task:
            yield FLAG_OVERSUBSCRIBED
            return


def _gpu_flags(attempt: Path) -> list[str]:
    paths = sorted(attempt.glob(contract.nvml_csv("*")))
    if not paths:
        return []
    windows = mllog.window_times(mllog.read(attempt / contract.TRAIN_LOG))
    return nvml.flags((path.read_text(encoding="utf-8", errors="replace") for path in paths), windows)


def _newest(where: SweepDir, name: str) -> tuple[Path | None, Measurement | None]:
    """The newest attempt with a measurement and that measurement, else the last attempt."""
    attempts = where.attempts(name)
    for attempt in reversed(attempts):
        measured = mllog.measure(mllog.read(attempt / contract.TRAIN_LOG))
        if measured is not None:
            return attempt, measured
    return (attempts[-1] if attempts else None), None


def runs_csv(runs: Iterable[Run]) -> str:
    """The text of `runs.csv`."""
    return to_csv(list(RUN_COLUMNS), [run.row() for run in runs])


def auc_csv(where: SweepDir, runs: Iterable[Run]) -> str:
    """All runs' auc.csv in one table: run, experiment, params and gpus before each run's own columns."""
    rows = []
    for run in runs:
        if run.source and run.images_per_sec is not None:
            path = where.root / Path(run.source).parent / contract.AUC_CSV
            try:
                with path.open(newline="", encoding="utf-8") as file:
                    found = list(csv.DictReader(file))
            except OSError:
                continue
            for line in found:
                own = {column: line.get(column, "") for column in contract.AUC_COLUMNS}
                rows.append(
                    {"run": run.run, "experiment": run.experiment, "params": run.params, "gpus": run.gpus, **own}
                )
    return to_csv(["run", "experiment", "params", "gpus", *contract.AUC_COLUMNS], rows)


def write(where: SweepDir, runs: Sequence[Run]) -> list[Path]:
    """Write report/runs.csv and report/auc.csv; returns their paths."""
    where.report.mkdir(exist_ok=True)
    paths = [where.report / "runs.csv", where.report / "auc.csv"]
    write_atomic(paths[0], runs_csv(runs))
    write_atomic(paths[1], auc_csv(where, runs))
    return paths
