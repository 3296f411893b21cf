"""Which pairs of nodes measure at the same time. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

# Up to this many nodes, each pair has the fabric to itself.
ONE_BY_ONE = 8


def rounds(nodes: Sequence[str]) -> list[list[tuple[str, str]]]:
    """Rounds in which every two nodes meet once.

    With up to ONE_BY_ONE nodes each round has one pair. With more, each round pairs all nodes, by the circle method
    of tournaments, because single pairs would take n / 2 times as long.
    """
    if len(nodes) <= ONE_BY_ONE:
        return [[pair] for pair in itertools.combinations(nodes, 2)]
    ring: list[str | None] = [*nodes, *([None] if len(nodes) % 2 else [])]
    found = []
    for _ in range(len(ring) - 1):
        pairs = zip(ring, reversed(ring), strict=True)
        found.append([(a, b) for a, b in itertools.islice(pairs, len(ring) // 2) if a is not None and b is not None])
        ring = [ring[0], ring[-1], *ring[1:-1]]
    return found
