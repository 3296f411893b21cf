"""Predictions of the fitted models for a scaling table: sizes that were not run, with intervals and errors."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from hpcjobs.analysis.energy import PowerModel
from hpcjobs.analysis.intervals import Interval
from hpcjobs.analysis.models import Fabric, Fit, LinearModel, ModelPoint, Vector, ring, usl
from hpcjobs.base.errors import InputError
from hpcjobs.base.metrics import ScalingRow, Series

RESAMPLES = 1000
# A fit needs this many sizes more than it has parameters. With fewer its error cannot be estimated.
SPARE = 2

# The kinds of time to train whose number of epochs is fixed (column time_to_train_kind).
_FIXED_EPOCHS = {"measured_fixed_epochs", "derived_fixed_epochs"}

_Builder = Callable[[Sequence[ModelPoint]], LinearModel]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction:
    """The prediction for one size. The intervals are those of one new measurement of the size.

    `measured` is its throughput, None if it was not run. `step_ms` is None if the batch is not known. `efficiency` is
    relative to the base of the table, None if the table has no base. `time_to_train_s` and `gpu_hours` are those of the
    whole training, None if the table has no training of a fixed number of epochs. `energy_per_unit_j` is that of all
    GPUs, None if the power of too few sizes is measured.
    """

    gpus: int
    nodes: int
    step_ms: Interval | None
    throughput: Interval
    measured: float | None
    efficiency: float | None
    time_to_train_s: Interval | None
    gpu_hours: Interval | None
    energy_per_unit_j: Interval | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeaveOneOut:
    """A measured size, predicted by the model that was fitted without it: its throughput."""

    gpus: int
    measured: float
    predicted: float

    @property
    def error(self) -> float:
        """The leave-one-out error, predicted / measured - 1."""
        return self.predicted / self.measured - 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """A fitted model, with its parameters by name. `spread` is the standard deviation of log (measured / fitted)."""

    name: str
    parameters: Mapping[str, Interval]
    spread: float
    left_out: tuple[LeaveOneOut, ...]
    predictions: tuple[Prediction, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeriesModels:
    """The models of one series, the preferred one first, with the unit of its throughputs.

    `refused` says why a model was not fitted, by its name.
    """

    experiment: str
    params: str
    unit: str
    scaling: str
    models: tuple[Model, ...]
    refused: Mapping[str, str]


def predict(
    rows: Iterable[ScalingRow],
    sizes: Sequence[int] = (),
    *,
    fabric: Fabric | None = None,
    gradient_bytes: float | None = None,
    resamples: int = RESAMPLES,
) -> list[SeriesModels]:
    """Fit the models to each series of a scaling table, and predict its own sizes and `sizes` (in GPUs).

    `gradient_bytes` overrides the value in the logs. Raises InputError if no model of any series can be fitted.
    """
    series: dict[Series, list[ScalingRow]] = defaultdict(list)
    for row in rows:
        series[row.series].append(row)
    found = [_fit_series(those, sizes, fabric, gradient_bytes, resamples) for those in series.values()]
    if not any(each.models for each in found):
        why = next((reason for each in found for reason in each.refused.values()), "the table has no rows")
        raise InputError(f"no model can be fitted: {why}")
    return found


def fill(
    rows: Sequence[ScalingRow], *, fabric: Fabric | None = None, gradient_bytes: float | None = None
) -> list[ScalingRow]:
    """The rows with `predicted_throughput` filled in, if their series has a model. Failed sizes get one too."""
    try:
        return filled(rows, predict(rows, fabric=fabric, gradient_bytes=gradient_bytes, resamples=0))
    except InputError:
        return list(rows)


def filled(rows: Iterable[ScalingRow], fitted: Iterable[SeriesModels]) -> list[ScalingRow]:
    """The rows with the `predicted_throughput` of the preferred one of the models that were fitted to them."""
    found = {
        (each.experiment, each.params, each.unit, each.scaling, prediction.gpus): prediction.throughput.value
        for each in fitted
        for model in each.models[:1]
        for prediction in model.predictions
    }
    return [
        dataclasses.replace(row, predicted_throughput=found.get((*row.group, row.scaling, row.gpus))) for row in rows
    ]


# --- one series ----------------------------------------------------------------------------------


def _fit_series(
    rows: Sequence[ScalingRow],
    sizes: Sequence[int],
    fabric: Fabric | None,
    gradient_bytes: float | None,
    resamples: int,
) -> SeriesModels:
    first = rows[0]
    per_node = max((row.gpus_per_node for row in rows if row.gpus_per_node), default=None)
    points = [_point(row) for row in sorted(rows, key=lambda row: row.gpus) if row.throughput is not None]
    if gradient_bytes is None:
        gradient_bytes = next((row.gradient_bytes for row in rows if row.gradient_bytes is not None), None)
    builders: dict[str, _Builder] = {"ring": lambda those: ring(those, fabric, gradient_bytes), "usl": usl}
    known = {row.gpus: row for row in reversed(rows)}
    wanted = [
        _planned(known[gpus]) if gpus in known else _size(gpus, first, per_node) for gpus in sorted({*sizes, *known})
    ]
    models, refused = [], {}
    for name, builder in builders.items():
        try:
            models.append(_fit_model(name, builder, points, wanted, rows, resamples))
        except InputError as error:
            refused[name] = str(error)
    return SeriesModels(
        experiment=first.experiment,
        params=first.params,
        unit=first.unit,
        scaling=first.scaling,
        models=tuple(models),
        refused=refused,
    )


def _point(row: ScalingRow) -> ModelPoint:
    rate = row.throughput or math.nan
    local = float(row.local_batch or 1)
    # The measured parts of a step say nothing about the work of a GPU if its batch is not known.
    measured = (row.slowest_rank_ms, row.input_wait_ms) if row.local_batch else (None, None)
    return ModelPoint(row.gpus, row.nodes or 1, local, 1000 * local * row.gpus / rate, *measured)


def _planned(row: ScalingRow) -> ModelPoint:
    return ModelPoint(row.gpus, row.nodes or 1, float(row.local_batch or 1))


def _size(gpus: int, first: ScalingRow, per_node: int | None) -> ModelPoint:
    """A size that the table does not have: with full nodes, and the batch of the series."""
    is_strong = first.scaling == "strong" and first.global_batch is not None
    local = (first.global_batch or 1) / gpus if is_strong else float(first.local_batch or 1)
    return ModelPoint(gpus, -(-gpus // per_node) if per_node else 1, local)


def _fit_model(
    name: str,
    builder: _Builder,
    points: Sequence[ModelPoint],
    wanted: Sequence[ModelPoint],
    rows: Sequence[ScalingRow],
    resamples: int,
) -> Model:
    """Raises InputError if there are too few points, or if the fabric probe does not cover a wanted size."""
    if any(row.scaling == "mixed" for row in rows):
        raise InputError("the sizes are neither weak nor strong scaling, so no model compares them")
    linear = builder(points)
    needed = len(linear.names) + SPARE
    if len(points) < needed:
        raise InputError(
            f"{len(points)} sizes are measured, but the model '{name}' with its {len(linear.names)} parameters "
            f"({', '.join(linear.names)}) needs {needed}"
        )
    for size, covered in zip(wanted, np.isfinite(linear.factors(wanted)).all(axis=1), strict=True):
        if not covered:
            nodes = f"{size.nodes} node{'s' * (size.nodes != 1)}"
            raise InputError(f"the fabric probe does not cover {size.gpus} GPUs on {nodes}")
    fit = Fit(linear, points)
    drawn, noise = fit.resampled(resamples)
    resampled = [linear.meaning(parameters) for parameters in drawn]
    fitted = linear.meaning(fit.parameters)
    return Model(
        name=name,
        parameters={key: _interval(value, [each[key] for each in resampled]) for key, value in fitted.items()},
        spread=fit.noise,
        left_out=tuple(_leave_one_out(builder, points, number) for number in range(len(points))),
        predictions=tuple(_predictions(fit, wanted, drawn, noise, rows)),
    )


def _leave_one_out(builder: _Builder, points: Sequence[ModelPoint], number: int) -> LeaveOneOut:
    others = [*points[:number], *points[number + 1 :]]
    fit, point = Fit(builder(others), others), points[number]
    return LeaveOneOut(
        gpus=point.gpus,
        measured=point.rate(point.step_ms or math.nan),
        predicted=point.rate(float(fit.at([point], fit.parameters)[0])),
    )


def _predictions(
    fit: Fit, sizes: Sequence[ModelPoint], drawn: Vector, noise: Vector, rows: Sequence[ScalingRow]
) -> Iterator[Prediction]:
    """The prediction for each size: `drawn` (sweep, parameter) and `noise` (sweep,) are those of resampled sweeps."""
    values = fit.at(sizes, fit.parameters)
    steps = fit.at(sizes, drawn) * np.exp(noise)[:, None]
    base = next((row for row in rows if row.gpus == row.baseline_gpus and row.throughput is not None), None)
    measured = {row.gpus: row.throughput for row in reversed(rows)}
    has_batch = all(row.local_batch for row in rows)
    work, power = _work(rows), PowerModel.of(rows)
    for number, size in enumerate(sizes):
        step = _interval(float(values[number]), steps[:, number])
        rate = Interval(size.rate(step.value), size.rate(step.high), size.rate(step.low))
        train = None if work is None else Interval(work / rate.value, work / rate.high, work / rate.low)
        hours = size.gpus / 3600
        yield Prediction(
            gpus=size.gpus,
            nodes=size.nodes,
            step_ms=step if has_batch else None,
            throughput=rate,
            measured=measured.get(size.gpus),
            efficiency=rate.value / (base.throughput or math.nan) * base.gpus / size.gpus if base else None,
            time_to_train_s=train,
            gpu_hours=train and Interval(train.value * hours, train.low * hours, train.high * hours),
            energy_per_unit_j=power.per_unit(size.gpus, rate) if power else None,
        )


def _work(rows: Sequence[ScalingRow]) -> float | None:
    """Units of the whole training at the steady rate; an evaluation counts as those that its time would train.

    None if no training has a fixed number of epochs: one that ends at a score takes a different number at each size.
    """
    known = [
        row.time_to_train_s * row.throughput
        for row in rows
        if row.time_to_train_s is not None and row.throughput is not None and _is_fixed(row.time_to_train_kind)
    ]
    return statistics.median(known) if known else None


def _is_fixed(kinds: str) -> bool:
    """Whether all kinds of time to train of a row, space-separated, have a fixed number of epochs."""
    return bool(kinds) and set(kinds.split()) <= _FIXED_EPOCHS


def _interval(value: float, drawn: Sequence[float] | Vector) -> Interval:
    if not len(drawn):
        return Interval(value, value, value)
    # "nearest" takes a drawn value and does not interpolate: a parameter may be infinite.
    low, high = np.percentile(drawn, (2.5, 97.5), method="nearest")
    return Interval(value, float(low), float(high))


def as_json(fitted: Iterable[SeriesModels]) -> list[dict[str, Any]]:
    """The models as plain JSON values, with leave-one-out errors. An infinite number becomes null."""
    found = [dataclasses.asdict(each) for each in fitted]
    for each in found:
        for model in each["models"]:
            for left in model["left_out"]:
                left["error"] = left["predicted"] / left["measured"] - 1
    finite: list[dict[str, Any]] = _finite(found)
    return finite


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
