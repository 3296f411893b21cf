"""Reads a node's generic resources, as Slurm prints them, for its GPUs. Pure."""

from __future__ import annotations

import dataclasses
import re

# gpu:v100:4(S:0-1), gpu:4, gpu:tesla:no_consume:4 and gpu:no_consume:4; commas may stand in parentheses, too.
_GPUS = re.compile(r"(?:^|,)gpu(?::(?!no_consume:)([^:,()]+(?=:)))?(:no_consume)?:(\d+)(?=[(,]|$)")
# NVIDIA's names of slices of a GPU: 1g.5gb, a100_3g.20gb, 1c.2g.10gb+me.
_SLICE = re.compile(r"\d+g\.\d+gb")


@dataclasses.dataclass(frozen=True)
class Gpus:
    """GPUs of one type in a node. `consumed`: Slurm gives each to one job at a time."""

    type: str | None
    count: int
    consumed: bool = True

    @property
    def slices(self) -> bool:
        """Whether they are parts of GPUs (MIG)."""
        return self.type is not None and _SLICE.search(self.type) is not None

    def __str__(self) -> str:
        return f"{self.count} {self.type or 'GPUs'}"


def gpus(text: str) -> tuple[Gpus, ...]:
    """The GPUs in a list of resources such as `gpu:h100:8(S:0-1),nvme:1`.

    Whole GPUs come before slices, which NCCL cannot join, and of both the most numerous first.
    """
    found: dict[tuple[str | None, bool], int] = {}
    for kind, shared, number in _GPUS.findall(text):
        key = (kind or None, not shared)
        found[key] = found.get(key, 0) + int(number)
    those = [Gpus(kind, count, consumed) for (kind, consumed), count in found.items()]
    return tuple(sorted(those, key=lambda each: (each.slices, -each.count)))
