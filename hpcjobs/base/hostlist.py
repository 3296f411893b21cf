"""Slurm's short forms of names, numbers and times. Every room may import this."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_PART = re.compile(r"([^,\[\]]*)(?:\[([^\]]*)\])?([^,\[\]]*)(?:,|$)")
_RANGE = re.compile(r"^(\d+)-(\d+)$")
_TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", re.ASCII)


def expand(text: str) -> list[str]:
    """`n[1-3,07],head` as n1 n2 n3 n07 head: zeros kept, order kept.

    Slurm's `None assigned` and `(null)` are no hosts; a text that is no host list comes back as it is.
    """
    if text in ("None assigned", "(null)"):
        return []
    hosts: list[str] = []
    for prefix, inner, suffix in _PART.findall(text):
        if inner:
            hosts += [f"{prefix}{number}{suffix}" for number in _numbers(inner)]
        elif prefix + suffix:
            hosts.append(prefix + suffix)
    return hosts


def _numbers(text: str) -> Iterator[str]:
    for part in text.split(","):
        if match := _RANGE.match(part):
            low, high = match.groups()
            yield from (f"{number:0{len(low)}d}" for number in range(int(low), int(high) + 1))
        else:
            yield part


def expand_indices(text: str) -> list[int]:
    """Array indices of `3`, `0,2-5` or `[3,5-9%2]` (`%2` is a throttle). Raises ValueError for anything else."""
    return [int(number) for number in _numbers(text.strip("[]").partition("%")[0])]


def fold_indices(indices: Iterable[int]) -> str:
    """The shortest form that sbatch's --array takes: 0,2-5. In the order of the numbers."""
    runs: list[list[int]] = []
    for index in sorted(set(indices)):
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)


def seconds(text: str) -> int | None:
    """Slurm's `D-HH:MM:SS`, `D-HH:MM`, `D-HH`, `HH:MM:SS`, `MM:SS` or `MM` in seconds; None for anything else."""
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    days, *rest = match.groups()
    numbers = [int(part) for part in rest if part is not None]
    if days is None and len(numbers) < 3:
        numbers.insert(0, 0)  # minutes come first
    hours, minutes, rest_s = [*numbers, 0, 0][:3]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + rest_s
