"""Where the time of a training's steps goes. One file, standard library only, Python 3.8 on."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

# --- statistics ----------------------------------------------------------------------------------
# Pure functions: the interval of a mean of step times, and the parts of a step with theirs.

BATCHES = 20
CORRELATION = 0.2
# Passes through the control blocks before the first look at the parts, and the fewest undisturbed ones that are
# taken without the others.
FIRST_LOOK, FEWEST = 6, 4
# A part is not told apart from nothing if the half of its interval is wider than this fraction of a step, and than
# this fraction of the part itself: what is known to half of itself is there; what is not known to 5 % of a step could
# hide a loss that matters.
TOLD_OF_STEP, TOLD_OF_PART = 0.05, 0.5
PARTS = ("input_wait_ms", "allreduce_ms", "skew_ms", "compute_ms")


class Estimate(NamedTuple):
    """Mean of a series and half the width of its 95 % interval (in the series' unit), with the batches behind them."""

    mean: float
    half_width: float
    batches: int
    batch_length: int
    correlation: float

    @property
    def relative(self) -> float:
        """Half-width over mean."""
        return self.half_width / self.mean


def estimate(series: Sequence[float]) -> Estimate | None:
    """The mean of a stationary series and its interval; None if the series is too short.

    Batch means (Law and Kelton, Simulation Modeling and Analysis, section 9.5.3): the values are
    averaged in batches. The batch length doubles, from one, until the lag-1 correlation r of the batch
    means is below 0.2 and the correlation of the values implies that too, while there are at least 20
    batches. From k batches, r is known only to within 1 / sqrt(k), and (1 + 3 r) / k too low (Kendall,
    Biometrika 41, 1954). Its upper 95 % bound R widens the variance of Student's interval by
    (1 + R) / (1 - R), as for a first-order autoregression.
    """
    values = [float(each) for each in series]
    if len(values) < BATCHES:
        return None
    # The length from which batch means of a first-order autoregression with the correlation of the values are
    # correlated by less than about 0.2, whatever a few batches show.
    close = min(max(lag_one(values), 0.0) + 4 / len(values), 0.99)
    least = (1 + close) / (1 - close) - 1
    length = 1
    while len(values) // length >= BATCHES:
        count = len(values) // length
        # The newest values: the remainder that is left out is nearest to the start-up.
        newest = values[-count * length :]
        means = [_mean(newest[begin : begin + length]) for begin in range(0, len(newest), length)]
        found = lag_one(means)
        if found < CORRELATION and length >= least:
            bound = found + (1 + 3 * max(found, 0.0)) / count + 1.645 / math.sqrt(count)
            bound = min(max(bound, 0.0), 0.9)
            error = math.sqrt(statistics.variance(means) / count * (1 + bound) / (1 - bound))
            return Estimate(_mean(means), student(count - 1) * error, count, length, found)
        length *= 2
    return None


def lag_one(values: Sequence[float]) -> float:
    """Correlation of each value with the next; 0 of a constant series."""
    mean = _mean(values)
    deviations = [value - mean for value in values]
    whole = math.fsum(each * each for each in deviations)
    return math.fsum(one * two for one, two in zip(deviations, deviations[1:])) / whole if whole > 0 else 0.0


def next_check(steps: int) -> int:
    """The timed step of the next check: 20, then a quarter more each time.

    The points are fixed and few, because each check is one more chance to stop at an interval that is too narrow
    by luck.
    """
    return max(BATCHES, steps + steps // 4)


def next_look(passes: int) -> int:
    """The number of control passes at the next look at the parts: 6, 8, 11, 14, 18, ..."""
    return max(FIRST_LOOK, passes * 5 // 4 + 1)


def agree(means: Sequence[float], tolerance: float) -> bool:
    """Whether the last three windows' means lie within `tolerance` of each other, as a fraction of their mean."""
    last = means[-3:]
    return len(last) == 3 and max(last) - min(last) <= tolerance * sum(last) / 3


def window_figures(steps: int, seconds: float, global_batch: float | None) -> dict[str, float | None]:
    """What the line of a window says: units per second over all ranks (None without a batch), and ms per step."""
    rate = None if global_batch is None else steps * global_batch / seconds
    return {"throughput": rate, "step_ms": 1000 * seconds / steps}


# t(0.975) of Student's distribution with 1 to 30 degrees of freedom: Abramowitz and Stegun, Handbook of Mathematical
# Functions, table 26.10, to four digits as NIST's e-Handbook of Statistical Methods, section 1.3.6.7.2, has them.
_STUDENT = (
    *(12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281),
    *(2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860),
    *(2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423),
)
_NORMAL = 1.959964


def student(freedom: int) -> float:
    """t(0.975) with `freedom` degrees of freedom, at least 1, to four digits after the point.

    Above 30 by the expansion in 1 / freedom (Abramowitz and Stegun, 26.7.5).
    """
    if freedom <= len(_STUDENT):
        return _STUDENT[freedom - 1]
    x = _NORMAL
    first = (x**3 + x) / 4
    second = (5 * x**5 + 16 * x**3 + 3 * x) / 96
    third = (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / 384
    return x + first / freedom + second / freedom**2 + third / freedom**3


class Part(NamedTuple):
    """A part of a step over the passes: its value and standard error in ms, and the degrees of freedom of that.

    Without a degree of freedom the error is None.
    """

    value: float
    error: float | None
    freedom: int

    @property
    def half_width(self) -> float | None:
        """Half the width of the 95 % interval in ms; None if the passes are too few."""
        return None if self.error is None else student(self.freedom) * self.error


def by_order(values: Sequence[float], forward: Sequence[bool]) -> Part:
    """The mean of a difference of blocks, one value a pass, without what a drift adds to it.

    A drift lowers a difference in the passes that run forward (ABC) by as much as it raises it in the others (CBA).
    Both means are taken, and the value is the middle between them: least squares of value = part +- order, with two
    parameters. Where all passes have one order it is the mean.
    """
    groups = [[v for v, f in zip(values, forward) if f is way] for way in (True, False)]
    groups = [group for group in groups if group]
    count = len(groups)
    means = [_mean(group) for group in groups]
    freedom = len(values) - count
    squares = math.fsum((v - mean) ** 2 for group, mean in zip(groups, means) for v in group)
    weight = math.fsum(1 / len(group) for group in groups) / count**2
    error = math.sqrt(squares / freedom * weight) if freedom > 0 else None
    return Part(_mean(means), error, max(freedom, 0))


def trimmed(values: Sequence[float]) -> Part:
    """The trimmed mean, one value a pass: without the largest and the smallest, from 11 passes on without two of each.

    A neighbour that no figure of the load shows makes a block slower, never faster. The error is that of Tukey and
    McLaughlin (Sankhya A 25, 1963): of the winsorized values, with n - 2 g - 1 degrees of freedom. Fewer than five
    values are not trimmed.
    """
    ordered, count = sorted(values), len(values)
    cut = _cut(count)
    kept = ordered[cut : count - cut]
    freedom = len(kept) - 1
    winsorized = [kept[0]] * cut + kept + [kept[-1]] * cut
    error = statistics.stdev(winsorized) / ((1 - 2 * cut / count) * math.sqrt(count)) if freedom > 0 else None
    return Part(_mean(kept), error, freedom)


def _cut(passes: int) -> int:
    return 0 if passes < 5 else 1 if passes < 11 else 2


def by_pairs(values: Sequence[float]) -> Part:
    """The mean of a time, one value a pass; its error is that of the means of neighbouring passes, two by two.

    In ... CBA ABC ... neighbours lie close together, so what changes slowly is alike in them. The last of an odd
    number of passes goes with the two before it.
    """
    count = max(len(values) // 2, 1)
    if len(values) < 4:
        return Part(_mean(values), None, 0)
    sums = [math.fsum(values[2 * n : 2 * n + 2 if n < count - 1 else len(values)]) for n in range(count)]
    sizes = [2] * (count - 1) + [len(values) - 2 * (count - 1)]
    mean = _mean(values)
    # Of batches of unequal size: the variance of one value, from each batch's squared distance times its size.
    one = math.fsum(size * (each / size - mean) ** 2 for each, size in zip(sums, sizes)) / (count - 1)
    return Part(mean, math.sqrt(one / len(values)), count - 1)


def freedom(part: str, passes: int) -> int:
    """The degrees of freedom of a part (PARTS, or waiting_ms) over passes of both orders; below 1: no interval."""
    if part in ("input_wait_ms", "allreduce_ms"):
        return passes - 2
    if part in ("skew_ms", "waiting_ms"):
        return passes - 2 * _cut(passes) - 1
    return passes // 2 - 1


class _Pass(NamedTuple):
    """What one pass says, in ms: means over ranks and steps, and of each rank its steps in (c)."""

    number: int
    forward: bool
    a: float
    b: float
    slowest: float
    compute: float
    alone: list[list[float]]


def _passes(everyone: Sequence[Mapping[str, Any]]) -> list[_Pass]:
    """The passes that all ranks have whole; a step counts that all ranks have. Pass 0 runs forward, 1 backward, ..."""
    found = []
    for number, ranks in enumerate(zip(*(one["passes"] for one in everyone))):
        steps = {phase: list(zip(*(one[phase] for one in ranks))) for phase in "abc"}
        if all(steps.values()):
            a, b = (_mean([_mean(step) for step in steps[phase]]) for phase in "ab")
            slowest, compute = _mean([max(step) for step in steps["c"]]), _mean([_mean(step) for step in steps["c"]])
            alone = [list(rank) for rank in zip(*steps["c"])]
            found.append(_Pass(number, number % 2 == 0, a, b, slowest, compute, alone))
    return found


def parts_of(passes: Sequence[_Pass], hosts: Sequence[str]) -> dict[str, Part]:
    """The four parts of a step (PARTS), and `typical_ms` and `waiting_ms`, which the report compares sizes by.

    `typical_ms` is the time that a typical rank computes: the median over nodes of the median over ranks (of an even
    number the smaller of the middle two). `waiting_ms` is the time by which the slowest rank of a step is later.
    """
    forward = [each.forward for each in passes]
    typical = [_typical([_mean(rank) for rank in each.alone], hosts) for each in passes]
    return {
        "input_wait_ms": by_order([each.a - each.b for each in passes], forward),
        "allreduce_ms": by_order([each.b - each.slowest for each in passes], forward),
        "skew_ms": trimmed([each.slowest - each.compute for each in passes]),
        "compute_ms": by_pairs([each.compute for each in passes]),
        "typical_ms": by_pairs(typical),
        "waiting_ms": trimmed([each.slowest - middle for each, middle in zip(passes, typical)]),
    }


def _typical(ranks: Sequence[float], hosts: Sequence[str]) -> float:
    by_node: dict[str, list[float]] = {}
    for ms, host in zip(ranks, hosts):
        by_node.setdefault(host, []).append(ms)
    return statistics.median_low(map(statistics.median_low, by_node.values()))


# How a figure of the load tells a disturbed block, and the words for it: it is above that of the quiet blocks of the
# same phase on the same rank by this amount at least, and by half of it, because ranks that share their CPUs with each
# other wait much and not always alike. A clock is below by this fraction.
_LOADS: Mapping[str, tuple[float, str]] = {
    "foreign_cpu": (0.25, "other processes used {:.1f} CPUs on {} ({:.1f} in quiet blocks)"),
    "cpu_wait": (0.10, "a rank waited for a CPU {:.0%} of the time on {} ({:.0%} in quiet blocks)"),
    "steal": (0.02, "the hypervisor took {:.0%} of the CPU time of {} ({:.0%} in quiet blocks)"),
    "pressure": (0.10, "tasks waited for a CPU {:.0%} of the time on {} ({:.0%} in quiet blocks)"),
    "sm_mhz": (0.03, "the GPU ran at {:.0f} MHz on {} ({:.0f} MHz in quiet blocks)"),
}


def disturbed(everyone: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The blocks that another load disturbed, by the measured load and never by the step times, in order of time.

    [{"phase", "pass", "why"}], one for each block; `pass` counts from 0. A figure is compared with its lower quartile
    (of a clock, the upper) over the passes, in blocks of the same phase on the same rank: what is there all the time
    disturbs no block, it is a part of what the machine is. A figure that is None says nothing.
    """
    found: dict[tuple[int, str], str] = {}
    for one in everyone:
        for phase, (name, (limit, words)) in itertools.product("abc", _LOADS.items()):
            figures = [((each.get("load") or {}).get(phase) or {}).get(name) for each in one["passes"]]
            known = [(number, each) for number, each in enumerate(figures) if each is not None and math.isfinite(each)]
            if not known:
                continue
            ordered = sorted(figure for _, figure in known)
            quarter = (len(ordered) - 1) // 4
            quiet = ordered[-1 - quarter] if name == "sm_mhz" else ordered[quarter]
            for number, figure in known:
                if figure < quiet * (1 - limit) if name == "sm_mhz" else figure > quiet + max(limit, quiet / 2):
                    found.setdefault((number, phase), words.format(figure, one["host"], quiet))
    place = {(number, phase): (number, (1 if number % 2 == 0 else -1) * ord(phase)) for number, phase in found}
    return [
        {"phase": phase, "pass": number, "why": found[number, phase]}
        for number, phase in sorted(found, key=place.__getitem__)
    ]


def _quiet(passes: Sequence[_Pass], blocks: Sequence[Mapping[str, Any]]) -> list[_Pass]:
    """The passes without a disturbed block, if they are enough; else all."""
    noisy = {each["pass"] for each in blocks}
    quiet = [each for each in passes if each.number not in noisy]
    return quiet if len(quiet) >= FEWEST else list(passes)


def _talks(everyone: Sequence[Mapping[str, Any]]) -> int | None:
    """The most collectives that a rank began in a block (c), beside the one that is left out; None: not known."""
    counts = [count for one in everyone for count in one.get("collectives") or [-1]]
    return None if -1 in counts else max(counts)


def attribute(everyone: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The value of train.log's hpcjobs_control line: the parts of a step, from the control blocks of all ranks.

    everyone[rank] = {"rank", "host", "passes": [{"a": [ms, ...], "b": [...], "c": [...], "load": {"a": {...}, ...}},
    ...], "collectives": [a number, or -1 for unknown, per pass]}. (a) is the unchanged training, (b) the same on a
    batch in the device's memory, (c) as (b) without the all-reduce, so that no rank waits for another. The blocks of
    a pass follow each other, in the order (a), (b), (c) in pass 0, (c), (b), (a) in pass 1, and so on.

    Each pass gives one value of each part: `input_wait_ms` = (a) - (b); `allreduce_ms` = (b) - mean over steps of the
    slowest rank in (c), the exposed part of the all-reduce without waiting for the slowest rank; `skew_ms` = mean
    over steps of (slowest rank - mean rank) in (c); `compute_ms` = mean of (c). The error of a part is that from pass
    to pass (by_order, trimmed, by_pairs), because blocks differ by more than steps within a block. Passes with a
    disturbed block are left out if FEWEST others remain. A part may be below 0 by chance.

    If the script itself talks in (c), its ranks wait there for each other: then allreduce_ms and skew_ms are None,
    and allreduce_claimed is False. Times in ms. Raises ValueError if no pass is whole on all ranks.
    """
    whole = _passes(everyone)
    if not whole:
        raise ValueError("no pass through the control blocks is whole on all ranks")
    blocks = disturbed(everyone)
    used = _quiet(whole, blocks)
    talks = _talks(everyone)
    claimed = not talks
    step = _mean([each.a for each in used])
    parts = parts_of(used, [one["host"] for one in everyone])
    if not claimed:
        parts = {name: parts[name] for name in ("input_wait_ms", "compute_ms")}
    widths = {name: part.half_width for name, part in parts.items()}
    rank_steps = [list(itertools.chain(*(each.alone[rank] for each in used))) for rank in range(len(everyone))]
    medians = [statistics.median(steps) for steps in rank_steps]
    slowest = max(range(len(medians)), key=medians.__getitem__)
    return {
        "step_ms": _rounded(step),
        **{
            name: _rounded(parts[name].value if name in parts else None)
            for name in (*PARTS, "typical_ms", "waiting_ms")
        },
        "standard_errors": {name: _rounded(part.error) for name, part in parts.items()},
        "half_widths": {name: _rounded(width) for name, width in widths.items()},
        "freedom": {name: part.freedom for name, part in parts.items()},
        "passes": len(whole),
        "passes_used": len(used),
        "control_steps": max(len(each["c"]) for each in everyone[0]["passes"]),
        "disturbed": blocks,
        "not_told_apart": [name for name in PARTS if name in parts and is_vague(parts[name].value, widths[name], step)],
        "collectives_in_c": talks,
        "allreduce_claimed": claimed,
        "slowest_rank": slowest,
        "slowest_host": everyone[slowest]["host"],
        "ranks": [
            {
                "host": one["host"],
                "min_ms": _rounded(min(steps)),
                "median_ms": _rounded(median),
                "max_ms": _rounded(max(steps)),
            }
            for one, steps, median in zip(everyone, rank_steps, medians)
        ],
    }


def is_vague(value: float, half_width: float | None, step: float) -> bool:
    """Whether a part is not told apart from nothing: its interval is wide both in the step and beside the part."""
    return half_width is None or half_width > max(TOLD_OF_STEP * step, TOLD_OF_PART * abs(value))


def parts_known(everyone: Sequence[Mapping[str, Any]], precision: float) -> bool:
    """Whether each part's half-width is at most `precision` of a step, so that the control blocks may end.

    It looks only after 6, 8, 11, 14, ... whole passes, of which 6 are undisturbed: each look is one more chance to
    stop at an interval that is narrow by luck. With these few the loss of coverage is below one point
    (benchmarks/parts.py), so that the intervals need no correction for it.
    """
    whole = _passes(everyone)
    look = FIRST_LOOK
    while look < len(whole):
        look = next_look(look)
    if look != len(whole):
        return False
    noisy = {each["pass"] for each in disturbed(everyone)}
    used = [each for each in whole if each.number not in noisy]
    if len(used) < FIRST_LOOK:
        return False
    parts = parts_of(used, [one["host"] for one in everyone])
    limit = precision * _mean([each.a for each in used])
    names = ("input_wait_ms", "compute_ms") if _talks(everyone) else PARTS
    widths = [parts[name].half_width for name in names]
    return all(width is not None and width <= limit for width in widths)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
