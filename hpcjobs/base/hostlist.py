"""Slurm's short forms of lists of hosts and array indices. Every room may import this."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_PART = re.compile(r"([^,\[\]]*)(?:\[([^\]]*)\])?([^,\[\]]*)(?:,|$)")
# More hosts than any list of one job has.
MOST = 1_000_000
_RANGE = re.compile(r"^(\d+)-(\d+)$")


def expand_hosts(text: str) -> list[str]:
    """The hosts of a host list: `n[1-3,07],head` is n1 n2 n3 n07 head. Keeps leading zeros and the order.

    Slurm's `None assigned` and `(null)` are empty lists. A text that is not a host list is returned as the only host,
    and a part of it with more than MOST hosts as it stands: no cluster has these.
    """
    if text in ("None assigned", "(null)"):
        return []
    hosts: list[str] = []
    for prefix, inner, suffix in _PART.findall(text):
        if inner and sum(map(_count, inner.split(","))) > MOST:
            hosts.append(f"{prefix}[{inner}]{suffix}")
        elif inner:
            hosts += [f"{prefix}{number}{suffix}" for number in _numbers(inner)]
        elif prefix + suffix:
            hosts.append(prefix + suffix)
    return hosts


def _count(part: str) -> int:
    """How many numbers a range has; more than MOST if its ends have so many digits."""
    match = _RANGE.match(part)
    if match is None:
        return 1
    low, high = match.groups()
    return max(0, int(high) - int(low) + 1) if max(len(low), len(high)) < 20 else MOST + 1


def _numbers(text: str) -> Iterator[str]:
    for part in text.split(","):
        if match := _RANGE.match(part):
            low, high = match.groups()
            yield from (f"{number:0{len(low)}d}" for number in range(int(low), int(high) + 1))
        else:
            yield part


def expand_indices(text: str) -> list[int]:
    """The array indices of `3`, `0,2-5` or `[3,5-9%2]`. The throttle `%2` is ignored. Raises ValueError otherwise."""
    return [int(number) for number in _numbers(text.strip("[]").partition("%")[0])]


def fold_indices(indices: Iterable[int]) -> str:
    """The indices, ascending and without duplicates, in the short form of sbatch's --array: 0,2-5."""
    runs: list[list[int]] = []
    for index in sorted(set(indices)):
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)
