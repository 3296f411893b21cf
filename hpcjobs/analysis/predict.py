"""What the fitted models say of a scaling table: of sizes that were not run, and how sure that is."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from hpcjobs.analysis.models import Fabric, Fit, Size, Terms, Vector, ring, usl
from hpcjobs.base.errors import InputError
from hpcjobs.base.metrics import ScalingRow

RESAMPLES = 1000
# Points beyond the parameters that a fit takes: with fewer its error cannot be told.
SPARE = 2


@dataclasses.dataclass(frozen=True)
class Figure:
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float

    # An interval whose high end is more than so many times its low end foretells nothing.
    WIDEST: ClassVar[int] = 10

    @property
    def wide(self) -> bool:
        """Whether it foretells nothing; an interval without a bound is such a one."""
        return not self.high <= self.WIDEST * self.low


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction:
    """One size by the model; `measured` is its images/s where it was run. Intervals are of a measurement there.

    `gpu_hours` are those of the whole training, `efficiency` is over the base of the table; None where the table
    has no training of fixed epochs, or no base.
    """

    gpus: int
    nodes: int
    step_ms: Figure
    images_per_sec: Figure
    measured: float | None
    efficiency: float | None
    time_to_train_s: Figure | None
    gpu_hours: Figure | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A measured size as the model foretells it that was fitted without it; `error` = predicted / measured - 1."""

    gpus: int
    measured: float
    predicted: float

    @property
    def error(self) -> float:
        return self.predicted / self.measured - 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """A fitted model. `spread` is the standard deviation of measured / fitted, a fraction; parameters by name."""

    name: str
    parameters: Mapping[str, Figure]
    spread: float
    left_out: tuple[LeftOut, ...]
    predictions: tuple[Prediction, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outlook:
    """The models of one series, the first to be preferred; `refused` says why one could not be fitted."""

    experiment: str
    params: str
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
) -> list[Outlook]:
    """What each series of a scaling table says of its own sizes and of `sizes`, in GPUs.

    `gradient_bytes` overrides what the logs say. Raises InputError where no model of any series can be fitted.
    """
    series: dict[tuple[str, str, str, int | None], list[ScalingRow]] = defaultdict(list)
    for row in rows:
        series[row.series].append(row)
    outlooks = [_outlook(those, sizes, fabric, gradient_bytes, resamples) for those in series.values()]
    if not any(outlook.models for outlook in outlooks):
        why = next((reason for each in outlooks for reason in each.refused.values()), "the table has no rows")
        raise InputError(f"no model can be fitted: {why}")
    return outlooks


def fill(
    rows: Sequence[ScalingRow], *, fabric: Fabric | None = None, gradient_bytes: float | None = None
) -> list[ScalingRow]:
    """The rows with `predicted_images_per_sec`, failed sizes too, where their series has a model."""
    try:
        outlooks = predict(rows, fabric=fabric, gradient_bytes=gradient_bytes, resamples=0)
    except InputError:
        return list(rows)
    found = {
        (outlook.experiment, outlook.params, outlook.scaling, prediction.gpus): prediction.images_per_sec.value
        for outlook in outlooks
        for model in outlook.models[:1]
        for prediction in model.predictions
    }
    return [
        dataclasses.replace(
            row, predicted_images_per_sec=found.get((row.experiment, row.params, row.scaling, row.gpus))
        )
        for row in rows
    ]


# --- one series ----------------------------------------------------------------------------------


def _outlook(
    rows: Sequence[ScalingRow],
    sizes: Sequence[int],
    fabric: Fabric | None,
    gradient_bytes: float | None,
    resamples: int,
) -> Outlook:
    first = rows[0]
    per_node = max((row.gpus_per_node for row in rows if row.gpus_per_node), default=None)
    points = [_point(row) for row in sorted(rows, key=lambda row: row.gpus) if row.images_per_sec is not None]
    if gradient_bytes is None:
        gradient_bytes = next((row.gradient_bytes for row in rows if row.gradient_bytes is not None), None)
    builders: dict[str, Callable[[Sequence[Size]], Terms]] = {
        "ring": lambda those: ring(those, fabric, gradient_bytes),
        "usl": usl,
    }
    wanted = [_asked(gpus, rows, per_node) for gpus in sorted({*sizes, *(row.gpus for row in rows)})]
    models, refused = [], {}
    for name, builder in builders.items():
        try:
            models.append(_model(name, builder, points, wanted, rows, resamples))
        except InputError as error:
            refused[name] = str(error)
    return Outlook(
        experiment=first.experiment, params=first.params, scaling=first.scaling, models=tuple(models), refused=refused
    )


def _point(row: ScalingRow) -> Size:
    rate = row.images_per_sec or math.nan
    local = float(row.local_batch or 1)
    return Size(row.gpus, row.nodes or 1, local, 1000 * local * row.gpus / rate, row.slowest_rank_ms, row.input_wait_ms)


def _asked(gpus: int, rows: Sequence[ScalingRow], per_node: int | None) -> Size:
    row = next((row for row in rows if row.gpus == gpus), None)
    if row is not None:
        return Size(gpus, row.nodes or 1, float(row.local_batch or 1))
    first = rows[0]
    is_strong = first.scaling == "strong" and first.global_batch is not None
    local = (first.global_batch or 1) / gpus if is_strong else float(first.local_batch or 1)
    return Size(gpus, -(-gpus // per_node) if per_node else 1, local)


def _model(
    name: str,
    builder: Callable[[Sequence[Size]], Terms],
    points: Sequence[Size],
    wanted: Sequence[Size],
    rows: Sequence[ScalingRow],
    resamples: int,
) -> Model:
    """Raises InputError where the points are too few."""
    if any(row.scaling == "mixed" for row in rows):
        raise InputError("the sizes are neither weak nor strong scaling: no model compares them")
    terms = builder(points)
    needed = len(terms.names) + SPARE
    if len(points) < needed:
        raise InputError(
            f"{len(points)} sizes are measured, and the model '{name}' with its {len(terms.names)} parameters "
            f"({', '.join(terms.names)}) takes {needed}"
        )
    for size in wanted:
        if not all(map(math.isfinite, terms.factors(size))):
            nodes = f"{size.nodes} node{'s' * (size.nodes != 1)}"
            raise InputError(f"the fabric probe says nothing of {size.gpus} GPUs on {nodes}")
    fit = Fit(terms, points)
    drawn, noise = fit.resampled(resamples)
    meanings = [terms.told(parameters) for parameters in drawn]
    told = terms.told(fit.parameters)
    return Model(
        name=name,
        parameters={key: _figure(value, [each[key] for each in meanings]) for key, value in told.items()},
        spread=fit.noise,
        left_out=tuple(_left_out(builder, points, number) for number in range(len(points))),
        predictions=tuple(_prediction(fit, size, drawn, noise, rows) for size in wanted),
    )


def _left_out(builder: Callable[[Sequence[Size]], Terms], points: Sequence[Size], number: int) -> LeftOut:
    others = [*points[:number], *points[number + 1 :]]
    fit, point = Fit(builder(others), others), points[number]
    return LeftOut(
        gpus=point.gpus,
        measured=point.rate(point.step_ms or math.nan),
        predicted=point.rate(fit.at(point, fit.parameters)),
    )


def _prediction(fit: Fit, size: Size, drawn: Sequence[Vector], noise: Vector, rows: Sequence[ScalingRow]) -> Prediction:
    value = fit.at(size, fit.parameters)
    step = _figure(value, [fit.at(size, each) * math.exp(e) for each, e in zip(drawn, noise, strict=True)])
    rate = Figure(size.rate(step.value), size.rate(step.high), size.rate(step.low))
    base = next((row for row in rows if row.gpus == row.baseline_gpus and row.images_per_sec is not None), None)
    images = _images(rows)
    train = None if images is None else Figure(images / rate.value, images / rate.high, images / rate.low)
    hours = size.gpus / 3600
    return Prediction(
        gpus=size.gpus,
        nodes=size.nodes,
        step_ms=step,
        images_per_sec=rate,
        measured=next((row.images_per_sec for row in rows if row.gpus == size.gpus), None),
        efficiency=rate.value / (base.images_per_sec or math.nan) * base.gpus / size.gpus if base else None,
        time_to_train_s=train,
        gpu_hours=train and Figure(train.value * hours, train.low * hours, train.high * hours),
    )


def _images(rows: Sequence[ScalingRow]) -> float | None:
    """Images that the whole training takes at the steady rate, its evaluations counted as the images they cost.

    A training that ends at an AUC takes more at some sizes than at others, and gives none.
    """
    known = [
        row.time_to_train_s * row.images_per_sec
        for row in rows
        if row.time_to_train_s is not None
        and row.images_per_sec is not None
        and row.time_to_train_kind.endswith("fixed_epochs")
    ]
    return statistics.median(known) if known else None


def _figure(value: float, drawn: Sequence[float]) -> Figure:
    if not drawn:
        return Figure(value, value, value)
    # No figure between two is made up: a parameter may have no bound.
    low, high = np.percentile(drawn, (2.5, 97.5), method="nearest")
    return Figure(value, float(low), float(high))


def as_json(outlooks: Iterable[Outlook]) -> list[dict[str, Any]]:
    """The outlooks as JSON has them: leave-one-out errors too, and null for what has no bound."""
    found = [dataclasses.asdict(outlook) for outlook in outlooks]
    for outlook in found:
        for model in outlook["models"]:
            for left in model["left_out"]:
                left["error"] = left["predicted"] / left["measured"] - 1
    plain: list[dict[str, Any]] = _finite(found)
    return plain


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
