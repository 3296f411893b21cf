"""Reads a log by a user's pattern, in one pass and flat memory.

Who printed a line counts. Each rank that a launcher's prefix names (lines.py knows them) has its own series of
matches, with its own warm-up; lines without a prefix are one series. The figure of a series is the mean, the median or
the last of its matches. Then:

- `of: rank`: the mean of the ranks' figures, times the number of ranks. The figures are not summed, because not every
  rank need print one.
- `of: all`: each rank that prints the figure prints the same one, so the rank whose line matches first counts, and the
  other ranks' lines are left out. That several ranks print it is told; if their figures differ, the run has a flag.

Ranks without a prefix are told apart where the pattern has the group `step`: a line that says the same of the same step
is a copy, and left out. pattern_ranks.py tells of lines that say something else of the same step.

A bare number before a colon may be srun's label or the program's own count of steps. It is not the rank if it is not
below the number of GPUs; where that is not known, not if each number comes once.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from pathlib import Path

from hpcjobs.base.columns import FLAG_RATE_OF_RANK
from hpcjobs.collect.agreement import alike
from hpcjobs.collect.claims import Claims, Sizes
from hpcjobs.collect.lines import Line, Numbers, line, parts, spots
from hpcjobs.collect.measurements import LogResult, Problem, SteadyRate, Throughput
from hpcjobs.collect.pattern import BLOCK_S, Pattern
from hpcjobs.collect.pattern_numbers import Found, figures
from hpcjobs.collect.pattern_ranks import RankLines
from hpcjobs.collect.pattern_series import Matches, Series
from hpcjobs.collect.sources import SPLIT, Source
from hpcjobs.collect.steady import scaled

# The name of a pattern among formats.
FORMAT = "pattern"
# More ranks than this are no ranks.
_MOST_RANKS = 1 << 14
# Why a match is left out that has no figure.
_WRONG = "not a number"
# Units that a batch does not count: it counts samples.
_NO_BATCH = ("token", "step", "iteration", "it")


@dataclasses.dataclass(frozen=True)
class PatternRead:
    """A log as a pattern reads it: result, matches, what the log states of its run, and what contradicts it."""

    result: LogResult
    matches: Matches
    claims: Claims
    contradiction: str = ""

    @property
    def throughput(self) -> Throughput | None:
        """The measurement, if a figure was found."""
        return next((one for one in self.result.measurements if isinstance(one, Throughput)), None)


def read_pattern(path: Path, pattern: Pattern, known: Sizes | None = None) -> PatternRead:
    """Read one log. What is wrong with it becomes a problem of the result.

    `known` is what is known of the run; the number of GPUs is the log's if it is not known. Raises InputError if the
    pattern takes too long on a line.
    """
    known = known or Sizes()
    for labels in (True, False):
        reader, source = _Reader(pattern, known.gpus, labels), Source(path)
        for number, block in source.blocks():
            reader.feed(number, block)
            if reader.mislabelled():
                break
        if not labels or not reader.mislabelled(ended=True):
            break
    return _result(source, reader, pattern, known)


def texts(block: bytes, first: int, labels: bool = True, needle: bytes = b"") -> Iterator[tuple[Line, str]]:
    """Each line of a block without prefixes, and as it is if a prefix with a rank was removed, else "".

    `first` is the number of the block's first line. Only lines that contain `needle` are given, and perhaps others.
    """
    for number, raw in _raw_lines(block, first, needle):
        if SPLIT in raw:
            yield from ((each if labels else each._replace(rank=""), "") for each in parts(raw, number))
        elif raw:
            each = line(raw, number)
            if not each.rank:
                yield each, ""
            else:
                yield each if labels else each._replace(rank=""), raw.decode("utf-8", "replace")


def _raw_lines(block: bytes, first: int, needle: bytes) -> Iterator[tuple[int, bytes]]:
    # Open MPI's tags inside a line may break the needle up.
    if not needle or b"]<std" in block:
        yield from enumerate(block.split(b"\n"), first)
        return
    numbers = Numbers(block, first)
    for begin, end in spots(block, (needle,)):
        yield numbers.at(begin), block[begin:end]


def match(pattern: Pattern, each: Line, raw: str) -> tuple[Found, str] | None:
    """The figures of a line and its rank, or None if the pattern matches neither its text nor the whole line."""
    found, rank = pattern.search(each.text), each.rank
    if found is None and raw:
        found = pattern.search(raw)
        # What looks like a rank is a figure of the pattern.
        if found is not None and any(0 <= at < len(raw) - len(each.text) for at in map(found.start, found.groupdict())):
            rank = ""
    return None if found is None else (figures(found), rank)


class _Reader:
    def __init__(self, pattern: Pattern, gpus: int | None, labels: bool) -> None:
        self.pattern, self.gpus, self.labels = pattern, gpus, labels
        self.series: dict[str, Series] = {}
        self.matches, self.claims = Matches(), Claims()
        self.score: float | None = None
        self.ranks = RankLines()
        self.timed = 0  # lines that count and have the time of a step, but no rate
        self._step: int | None = None
        self._same_step: set[str] = set()

    def feed(self, first: int, block: bytes) -> None:
        self.claims.feed(first, block)
        begun = time.process_time()
        for each, raw in texts(block, first, self.labels, self.pattern.needle):
            matched = match(self.pattern, each, raw)
            if matched is not None:
                self._take(each, *matched)
        if time.process_time() - begun > BLOCK_S:
            raise self.pattern.too_slow(BLOCK_S, f"the lines from {first} on")

    def _take(self, each: Line, found: Found, rank: str) -> None:
        left_out = detail = ""
        if found.step_ms and found.throughput is None and self.pattern.counts_steps:
            # A progress bar says it/s, or s/it if a step takes longer than a second.
            found = dataclasses.replace(found, throughput=1000 / found.step_ms)
        if found.score is not None:
            self.score = found.score
        if found.wrong:
            left_out, detail = _WRONG, found.wrong
        elif not found.is_rate:
            left_out = "no rate" if found.score is None else "the score alone"
        elif not rank and found.step is not None and self._is_copy(found.step, each.text):
            left_out = "a copy of a line before"
        elif self.series and self.pattern.of == "all" and rank != next(iter(self.series)):
            left_out = "the line of another rank"
            detail = f"{left_out} than {next(iter(self.series)) or 'that without a prefix'}: of all counts once"
            series = self.series.setdefault(rank, Series(each.number))
            self.ranks.compare(series.matches, found)
            series.matches += 1
        else:
            series = self.series.setdefault(rank, Series(each.number))
            if self.pattern.of == "all":
                self.ranks.keep(series.matches, rank, found)
            if series.is_warmup(found, self.pattern):
                left_out = "warm-up"
            else:
                series.add(found)
                self.timed += found.throughput is None and found.samples is None
        self.matches.add(each.number, rank, each.text.strip(), found, left_out, detail)

    def _is_copy(self, step: int, text: str) -> bool:
        """Whether a line without a rank repeats one of the same step, as ranks do that print the same."""
        if step != self._step:
            self._step, self._same_step = step, set()
        if text in self._same_step:
            return True
        if len(self._same_step) < _MOST_RANKS:
            self._same_step.add(text)
        return False

    def mislabelled(self, ended: bool = False) -> bool:
        """Whether the numbers that look like ranks are none."""
        if not self.labels or (len(self.series) < 2 and not self.gpus):
            return False
        if self.gpus:
            ranks = [int(name) for name in self.series if name.isdecimal()]
            return len(self.series) > self.gpus or max(ranks, default=0) >= self.gpus
        once = ended and all(name.isdecimal() and one.matches == 1 for name, one in self.series.items())
        return once or len(self.series) > _MOST_RANKS


def _result(source: Source, reader: _Reader, pattern: Pattern, known: Sizes) -> PatternRead:
    path, matches, problems = str(source.path), reader.matches, list(source.problems)
    first = next(iter(reader.series.values()), None)
    counted = [one for one in reader.series.values() if one.rate("units", "last") or one.rate("steps", "last")]
    if not matches.total:
        if not problems:
            reason = "binary: not a text file" if source.binary() else "no line matches the pattern"
            problems.append(Problem(path, 0, reason))
        return PatternRead(LogResult(path, FORMAT, (), tuple(problems)), matches, reader.claims)
    if reader.timed and any(one.rate("units", "last") for one in counted):
        # A mean of the rates alone would leave the steps of the other lines out.
        reason = f"{reader.timed} lines have the time of a step and no rate, and others have a rate: match one kind"
        problems.append(Problem(path, first.line if first else 0, reason))
        return PatternRead(LogResult(path, FORMAT, (), tuple(problems)), matches, reader.claims)
    if first is None or not counted:
        problems.append(Problem(path, first.line if first else 0, _why_none(matches, pattern)))
        return PatternRead(LogResult(path, FORMAT, (), tuple(problems)), matches, reader.claims)
    claims, whole = reader.claims, known.whole()
    of_batch, sizes = claims.batch_contradiction(whole), claims.filled(known).whole()
    if of_batch:
        problems.append(Problem(path, 0, of_batch))
        sizes = dataclasses.replace(sizes, local_batch=None, global_batch=None)
    told = reader.ranks.told(len(reader.series), sizes.gpus) if pattern.of == "all" else ""
    if told:
        problems.append(Problem(path, first.line, told))
    if wrong := matches.details.get(_WRONG):
        count = matches.left_out[_WRONG]
        problems.append(Problem(path, first.line, f"{count} match{'es' * (count > 1)} left out: {wrong}"))
    if pattern.has("score") and (reader.score is None or not math.isfinite(reader.score)):
        reason = "no match has a score" if reader.score is None else f"the last score is {reader.score}"
        problems.append(Problem(path, 0, reason))
    one, why = _throughput(path, first.line, counted, pattern, sizes)
    if why and not of_batch:
        problems.append(Problem(path, first.line, why))
    if one.gpus and not known.gpus:
        one = dataclasses.replace(one, gpus_from="log")
    if reader.score is not None and math.isfinite(reader.score):
        one = dataclasses.replace(one, score=reader.score, score_name="score")
    of_rank = reader.ranks.differ and bool(told)
    contradiction, wrong_of = _apart(one, pattern.of)
    if contradiction:
        problems.append(Problem(path, first.line, contradiction))
        # A batch that is wrong makes rows of weak scaling out of those of strong, and the other way round.
        missing = (*one.missing, "batch")
        one = dataclasses.replace(one, local_batch=None, global_batch=None, missing=missing)
    if of_rank or (wrong_of and pattern.of == "all"):
        one = dataclasses.replace(one, flags=(*one.flags, FLAG_RATE_OF_RANK))
    if of_gpus := claims.gpus_contradiction(whole):
        problems.append(Problem(path, 0, of_gpus))
        one = dataclasses.replace(one, gpus=None, per_gpu=None, missing=(*one.missing, "gpus"))
    elif stated := claims.gpus(whole).contradiction:
        problems.append(Problem(path, 0, stated))
    contradiction = of_gpus or of_batch or contradiction
    return PatternRead(LogResult(path, FORMAT, (one,), tuple(problems)), matches, claims, contradiction)


def _throughput(path: str, at: int, counted: list[Series], pattern: Pattern, sizes: Sizes) -> tuple[Throughput, str]:
    """The measurement of matches that count, and what is missing for its rate."""
    units, steps = (_mean(counted, what, pattern.take) for what in ("units", "steps"))
    gpus, batch = sizes.gpus, sizes.global_batch if counts_batch(pattern.unit) else None
    total = per_gpu = factor = None
    why = ""
    if units is not None:
        factor = 1 if pattern.of == "all" else gpus
        total = units * factor if factor else None
        per_gpu = units if pattern.of == "rank" else total / gpus if total and gpus else None
        if not total:
            why = "the figure is of one rank, and the number of ranks is not known"
    elif steps is not None:
        factor = 1 if pattern.unit == "steps" else batch
        total = steps * factor if factor else None
        per_gpu = total / gpus if total and gpus else None
        if not total and counts_batch(pattern.unit):
            why = "step_ms is a rate only with the batch, which is missing"
        elif not total:
            why = f"step_ms is no rate of {pattern.unit}: a batch counts samples; name a group throughput or samples"
    step_ms = 1000 / steps if steps else batch / total * 1000 if batch and total else None
    if step_ms is None and pattern.unit == "steps" and total:
        step_ms = 1000 / total
    missing = [
        name for name, value in (("throughput", total), ("gpus", gpus), ("batch", sizes.global_batch)) if not value
    ]
    steady = _steady(counted, "steps" if units is None else "units", pattern)
    steady = scaled(steady, factor)
    if steady is not None and total:
        steady = dataclasses.replace(steady, rate=total)
    one = Throughput(
        source=path,
        line=at,
        format=FORMAT,
        figure="step_ms" if units is None else "samples / step_ms" if pattern.has("samples") else "throughput",
        throughput=total,
        per_gpu=per_gpu,
        sd=steady.sd if steady and total else None,
        gpus=gpus,
        gpus_from="option" if gpus else "",
        nodes=sizes.nodes,
        local_batch=sizes.local_batch,
        global_batch=sizes.global_batch,
        step_ms=step_ms,
        steady=steady,
        unit=pattern.unit,
        missing=tuple(missing),
    )
    return one, why


def counts_batch(unit: str) -> bool:
    """Whether a batch counts the same as a unit: a batch of sequences has no known number of tokens."""
    return unit.lower().rstrip("s") not in _NO_BATCH


def _mean(counted: list[Series], what: str, take: str) -> float | None:
    rates = [rate for one in counted if (rate := one.rate(what, take)) is not None]
    return math.fsum(rates) / len(rates) if rates else None


def _steady(counted: list[Series], what: str, pattern: Pattern) -> SteadyRate | None:
    """How the matches spread: of the rank that has the most."""
    most = max(counted, key=lambda one: len(getattr(one, what)))
    steps = "steps" if pattern.has("step") else "matches"
    rule = f"all but the first {pattern.warmup} {steps} of a rank; {pattern.take}"
    found: SteadyRate | None = getattr(most, what).steady(0, rule)
    return None if found is None else dataclasses.replace(found, warmup=most.warmup)


def _apart(one: Throughput, of: str) -> tuple[str, bool]:
    """Why throughput, step and batch cannot all be right, or "", and whether another `of` makes them right."""
    if not (one.throughput and one.step_ms and one.global_batch and counts_batch(one.unit)):
        return "", False
    each, gpus = one.throughput * one.step_ms / 1000, one.gpus or 1
    if alike(each, one.global_batch):
        return "", False
    said = f"throughput x step_ms is {each:.6g} {one.unit} a step, but the global batch is {one.global_batch}: "
    by_other = each * gpus if of == "all" else each / gpus
    if alike(by_other, one.global_batch):
        right = "one rank? (--of rank" if of == "all" else "all ranks? (--of all"
        return f"{said}is the figure that of {right}; in an experiment: measure.of)", True
    return f"{said}if the figures are right, so is --batch {max(1, round(each))} (in an experiment: batch)", False


def _why_none(matches: Matches, pattern: Pattern) -> str:
    """Why no match counts."""
    lines = f"{matches.total} line{'s match' if matches.total > 1 else ' matches'} the pattern, and none counts: "
    reasons = ", ".join(f"{count} {reason}" for reason, count in matches.left_out.most_common())
    if wrong := matches.details.get(_WRONG):
        reasons += f" ({wrong})"
    of, several = ("step", "s") if pattern.has("step") else ("match", "es")
    what = f" (warmup is {pattern.warmup} {of}{'' if pattern.warmup == 1 else several})"
    step_helps = "" if pattern.has("step") else ", or the pattern a group step"
    remedy = f": give `--warmup N` (in an experiment: measure.warmup){step_helps}"
    return lines + reasons + (what + remedy if "warm-up" in matches.left_out else "")
