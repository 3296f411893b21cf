"""Two models of the step time. Both are linear in parameters of at least 0 and minimise the relative error. Pure.

ring: step = compute + input + (1 - overlap) x R(n). R is a ring all-reduce of M bytes over n ranks,
    R(n) = 2 (n - 1) latency + 2 (n - 1) / n x M / bandwidth
    (Patarasuk and Yuan, J. Parallel Distrib. Comput. 69, 2009; Thakur, Rabenseifner and Gropp, Int. J. High
    Perform. Comput. Appl. 19, 2005). On one node, latency and bandwidth are those inside a node. On several nodes they
    are those across nodes: each of the 2 (n - 1) steps of a ring waits for its slowest link.
usl: Gunther's Universal Scalability Law, X(n) = lambda n / (1 + sigma (n - 1) + kappa n (n - 1))
    (Guerrilla Capacity Planning, Springer 2007; arXiv:0808.1431). It is a second opinion and has no network in it.

If all sizes have control phases, compute (of the slowest rank) and input come from them, in ms per sample and rank.
Between sizes both are interpolated on log n; beyond the sizes they are constant. If a size has no control phases,
compute is fitted and includes the input.
If there is a fabric probe, latency and bandwidth come from it. If not, an effective latency and transfer time are
fitted. They already contain the overlap, so there is no overlap parameter.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls

from hpcjobs.base.errors import InputError
from hpcjobs.base.files import read_json

Vector = np.ndarray[Any, np.dtype[np.float64]]


@dataclasses.dataclass(frozen=True)
class Fabric:
    """What the fabric probe measured between two ranks: latency in s, bandwidth in bytes/s. None: not measured."""

    inside_latency_s: float | None = None
    inside_bytes_per_s: float | None = None
    across_latency_s: float | None = None
    across_bytes_per_s: float | None = None


def read_fabric(path: Path) -> Fabric:
    """Read a JSON file whose keys are the fields of Fabric.

    Raises InputError if it has no pair of latency and bandwidth, half of a pair, or a value that is not above 0.
    """
    data = read_json(path)
    names = [field.name for field in dataclasses.fields(Fabric)]
    figures = {name: data[name] for name in names if data.get(name) is not None} if data else {}
    halves = [pair for pair in (names[:2], names[2:]) if len(figures.keys() & set(pair)) == 1]
    if not figures or halves:
        wanted = f"both of {' and '.join(halves[0])}" if halves else f"the keys {', '.join(names)}"
        raise InputError(f"{path}: not a fabric probe's JSON: expected {wanted}")
    for name, value in figures.items():
        if not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise InputError(f"{path}: {name} is {value!r}: expected a number above 0")
    return Fabric(**figures)


@dataclasses.dataclass(frozen=True)
class ModelPoint:
    """A size as the models see it; `step_ms` is None if it was not run.

    `local` is the local batch, or 1 if no batch is known; then a step is one unit of work of each GPU. `compute_ms` and
    `input_ms` come from the control phases.
    """

    gpus: int
    nodes: int
    local: float
    step_ms: float | None = None
    compute_ms: float | None = None
    input_ms: float | None = None

    def rate(self, step_ms: float) -> float:
        """Throughput at a step of `step_ms`."""
        return 1000 * self.local * self.gpus / step_ms


@dataclasses.dataclass(frozen=True)
class LinearModel:
    """step_ms of a size = known of it + sum of its factors x parameters.

    `known` and `factors` take sizes: (size,) ms and (size, parameter). `names` and `at_most` are the name and upper
    bound of each parameter. `meaning` converts fitted parameters into those of the model's formula, by name.
    """

    names: tuple[str, ...]
    known: Callable[[Sequence[ModelPoint]], Vector]
    factors: Callable[[Sequence[ModelPoint]], Vector]
    at_most: tuple[float, ...]
    meaning: Callable[[Vector], dict[str, float]]


def usl(points: Sequence[ModelPoint]) -> LinearModel:
    """The Universal Scalability Law. Its step is linear in 1 / lambda, sigma / lambda and kappa / lambda."""

    def meaning(fitted: Vector) -> dict[str, float]:
        per_sample = float(fitted[0])
        return {
            "lambda": 1000 / per_sample if per_sample else math.inf,
            "sigma": float(fitted[1]) / per_sample if per_sample else math.inf,
            "kappa": float(fitted[2]) / per_sample if per_sample else math.inf,
        }

    def factors(sizes: Sequence[ModelPoint]) -> Vector:
        gpus, local = _gpus(sizes), _local(sizes)
        return np.stack((local, local * (gpus - 1), local * gpus * (gpus - 1)), axis=1)

    return LinearModel(
        ("lambda", "sigma", "kappa"),
        lambda sizes: np.zeros(len(sizes)),
        factors,
        (math.inf,) * 3,
        meaning,
    )


def ring(points: Sequence[ModelPoint], fabric: Fabric | None, gradient_bytes: float | None) -> LinearModel:
    """The ring model. `gradient_bytes` is M.

    Raises InputError if a fabric is given without `gradient_bytes`, or if it lacks the link that a point needs.
    """
    names: tuple[str, ...] = ()
    reference = points[0].local if points else 1.0
    has_control = all(point.compute_ms is not None and point.input_ms is not None for point in points)
    if not has_control:
        names = ("compute_ms",)
    if fabric is None:
        names += ("latency_ms", "transfer_ms")
    else:
        if gradient_bytes is None:
            raise InputError("with a fabric probe the model needs the size of the gradients (gradient_bytes)")
        one_node = fabric.across_latency_s is None or fabric.across_bytes_per_s is None
        if one_node and any(point.nodes > 1 for point in points):
            raise InputError("the fabric probe measured one node only, but the table has sizes on several nodes")
        one_rank = fabric.inside_latency_s is None or fabric.inside_bytes_per_s is None
        if one_rank and any(point.nodes == 1 and point.gpus > 1 for point in points):
            raise InputError("the fabric probe had one rank per node, but the table has several ranks on one node")
        names += ("exposed",)

    def known(sizes: Sequence[ModelPoint]) -> Vector:
        return _local(sizes) * _between(points, sizes) if has_control else np.zeros(len(sizes))

    def factors(sizes: Sequence[ModelPoint]) -> Vector:
        gpus = _gpus(sizes)
        hops = 2 * (gpus - 1)
        compute = [] if has_control else [_local(sizes) / reference]
        if fabric is None or gradient_bytes is None:
            return np.stack((*compute, hops, hops / gpus), axis=1)
        across = np.array([size.nodes > 1 for size in sizes])
        latency = np.where(across, _or_nan(fabric.across_latency_s), _or_nan(fabric.inside_latency_s))
        bandwidth = np.where(across, _or_nan(fabric.across_bytes_per_s), _or_nan(fabric.inside_bytes_per_s))
        reduced = np.where(gpus == 1, 0.0, 1000 * hops * (latency + gradient_bytes / gpus / bandwidth))
        return np.stack((*compute, reduced), axis=1)

    def meaning(fitted: Vector) -> dict[str, float]:
        found = dict(zip(names, map(float, fitted), strict=True))
        if "exposed" in found:
            found["overlap"] = 1 - found.pop("exposed")
        return found

    at_most = tuple(1.0 if name == "exposed" else math.inf for name in names)
    return LinearModel(names, known, factors, at_most, meaning)


def _between(points: Sequence[ModelPoint], sizes: Sequence[ModelPoint]) -> Vector:
    """ms per sample and rank of compute and input: interpolated on log n between points, constant beyond them."""
    known = [((point.compute_ms or 0.0) + (point.input_ms or 0.0)) / point.local for point in points]
    found: Vector = np.interp(np.log2(_gpus(sizes)), np.log2(_gpus(points)), known)
    return found


def _gpus(sizes: Sequence[ModelPoint]) -> Vector:
    return np.array([size.gpus for size in sizes], float)


def _local(sizes: Sequence[ModelPoint]) -> Vector:
    return np.array([size.local for size in sizes], float)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


# --- fitting -------------------------------------------------------------------------------------


class Fit:
    """A linear model fitted to points; `noise` is the standard deviation of log (measured / fitted)."""

    def __init__(self, model: LinearModel, points: Sequence[ModelPoint]):
        self.model, self.points = model, points
        self.step_ms = np.array([point.step_ms for point in points], float)
        self.known = model.known(points)
        self.factors = model.factors(points)
        self.parameters = self.solve(self.step_ms)
        fitted = self.known + self.factors @ self.parameters
        self.freedom = len(points) - len(model.names)
        self.fitted = np.maximum(fitted, 1e-9)
        squares = float(np.square(np.log(self.step_ms / self.fitted)).sum())
        self.noise = math.sqrt(squares / max(self.freedom, 1))

    def solve(self, step_ms: Vector) -> Vector:
        """The parameters between 0 and `at_most` that minimise the squares of the relative error."""
        matrix, target = self.factors / step_ms[:, None], (step_ms - self.known) / step_ms
        found: Vector = nnls(matrix, target)[0]
        for number, bound in enumerate(self.model.at_most):
            if found[number] > bound:
                others = np.arange(len(found)) != number
                found[number] = bound
                if others.any():
                    found[others] = nnls(matrix[:, others], target - matrix[:, number] * bound)[0]
        return found

    def at(self, sizes: Sequence[ModelPoint], parameters: Vector) -> Vector:
        """The step of each of `sizes` in ms: (..., size) for `parameters` (..., parameter)."""
        steps: Vector = self.model.known(sizes) + parameters @ self.model.factors(sizes).T
        return np.maximum(steps, 1e-9)

    def resampled(self, count: int) -> tuple[Vector, Vector]:
        """The fitted parameters of `count` resampled sweeps, (sweep, parameter), and for each the noise of one new
        measurement.

        A parametric bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, ch. 6). Each sweep draws
        its variance as s^2 nu / chi^2_nu, because few degrees of freedom nu leave the noise itself uncertain.
        """
        random = np.random.default_rng(0)
        scale = self.noise * np.sqrt(self.freedom / random.chisquare(self.freedom, count))
        noise = random.standard_normal((count, len(self.points) + 1)) * scale[:, None]
        # exp() of an extreme draw would overflow. Clipped, it is still at the far end of the interval.
        noise = np.clip(noise, -20, 20)
        drawn = [self.solve(self.fitted * np.exp(row[:-1])) for row in noise]
        return np.array(drawn).reshape(count, len(self.model.names)), noise[:, -1]
