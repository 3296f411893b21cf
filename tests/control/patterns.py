"""Reads logs by patterns for the tests of patterns."""

from __future__ import annotations

from pathlib import Path

from hpcjobs.collect.claims import Sizes
from hpcjobs.collect.pattern import Pattern
from hpcjobs.collect.pattern_log import PatternRead, read_pattern

RATE = r"tokens/s: (?P<throughput>[\d.]+)"
STEP = r"step (?P<step>\d+) .*ms: (?P<step_ms>[\d.]+)"


def read(path: Path, text: str, pattern: Pattern, known: Sizes | None = None) -> PatternRead:
    path = path / "job.log"
    path.write_text(text)
    return read_pattern(path, pattern, known)


def rate(path: Path, text: str, known: Sizes | None = None, **how: object) -> float | None:
    """The throughput that a log's `tokens/s: N` lines have, without a warm-up unless it is given."""
    one = read(path, text, Pattern(RATE, **{"warmup": 0, "unit": "tokens", **how}), known).throughput
    return one.throughput if one else None


def lines(*figures: object, prefix: str = "") -> str:
    return "".join(f"{prefix}tokens/s: {figure}\n" for figure in figures)
