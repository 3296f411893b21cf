"""Slurm's short forms of lists of hosts and array indices. Every room may import this."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

# What a host list consists of. Each alternative ends where the next begins, so that 200 kB of damage take no time.
_TOKEN = re.compile(r"\[[^\[\]]*\]|[^,\[\]]+|,|[\[\]]")
# What Slurm prints where a job has no host.
_NONE = ("None assigned", "(null)")
# More hosts than any list of one job has.
MOST = 1_000_000
_RANGE = re.compile(r"^(\d+)-(\d+)$")
# Of numbers that Python counts with at ease, a range, and the last one of a name.
_SHORT_RANGE = re.compile(r"^(\d{1,18})-(\d{1,18})$")
_LAST_NUMBER = re.compile(r"(\d{1,18})(\D*)$")
# More hosts than this are shown in Slurm's short form.
FEW = 16
# Hosts whose names differ in a number alone: what stands before it, its digits, and what stands behind it.
_Kind = tuple[str, int, str]


def expand_hosts(text: str) -> list[str]:
    """The hosts of a host list: `n[1-3,07],head` is n1 n2 n3 n07 head. Keeps leading zeros and the order.

    Slurm's `None assigned` and `(null)` are empty lists. A text that is not a host list is returned as the only host,
    and a part of it with more than MOST hosts as it stands: no cluster has these.
    """
    if text in _NONE:
        return []
    hosts: list[str] = []
    for prefix, inner, suffix in _parts(text):
        if inner and sum(map(_count, inner.split(","))) > MOST:
            hosts.append(f"{prefix}[{inner}]{suffix}")
        elif inner:
            hosts += [f"{prefix}{number}{suffix}" for number in _numbers(inner)]
        elif prefix + suffix:
            hosts.append(prefix + suffix)
    return hosts


def _parts(text: str) -> Iterator[tuple[str, str, str]]:
    """(what stands before the brackets, in them, behind them) of each part between commas that is not empty.

    A part with other than one pair of brackets is a name as it stands.
    """
    tokens: list[str] = []
    for token in (*_TOKEN.findall(text), ","):
        if token != ",":
            tokens.append(token)
            continue
        inside = [number for number, each in enumerate(tokens) if each[0] in "[]"]
        if len(inside) == 1 and len(tokens[inside[0]]) > 2:
            (at,) = inside
            yield "".join(tokens[:at]), tokens[at][1:-1], "".join(tokens[at + 1 :])
        elif tokens:
            yield "".join(tokens), "", ""
        tokens = []


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


def brief(text: str) -> str:
    """A host list with spaces between its parts: names, or of more than FEW hosts the short form `n[001-512] head`."""
    if text in _NONE:
        return ""
    parts = list(_parts(text))
    if sum(sum(map(_count, inner.split(","))) if inner else 1 for _, inner, _ in parts) <= FEW:
        return " ".join(expand_hosts(text))
    return " ".join(f"{prefix}[{inner}]{suffix}" if inner else prefix + suffix for prefix, inner, suffix in parts)


def union(texts: Iterable[str]) -> str:
    """The hosts of several `brief` lists, each once: up to FEW by name, as they appear first, else in short form."""
    words = list(dict.fromkeys(word for text in texts for word in text.split()))
    kinds, _ = _together(words)
    if _size(kinds) <= FEW:
        return " ".join(dict.fromkeys(host for word in words for host in expand_hosts(word)))
    return " ".join(_written(kind, kinds[kind]) for kind in sorted(kinds))


def count(texts: Iterable[str]) -> int:
    """How many hosts are in several `brief` lists, each counted once."""
    return _size(_together(word for text in texts for word in text.split())[0])


def share_a_host(texts: Iterable[str]) -> bool:
    """Whether two of several `brief` lists have a host in common."""
    each = [_together(text.split())[0] for text in texts]
    kinds = {kind for those in each for kind in those}
    return any(_merged([low_high for those in each for low_high in those.get(kind, ())])[1] for kind in kinds)


def _together(words: Iterable[str]) -> tuple[dict[_Kind, list[tuple[int, int]]], bool]:
    """(the numbers of all hosts by their kind, as ranges that do not meet; whether a host is there twice)."""
    found: dict[_Kind, list[tuple[int, int]]] = {}
    for word in words:
        for kind, low, high in _ranges(word):
            found.setdefault(kind, []).append((low, high))
    merged = {kind: _merged(those) for kind, those in found.items()}
    return {kind: those for kind, (those, _) in merged.items()}, any(twice for _, twice in merged.values())


def _ranges(word: str) -> Iterator[tuple[_Kind, int, int]]:
    """The hosts of one part as ranges of numbers: `n[08-11]` and its names, n08 to n11, give the same."""
    parts = list(_parts(word))
    prefix, inner, suffix = parts[0] if len(parts) == 1 else (word, "", "")
    plain = (prefix[-1:] + suffix).isascii() and not any(map(str.isdigit, prefix[-1:] + suffix))
    plain = plain and sum(map(_count, inner.split(","))) <= MOST
    ranges = [_SHORT_RANGE.match(part if "-" in part else f"{part}-{part}") for part in inner.split(",")]
    if not plain or None in ranges:
        for host in expand_hosts(word):
            number = _LAST_NUMBER.search(host)
            digits, behind = number.groups() if number else ("", "")
            before = host[: number.start()] if number else host
            yield (before, len(digits), behind), int(digits or 0), int(digits or 0)
        return
    for each in filter(None, ranges):
        low, high, length = int(each[1]), int(each[2]), len(each[1])
        while low <= high:
            end = min(high, 10**length - 1)
            yield (prefix, length, suffix), low, end
            low, length = end + 1, length + 1


def _merged(ranges: Iterable[tuple[int, int]]) -> tuple[list[tuple[int, int]], bool]:
    """(the same numbers as ranges that do not meet, ascending; whether a number is in two of the given ones)."""
    found: list[tuple[int, int]] = []
    twice = False
    for low, high in sorted(ranges):
        if found and low <= found[-1][1] + 1:
            twice = twice or low <= found[-1][1]
            found[-1] = found[-1][0], max(high, found[-1][1])
        else:
            found.append((low, high))
    return found, twice


def _size(kinds: Mapping[_Kind, Sequence[tuple[int, int]]]) -> int:
    return sum(high - low + 1 for those in kinds.values() for low, high in those)


def _written(kind: _Kind, ranges: Sequence[tuple[int, int]]) -> str:
    """The hosts of one kind in the short form."""
    prefix, digits, suffix = kind
    if not digits:
        return prefix + suffix
    inner = ",".join(f"{low:0{digits}d}" + (f"-{high:0{digits}d}" if high > low else "") for low, high in ranges)
    return f"{prefix}[{inner}]{suffix}" if _size({kind: ranges}) > 1 else f"{prefix}{inner}{suffix}"


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
