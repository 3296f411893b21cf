"""Which nodes talk at the same time. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

# Nodes of which every two may have the fabric to themselves.
ONE_BY_ONE = 8


def rounds(nodes: Sequence[str]) -> list[list[tuple[str, str]]]:
    """Every two nodes once. Of up to ONE_BY_ONE nodes two have the fabric to themselves; of more, as many pairs as
    there are talk at the same time, by the circle method of tournaments: else it would take n / 2 times as long.
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
