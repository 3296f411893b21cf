"""The logs of any program become runs, and so can be reported like those of a sweep."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from hpcjobs.base.hostlist import union
from hpcjobs.base.metrics import Run
from hpcjobs.base.records import RunState
from hpcjobs.collect.measurements import LogResult, Problem, Throughput

# Runs that differ in one of these are not repeats, nor sizes, of one experiment.
_APART = ("device", "gpu_model", "precision")


def runs(results: Iterable[LogResult]) -> tuple[list[Run], list[Problem]]:
    """A run for each training whose log gives its GPUs and its rate, in the order of the logs; and the problems.

    The experiment is named after the model, or else the format. If runs of one experiment and unit have several
    devices, GPU models or precisions, these join `params`, so that they are never averaged; so does a CPU, whose ranks
    are no GPUs.
    """
    found: list[tuple[Throughput, Run]] = []
    problems: list[Problem] = []
    for result in results:
        problems += completed(result).problems
        for one in result.measurements:
            if isinstance(one, Throughput) and one.gpus is not None and one.throughput is not None:
                found.append((one, _run(one, one.gpus)))
    return _separated(found), problems


def completed(result: LogResult) -> LogResult:
    """The result with a problem for each training that makes no run; of several trainings each names its own."""
    trainings = [one for one in result.measurements if isinstance(one, Throughput)]
    told = {line for problem in result.problems for line in (problem.line, problem.run)}
    problems = list(result.problems)
    for one in trainings:
        if (one.gpus is None or one.throughput is None) and one.line not in told:  # Its reader has not said it.
            what = "the number of GPUs: give --gpus N, or --gpus-from REGEX for its path"
            if one.gpus is not None:
                what = "what makes its figure a rate (the batch)"
            problems.append(Problem(one.source, 0, f"the log does not say {what}", run=one.line))
    if len(trainings) > 1:
        problems = [
            dataclasses.replace(each, reason=f"the run from line {each.run} on: {each.reason}", run=0)
            if each.run and not each.line
            else each
            for each in problems
        ]
    return dataclasses.replace(result, problems=tuple(problems))


def _run(one: Throughput, gpus: int) -> Run:
    nodes = one.nodes or len(one.hosts) or None
    return Run(
        run=one.run or Path(one.source).name,
        attempt="",
        state=RunState.DONE,
        failure="",
        source=f"{one.source}:{one.line}",
        experiment=one.model or one.format,
        params=one.params,
        gpus=gpus,
        nodes=nodes,
        gpus_per_node=-(-gpus // nodes) if nodes else None,
        local_batch=one.local_batch,
        global_batch=one.global_batch,
        throughput=one.throughput,
        step_ms=one.step_ms,
        nodelist=union(one.hosts),
        gpu_model=one.gpu_model,
        flags=" ".join(one.flags),
        windows=one.steady.windows if one.steady else None,
        outlier_windows=one.steady.outliers if one.steady else None,
        **one.figures(),
    )


def _separated(found: Sequence[tuple[Throughput, Run]]) -> list[Run]:
    values: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for one, run in found:
        for name in _APART:
            values[run.experiment, run.unit, name].add(getattr(one, name))
    apart = []
    for one, run in found:
        differing = {
            name: getattr(one, name)
            for name in _APART
            if len(values[run.experiment, run.unit, name]) > 1 or getattr(one, name) == "cpu"
        }
        params = [run.params, *(f"{name}={value}" for name, value in differing.items() if value)]
        apart.append(dataclasses.replace(run, params=";".join(part for part in params if part)))
    return apart
