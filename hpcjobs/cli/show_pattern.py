"""What `hpcjobs collect --logs FILE --pattern P` tells of the matches: to stderr."""

from __future__ import annotations

from pathlib import Path

from hpcjobs.cli.show import talk
from hpcjobs.collect.measurements import Throughput
from hpcjobs.collect.pattern import Pattern
from hpcjobs.collect.pattern_hints import likely_lines, suggested_for
from hpcjobs.collect.pattern_log import PatternRead
from hpcjobs.collect.pattern_numbers import Found
from hpcjobs.collect.pattern_series import Matched


def show_matches(read: PatternRead, pattern: Pattern) -> None:
    """The matched lines with their figures, what was left out and why, and the figure that they make."""
    path, matches = read.result.path, read.matches
    if not matches.total:
        for problem in read.result.problems:
            talk(str(problem))
        hint(Path(path))
        return
    reasons = ", ".join(f"{count} {reason}" for reason, count in matches.left_out.most_common())
    counts = f"{path}: {_matches(matches.total)}, {matches.counted} of them count{'s' * (matches.counted == 1)}"
    talk(f"{counts}; left out: {reasons}" if reasons else counts)
    for match in matches.first:
        talk(_line(match))
    if matches.hidden:
        talk(f"  ... {matches.hidden} more ...")
    for match in matches.last:
        talk(_line(match))
    for problem in read.result.problems:
        talk(str(problem))
    if read.throughput is not None:
        talk(_result(read.throughput, matches.counted, pattern, contradicted=bool(read.contradiction)))


def _line(match: Matched) -> str:
    rank = f" [rank {match.rank}]" if match.rank else ""
    left_out = f"  left out: {match.left_out}" if match.left_out else ""
    return f"  {match.line}:{rank} {_figures(match.found)}{left_out}  | {match.text}"


def _figures(found: Found) -> str:
    figures = (("throughput", found.throughput), ("step_ms", found.step_ms), ("samples", found.samples))
    return " ".join(
        f"{name}={value:.10g}"
        for name, value in (*figures, ("step", found.step), ("score", found.score))
        if value is not None
    )


def _result(one: Throughput, counted: int, pattern: Pattern, *, contradicted: bool) -> str:
    """The figure that the matches make, such as `812.3 tokens/s of one rank (mean of 40 matches)`.

    `contradicted`: the log contradicts what was given, so that to give it is no remedy.
    """
    how = f"({pattern.take} of {_matches(counted)})"
    step = f", {one.step_ms:.6g} ms a step" if one.step_ms else ""
    known = one.gpus or contradicted
    missing = "" if known else "; a row needs the number of GPUs: give --gpus N, or --gpus-from REGEX for its path"
    if one.throughput is not None:
        return f"{one.throughput:.6g} {one.unit}/s{step} {how}{missing}"
    if one.per_gpu is not None:
        return f"{one.per_gpu:.6g} {one.unit}/s of one rank{step} {how}{missing}"
    batch = "" if one.global_batch or contradicted else "; a rate needs the batch: give --batch N"
    return f"no rate{step} {how}{batch}{missing}"


def _matches(count: int) -> str:
    return f"{count} match{'' if count == 1 else 'es'}"


def hint(path: Path, remedy: str = "") -> None:
    """The lines of a log that look like a rate. `remedy` ends the sentence before them."""
    lines = likely_lines(path)
    if lines:
        talk(f"lines that hold a number beside words of a rate or of a step{remedy}:")
        for each in lines:
            talk(f"  {each.number}: {each.text}")
        options = suggested_for(path, lines)
        if options and remedy:
            talk(f"try {options} --gpus N; with --of rank if every rank prints its own")
