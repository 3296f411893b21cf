"""Which rate a log gives: the figures that it has of one run check each other.

The rule, which docs/numbers.md tells with examples:

- Each figure has one or more readings, the plainest first. What the log says outright has one: `Total img/sec`. What
  it leaves open has several: a `throughput` of nobody knows how many GPUs, a count of samples or of steps.
- Two figures agree where a reading of one lies within 15 % of a reading of the other, beyond their rounding. So much
  is between figures of MLPerf logs of which one holds evaluations, a warm-up or checkpoints that the other leaves out;
  figures that were mixed up are a fifth or more apart.
- The value that most figures support counts, and then that of the plainest readings. Its figure is the first given.
- One figure alone counts as it plainly reads, if it is one that can stand alone. What cannot (a count of nobody knows
  what) supports others, and contradicts none. A rate that may be one GPU's or that of all needs another figure, unless
  there is one GPU.
- Figures that nothing agrees on give no rate, and both lines are named. A figure that two others outvote is named too.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Sequence
from typing import NamedTuple

from hpcjobs.collect.measurements import SteadyRate

# Relative distance within which two figures agree, beyond their rounding. There is no other such distance: what reads
# logs compares by it (`alike`, `near`), but for two statements of one number, which are equal.
TOLERANCE = 0.15


class Kind(enum.Enum):
    """What a figure is. All rates are in the run's unit a second."""

    TOTAL = "a rate over all GPUs"
    ONE = "the rate of one GPU"
    OPEN = "a rate, of all GPUs or of one, in samples or in tokens"
    STEP = "the seconds of a step"
    COUNT = "a count a second, of samples, of steps or of tokens"


@dataclasses.dataclass(frozen=True)
class Figure:
    """One figure of a log: what it is, its value, the line that says it, and the log's words for it.

    Of a mean `line` is the first of its lines and `last` the last. `half` is the largest rounding error, in the unit of
    `value`. `least` is the figure if pauses count too (evaluations, checkpoints), and `most` if a warm-up does not,
    where the log gives these. A figure that is not `alone` supports others, but gives no rate by itself. `steady` is
    the steady state that it comes from, in the same unit.
    """

    kind: Kind
    value: float
    line: int
    words: str
    half: float = 0.0
    least: float | None = None
    most: float | None = None
    alone: bool = True
    steady: SteadyRate | None = None
    last: int = 0


class Sizes(NamedTuple):
    """What turns a figure into a rate: GPUs, samples of a step over all GPUs, tokens of a sample. None: not known."""

    gpus: int | None = None
    global_batch: int | None = None
    tokens: int | None = None


class Batches(NamedTuple):
    """Samples of a step: of one GPU and of all together, None if not known; and what contradicts them."""

    local: int | None
    whole: int | None
    contradiction: str = ""


def batches(
    gpus: int | None, local: int | None, whole: int | None, accumulation: int | None, shared: bool = False
) -> Batches:
    """The local and the global batch, the one that the log lacks from the other.

    The global batch is local batch x GPUs x steps of accumulation. A global batch that is a multiple of local batch x
    GPUs is accumulated, if the log does not say how often. One that is a divisor of it belongs to a model that several
    GPUs share. If that is known, or may be (`shared`), the global batch gives no local one.
    """
    each = accumulation or 1
    if gpus and local and whole:
        product = local * gpus * each
        accumulated = accumulation is None and whole % product == 0
        if whole != product and not accumulated and product % whole:
            said = f"local batch {local} x {gpus} GPUs" + (f" x {accumulation} accumulated" if accumulation else "")
            return Batches(None, None, f"global batch {whole} and {said} contradict each other")
    elif gpus and local:
        whole = local * gpus * each
    elif gpus and whole and whole % (gpus * each) == 0 and not shared:
        local = whole // (gpus * each)
    return Batches(local, whole)


class Reading(NamedTuple):
    """A rate over all GPUs that a figure may mean, from `low` to `high`; `how` says what makes it one."""

    rate: float
    low: float
    high: float
    how: str


class Agreed(NamedTuple):
    """The rate over all GPUs and the figure that it is, both None if the log gives none; and what contradicts it.

    `how` says what makes the figure a rate over all GPUs, empty if nothing has to. `contradiction` is empty if there
    is none, else a sentence with the lines and values, and `line` the first of these lines.
    """

    rate: float | None = None
    figure: Figure | None = None
    how: str = ""
    contradiction: str = ""
    line: int = 0


def readings(figure: Figure, sizes: Sizes) -> list[Reading]:
    """What a figure may mean, the plainest first; none if it is no positive number, or a size is missing."""
    value, least = figure.value, figure.least if figure.least is not None else figure.value
    if not 0 < value < math.inf:
        return []
    if figure.kind is Kind.STEP:
        if not sizes.global_batch:
            return []
        shortest = max(value - figure.half, value / 2)
        rate = sizes.global_batch / value
        return [
            Reading(rate, sizes.global_batch / (value + figure.half), sizes.global_batch / shortest, "batch / time")
        ]
    factors: list[tuple[float, str]] = [(1.0, "")]
    if figure.kind is Kind.ONE:
        factors = [(float(sizes.gpus), "one GPU's, times the GPUs")] if sizes.gpus else []
    if figure.kind is Kind.OPEN and sizes.gpus and sizes.gpus > 1:
        factors.append((float(sizes.gpus), "one GPU's, times the GPUs"))
    if figure.kind is Kind.COUNT and sizes.global_batch and sizes.global_batch > 1:
        factors.append((float(sizes.global_batch), "steps, times the global batch"))
    if figure.kind in (Kind.OPEN, Kind.COUNT) and sizes.tokens and sizes.tokens > 1:
        factors.append((1 / sizes.tokens, "tokens, over the tokens of a sequence"))
    most = figure.most if figure.most is not None else value
    low, high = max(min(value, least) - figure.half, 0.0), max(value, least, most) + figure.half
    return [Reading(value * factor, low * factor, high * factor, how) for factor, how in factors]


def alike(one: float, other: float) -> bool:
    """Whether two figures above 0 agree."""
    return one <= other * (1 + TOLERANCE) and other <= one * (1 + TOLERANCE)


def near(one: Reading, other: Reading) -> bool:
    """Whether two readings agree."""
    return one.low <= other.high * (1 + TOLERANCE) and other.low <= one.high * (1 + TOLERANCE)


def agree(figures: Sequence[Figure], sizes: Sizes) -> Agreed:
    """The rate that the figures of one run give together, by the rule at the top of this file.

    The figures are independent of each other, the one to be preferred first. Figures that are no rate without a size
    that is not known are left out.
    """
    given = [(figure, found) for figure in figures if (found := readings(figure, sizes))]
    if not given:
        return Agreed()
    if len(given) == 1:
        return _sole(*given[0], sizes) if given[0][0].alone else Agreed()
    # (supporters, plainness of the readings by which they support, order): the best value first.
    values: list[tuple[int, int, int, Reading, Figure]] = []
    for order, (figure, found) in enumerate(given):
        for reading in found:
            support = [
                next((plain for plain, each in enumerate(others) if near(reading, each)), None) for _, others in given
            ]
            by = [plain for plain in support if plain is not None]
            values.append((-len(by), sum(by), order, reading, figure))
    values.sort(key=lambda value: value[:3])
    count, plain, _, best, figure = values[0]
    rivals = [value for value in values if value[:2] == (count, plain) and not near(value[3], best)]
    standing = [(figure, found) for figure, found in given if figure.alone]
    if count == -1 or rivals:
        if len(standing) == 1:
            return _sole(*standing[0], sizes)
        return _contradicted(standing) if standing else Agreed()
    outvoted = [one for one, found in standing if not any(near(best, each) for each in found)]
    said = "; ".join(_told(one) for one in outvoted)
    return Agreed(
        best.rate,
        figure,
        best.how,
        f"{said}: contradicts {_told(figure)}{f' ({best.how})' if best.how else ''}, which counts" if said else "",
        min((one.line for one in outvoted), default=0),
    )


def _sole(figure: Figure, found: list[Reading], sizes: Sizes) -> Agreed:
    """The rate by one figure that no other confirms."""
    if figure.kind is Kind.OPEN and (len(found) > 1 or sizes.gpus is None):
        what = "samples or of tokens" if sizes.gpus == 1 else "one GPU or of all"
        return Agreed(None, None, "", f"{_told(figure)} may be of {what}: no figure confirms it", figure.line)
    return Agreed(found[0].rate, figure, found[0].how)


def _contradicted(given: Sequence[tuple[Figure, list[Reading]]]) -> Agreed:
    told = "; ".join(_told(figure) for figure, _ in given)
    return Agreed(None, None, "", f"the log contradicts itself: {told}", given[0][0].line)


def where(line: int, last: int = 0) -> str:
    """The words for a line, or for the lines from the first to the last."""
    return f"lines {line} to {last}" if last > line else f"line {line}"


def _told(figure: Figure) -> str:
    place = f" ({where(figure.line, figure.last)})" if figure.line else ""
    unit = " s a step" if figure.kind is Kind.STEP else "/s"
    return f"{figure.words}{place} {figure.value:.6g}{unit}"
