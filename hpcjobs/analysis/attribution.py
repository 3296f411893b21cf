"""Where the efficiency went: the time that a step takes longer than at the base, part by part. Pure.

hpcjobs.chexnet.train.attribution takes the step of one run apart, on the nodes; this compares two sizes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from hpcjobs.base.metrics import Run, ScalingRow

# A node is slow whose ranks compute longer than the others' by more than this fraction ...
_SLOW = 0.02
# ... and is flagged when it is so in this many runs.
_RUNS = 2


def losses(row: ScalingRow, base: ScalingRow) -> dict[str, Any]:
    """`lost_ms` and its parts (columns.REPORT_COLUMNS) of a measured row against its measured base.

    The base would take ideal = r x its step for as many images per GPU, where r = row's images per GPU and step over
    the base's: 1 in weak scaling, base GPUs / GPUs in strong. lost = step - ideal = step x (1 - efficiency).
    A part is its ms here less r x its ms at the base; below 0 where it takes less than there. What of the loss
    the parts do not explain, or that nobody took apart, is `lost_other_ms`.
    """
    if row.images_per_sec is None or base.images_per_sec is None or row.step_ms is None or base.step_ms is None:
        return {}
    per_image = row.step_ms * row.images_per_sec / row.gpus, base.step_ms * base.images_per_sec / base.gpus
    ratio = per_image[0] / per_image[1]
    lost = row.step_ms - ratio * base.step_ms
    parts = {
        "lost_input_ms": (row.input_wait_ms, base.input_wait_ms),
        "lost_allreduce_ms": (row.allreduce_ms, base.allreduce_ms),
        "lost_skew_ms": (_waiting(row), _waiting(base)),
        "lost_compute_ms": (row.compute_ms, base.compute_ms),
    }
    found: dict[str, float | None] = {
        name: None if here is None or there is None else here - ratio * there for name, (here, there) in parts.items()
    }
    return {"lost_ms": lost, **found, "lost_other_ms": lost - sum(ms for ms in found.values() if ms is not None)}


def _waiting(row: ScalingRow) -> float | None:
    """ms that a typical rank waits for the slowest of a step."""
    if row.slowest_rank_ms is None or row.compute_ms is None:
        return row.skew_ms
    return row.slowest_rank_ms - row.compute_ms


def is_slow(point: Run | ScalingRow) -> bool:
    """Whether the slowest node of the run, or of one of the row's, is slower than chance makes one."""
    return (
        point.slow_node_ms is not None
        and point.compute_ms is not None
        and point.slow_node_ms > _SLOW * point.compute_ms
    )


def slow_nodes(runs: Iterable[Run]) -> set[str]:
    """The nodes that were the slow one in several runs, of whatever size and params."""
    count = Counter(run.slowest_node for run in runs if is_slow(run))
    return {node for node, times in count.items() if times >= _RUNS}
