"""A size of a study: a number of GPUs, spread over nodes."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Size:
    """GPUs, spread over nodes. `tasks_per_node` is that of the fullest node."""

    gpus: int
    nodes: int
    tasks_per_node: int

    def gpus_held(self, gpus_per_node: int | None, is_exclusive: bool) -> int:
        """GPUs that a job of this size keeps from others: all GPUs of its nodes if these are exclusive, else its own.

        `gpus_per_node` is the number that a node has; None is unknown.
        """
        return self.nodes * gpus_per_node if is_exclusive and gpus_per_node else self.gpus
