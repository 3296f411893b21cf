"""The page's answer in sentences: how far it scales, how sure that is, what holds it back. Pure."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

from hpcjobs.analysis.attribution import LOSS_OF, not_told_apart
from hpcjobs.analysis.intervals import welch_ratio
from hpcjobs.base.columns import FLAG_LOADER, FLAG_SLOW_NODE, FLAG_STARVED, FLAG_UNCLAIMED, FLAGS
from hpcjobs.base.metrics import LOSSES, Run, ScalingRow
from hpcjobs.base.records import RunState
from hpcjobs.report.contents import Series, cause_of, clean, flags_at, kind, listed, series, sizes

# Below this efficiency most people would no longer say that it scales.
_GOOD = 0.8
_PARTS = {
    "input": "waiting for input",
    "allreduce": "exposed all-reduce",
    "skew": "waiting for the slowest rank",
    "compute": "slower computing",
    "other": "time that the measured parts do not explain",
}
# So many sizes that lost some runs have a sentence each.
_SENTENCES = 8
# Stands between a number and its unit, so that no line break separates them.
_S = "\N{NO-BREAK SPACE}"


@dataclasses.dataclass(frozen=True)
class Flag:
    """A flag, the sizes that have it (`where`, empty if all have it), and what it means."""

    name: str
    where: str
    meaning: str


@dataclasses.dataclass(frozen=True)
class Answer:
    """The sentences about one series, in parts that may be empty. `name` is the name of the series."""

    name: str
    how_far: tuple[str, ...]
    how_sure: tuple[str, ...]
    flags: tuple[Flag, ...]
    holds_back: tuple[str, ...]
    failed: tuple[str, ...]


def answers(rows: Sequence[ScalingRow], runs: Sequence[Run] = ()) -> list[Answer]:
    """One answer for each series of the table, in its order. The runs give the reasons of failed sizes."""
    return [answer(each, runs) for each in series(rows)]


def answer(each: Series, runs: Sequence[Run] = ()) -> Answer:
    """The answer for one series."""
    return Answer(each.name, how_far(each), how_sure(each), flags(each.rows), holds_back(each), failed(each, runs))


# --- how far -------------------------------------------------------------------------------------


def how_far(each: Series) -> tuple[str, ...]:
    """Speed-up and efficiency of the largest measured size, and the size beyond which it no longer scales."""
    return (*_how_far(each), *_no_batch(each.measured))


def _no_batch(rows: Sequence[ScalingRow]) -> list[str]:
    """What is not known because nobody said the batch."""
    if not rows or any(row.global_batch is not None for row in rows):
        return []
    has_step = any(row.step_ms is not None for row in rows)
    lacking = "no kind of scaling is" if has_step else "no step time and no kind of scaling are"
    return [f"The batch is not known; without it {lacking} known."]


def _how_far(each: Series) -> tuple[str, ...]:
    if not each.measured:
        return ("No run has a measurement, so its scaling is not known.",)
    last, unit = each.measured[-1], each.unit
    rate = f"{_figure(last.throughput)}{_S}{unit}/s{_interval(last.throughput_low, last.throughput_high)}"
    if len({row.gpus for row in each.measured}) == 1:
        return (f"One size alone does not show how it scales: {rate} {_on(last.gpus, begin=False)}.",)
    if last.speedup is None or last.efficiency is None or last.baseline_gpus is None:
        why = (
            "The sizes share neither the local batch nor the global batch, so they are not compared."
            if last.scaling == "mixed"
            else "The requested base has no measurement, so there is no speed-up."
        )
        return f"{_on(last.gpus)} it trains {rate}.", why
    if last.gpus == last.baseline_gpus:
        return (f"No size above the base has a measurement: {rate} {_on(last.gpus, begin=False)}.",)
    base = next((row for row in each.measured if row.gpus == last.baseline_gpus), last)
    once = _once(base, last)
    speed = f" ({once}, so no interval)" if once else _interval(last.speedup_low, last.speedup_high, ".1f")
    # A speed-up that rounds to 1.0 is "about as fast".
    times = "about" if f"{last.speedup:.1f}" == "1.0" else f"{last.speedup:.1f} times"
    before = f"{_figure(last.throughput / last.speedup)}{_S}{unit}/s" if last.throughput else ""
    share = f"{_percent(last.efficiency)}{_interval_percent(last.efficiency_low, last.efficiency_high)}"
    found = [
        f"{_on(last.gpus)} it trains {times} as fast as on {last.baseline_gpus}{speed}: "
        f"{_figure(last.throughput)} instead of {before}.",
        f"The efficiency is {share}{_of_kind(last)}.",
    ]
    if last.speedup_low is not None and last.speedup_high is not None and last.speedup_low <= 1 <= last.speedup_high:
        found.append("The interval of the speed-up contains 1: it does not show which of the two sizes is faster.")
    return (*found, *_knee(each.measured, each.unit), *_unknown(each))


def _unknown(each: Series) -> list[str]:
    beyond = [row.gpus for row in each.failed if row.gpus > each.measured[-1].gpus]
    return [f"The speed on {sizes(beyond)} is not known: there is no measurement."] if beyond else []


def _of_kind(row: ScalingRow) -> str:
    batch = row.local_batch if row.scaling == "weak" else row.global_batch
    return f" with {kind(row.scaling, batch)}" if row.scaling in ("weak", "strong") else ""


def _knee(rows: Sequence[ScalingRow], unit: str) -> list[str]:
    """Where it stops scaling: the fastest size, if that is not the largest, and the last size of good efficiency."""
    found = []
    last = rows[-1]
    fastest = max(rows, key=lambda row: row.throughput or 0.0)
    if fastest.gpus < last.gpus:
        found.append(_most(fastest, [row for row in rows if row.gpus > fastest.gpus], unit))
    compared = [row for row in rows if row.efficiency is not None and row.gpus >= (row.baseline_gpus or 0)]
    good: list[ScalingRow] = []
    for row in compared:
        if (row.efficiency or 0.0) < _GOOD:
            break
        good.append(row)
    if good and len(good) < len(compared) and good[-1].gpus != good[-1].baseline_gpus:
        next_one = compared[len(good)]
        found.append(
            f"The efficiency stays above {_percent(_GOOD, 0)} up to {sizes([good[-1].gpus])}; "
            f"{_on(next_one.gpus, begin=False)} it is {_percent(next_one.efficiency or 0.0)}."
        )
        if once := _once(*good, next_one):
            found.append(f"{_capital(once)} does not show whether it falls at another size.")
        elif not _falls(good, next_one):
            found.append("Within the intervals it may fall at another size.")
    return found


def _most(fastest: ScalingRow, larger: Sequence[ScalingRow], unit: str) -> str:
    """That the fastest size is not the largest, and whether the intervals confirm it."""
    most = f"{_figure(fastest.throughput)}{_S}{unit}/s {_on(fastest.gpus, begin=False)}"
    alike = [row for row in larger if not _is_faster(fastest, row)]
    if not alike:
        return f"It is fastest with {most}; more GPUs are slower."
    if once := _once(fastest, *alike):
        return f"The fastest measurement is {most}, but {once} does not show whether more GPUs are slower."
    within = f"within the intervals {sizes([row.gpus for row in alike])} may be as fast"
    return f"The fastest measurement is {most}, but {within}."


def _is_faster(one: ScalingRow, other: ScalingRow) -> bool:
    ratio = welch_ratio(one.rates, other.rates)
    return ratio is not None and ratio.low > 1


def _falls(good: Sequence[ScalingRow], next_one: ScalingRow) -> bool:
    """Whether the intervals of all `good` sizes lie above _GOOD and that of the next size below. The base has none."""
    are_good = all(row.efficiency_low is None or row.efficiency_low >= _GOOD for row in good)
    return are_good and next_one.efficiency_high is not None and next_one.efficiency_high < _GOOD


def _once(*rows: ScalingRow) -> str:
    """`one run per size` or `one run on 8 GPUs`: the rows that have no interval. Empty if all have one."""
    single = [row.gpus for row in rows if row.runs == 1]
    return "one run per size" if len(single) == len(rows) else f"one run on {sizes(single)}" if single else ""


# --- how sure ------------------------------------------------------------------------------------


def how_sure(each: Series) -> tuple[str, ...]:
    """The number of repeats, and the width of the intervals."""
    return (_repeats(each), *_width(each.measured)) if each.measured else ()


def _repeats(each: Series) -> str:
    rows = each.measured
    counts = sorted({row.runs for row in rows})
    what = "It" if len(each.rows) == 1 else "Each measured size" if each.failed else "Each size"
    if counts == [1]:
        once = f"{what} was measured once, so the variation from run to run is not known and"
        if any(getattr(row, f"lost_{part}_ms_low", None) is not None for row in rows for part in LOSSES):
            return f"{once} rates have no intervals. Those of the losses are within single runs, over control blocks."
        return f"{once} there are no intervals."
    if len(counts) == 1:
        return f"{what} was measured {_times(counts[0])}."
    single = [row.gpus for row in rows if row.runs == 1]
    alone = f" There is one run on {sizes(single)}, so no interval." if single else ""
    return f"The sizes were measured {counts[0]} to {counts[-1]} times.{alone}"


def _width(rows: Sequence[ScalingRow]) -> list[str]:
    halves = {
        row.gpus: (row.throughput_high - row.throughput) / row.throughput
        for row in rows
        if row.throughput and row.throughput_high is not None
    }
    if not halves:
        return []
    widest = max(halves, key=lambda gpus: halves[gpus])
    if len(halves) == 1:
        return [f"The 95{_S}% interval of its throughput is ±{_percent(halves[widest])}."]
    return [f"The widest 95{_S}% interval of throughput is ±{_percent(halves[widest])}, on {sizes([widest])}."]


def flags(rows: Sequence[ScalingRow]) -> tuple[Flag, ...]:
    """The flags of the rows, in the order of columns.FLAGS."""
    every = {row.gpus for row in rows}
    return tuple(
        Flag(flag, "" if set(where) == every else sizes(where), FLAGS.get(flag, "not known to this version"))
        for flag, where in flags_at(rows).items()
    )


# --- what holds it back --------------------------------------------------------------------------


def holds_back(each: Series) -> tuple[str, ...]:
    """The lost time at the largest measured size, and its largest parts."""
    row = each.measured[-1] if each.measured else None
    if row is None or row.lost_ms is None or not row.step_ms or row.gpus == row.baseline_gpus:
        return ()
    where = _on(row.gpus)
    once = _once(*(other for other in each.measured if other.gpus in (row.gpus, row.baseline_gpus)))
    if row.lost_ms <= 0:
        none = f"{where} nothing is lost: a step takes {_ms(row.step_ms)}, no longer than with ideal scaling."
        if once:
            return none, f"{_capital(once)} does not show whether that is chance."
        if row.efficiency_low is not None and row.efficiency_low < 1:
            return none, f"Within the interval of the efficiency, up to {_percent(1 - row.efficiency_low)} may be lost."
        return (none,)
    found = [
        f"{where} a step takes {_ms(row.step_ms)}. Of that, {_ms(row.lost_ms)} "
        f"({_percent(row.lost_ms / row.step_ms)}) are lost compared with ideal scaling."
    ]
    if row.efficiency_high is not None and row.efficiency_high >= 1:
        found.append(f"The interval of the efficiency contains 100{_S}%, so this loss may be chance.")
    elif once:
        found.append(f"{_capital(once)} does not show how much of that is chance.")
    parts = {part: getattr(row, f"lost_{part}_ms") for part in LOSSES}
    if all(ms is None for part, ms in parts.items() if part != "other"):
        found.append("The cause is not known: no log takes the step apart.")
        if FLAG_LOADER in row.flags.split() and row.input_wait_ms:
            found.append(
                f"Its slowest rank in the loader spends {_ms(row.input_wait_ms)} of a step there, and how much of that "
                "is lost, only a benchmark tells."
            )
        return tuple(found)
    in_order = sorted((part for part in LOSSES if (parts[part] or 0.0) > 0), key=lambda part: -(parts[part] or 0.0))
    if in_order:
        worst = in_order[0]
        share = _percent((parts[worst] or 0.0) / row.step_ms)
        low, high = (getattr(row, f"lost_{worst}_ms_{end}", None) for end in ("low", "high"))
        between = "" if low is None or high is None else f"; 95{_S}% interval {low:.1f} to {high:.1f}{_S}ms"
        found.append(f"The largest part is {_PARTS[worst]}: {_ms(parts[worst] or 0.0)} ({share} of the step{between}).")
        if low is not None and low <= 0:
            found.append("That interval contains 0, so this part may be chance.")
    if len(in_order) > 1:
        second = in_order[1]
        found.append(f"The second largest is {_PARTS[second]}: {_ms(parts[second] or 0.0)}.")
    if vague := [_PARTS[LOSS_OF[name]] for name in not_told_apart(row)]:
        found.append(f"The control blocks differ so much that they do not tell {listed(vague)} apart from nothing.")
    if FLAG_STARVED in row.flags.split():
        found.append("Its ranks wait for CPUs all the time, so all-reduce, skew and computing are not told apart.")
    if FLAG_UNCLAIMED in row.flags.split():
        found.append(
            "No block ran without communication between ranks, so all-reduce, skew and computing are not told apart."
        )
    if FLAG_SLOW_NODE in row.flags.split() and row.slow_node_ms is not None:
        node, late = clean(row.slowest_node), _ms(row.slow_node_ms)
        found.append(f"In several runs node {node} computes {late} longer than the other nodes.")
    return tuple(found)


# --- what failed ---------------------------------------------------------------------------------


def failed(each: Series, runs: Sequence[Run] = ()) -> tuple[str, ...]:
    """The runs without a measurement, with their reasons. Sizes without any measurement share one sentence.

    So do more sizes than anybody reads about one by one.
    """
    lost: dict[tuple[object, ...], list[Run]] = {}
    for run in runs:
        if not run.measured:
            lost.setdefault(_point(run), []).append(run)
    some = [row for row in each.rows if row.failed_runs and row.runs]
    whole = [row for row in each.rows if row.failed_runs and not row.runs]
    groups = [[row] for row in some] if len(some) <= _SENTENCES else [some]
    return tuple(_failed_of(rows, [run for row in rows for run in lost.get(_point(row), ())])
                 for rows in (*groups, *([whole] if whole else ())))  # fmt: skip


def _failed_of(rows: Sequence[ScalingRow], runs: Sequence[Run]) -> str:
    where = sizes([row.gpus for row in rows])
    lost, count = sum(row.failed_runs for row in rows), sum(row.runs + row.failed_runs for row in rows)
    why = _why(runs)
    if count == 1:
        return f"The run on {where} has no measurement{why}."
    if lost == count:
        return f"None of the {count} runs on {where} has a measurement{why}."
    return f"{lost} of {count} runs on {where} {'has' if lost == 1 else 'have'} no measurement{why}."


def _point(each: Run | ScalingRow) -> tuple[object, ...]:
    """What a row and its runs have in common."""
    return each.experiment, each.params, each.gpus, each.local_batch, each.global_batch


def _why(runs: Sequence[Run]) -> str:
    """`: 2 failed (out_of_memory), 1 cancelled`."""
    counts: Counter[str] = Counter()
    for run in runs:
        cause, _ = cause_of(run)
        state = "done, but without a measurement" if run.state is RunState.DONE else str(run.state)
        counts[f"{state} ({cause})" if cause else state] += 1
    if not counts:
        return ""
    if len(runs) == 1:
        return f": {next(iter(counts))}"
    if len(counts) == 1:
        return f": all {len(runs)} {next(iter(counts))}"
    return ": " + listed([f"{number} {state}" for state, number in counts.items()])


# --- words ---------------------------------------------------------------------------------------


def _on(gpus: int, begin: bool = True) -> str:
    return f"{'On' if begin else 'on'} {sizes([gpus])}"


def _capital(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def _figure(value: float | None) -> str:
    """At most four significant digits, and no exponent."""
    if value is None:
        return "unknown"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _ms(value: float) -> str:
    return f"{value:,.0f}{_S}ms" if value >= 100 else f"{value:.3g}{_S}ms"


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f}{_S}%"


def _interval(low: float | None, high: float | None, form: str = "") -> str:
    if low is None or high is None:
        return ""
    ends = (format(low, form), format(high, form)) if form else (_figure(low), _figure(high))
    return f" (95{_S}% interval {ends[0]} to {ends[1]})"


def _interval_percent(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" ({_percent(low)} to {_percent(high)})"
