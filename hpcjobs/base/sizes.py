"""A size of a study: GPUs over nodes."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Size:
    """GPUs over nodes. `tasks_per_node` is that of the fullest node."""

    gpus: int
    nodes: int
    tasks_per_node: int
