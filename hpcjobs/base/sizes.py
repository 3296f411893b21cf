"""A size of a study: a number of GPUs, spread over nodes, and the processes that compute on them."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Size:
    """GPUs, spread over nodes, and processes that the launcher starts there.

    `gpus_per_node` and `processes_per_node` are those of the fullest node. `processes` are those of all nodes.
    """

    gpus: int
    nodes: int
    gpus_per_node: int
    processes_per_node: int
    processes: int

    def gpus_held(self, gpus_per_node: int | None, is_exclusive: bool) -> int:
        """GPUs that a job of this size keeps from others: all GPUs of its nodes if these are exclusive, else its own.

        `gpus_per_node` is the number that a node has; None is unknown.
        """
        return self.nodes * gpus_per_node if is_exclusive and gpus_per_node else self.gpus

    def per_process(self, per_gpu: int) -> int:
        """A resource of which each GPU gets `per_gpu`, for one process."""
        return per_gpu * self.gpus_per_node // self.processes_per_node
