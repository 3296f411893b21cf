"""What one batch script runs: a group of runs of one size."""

from __future__ import annotations

import dataclasses

from hpcjobs.base.sizes import Size
from hpcjobs.config import Experiment

# The name of the group that one job runs as a whole (--one-allocation), and that of the last small job, which collects.
ALLOCATION = "all"
COLLECTOR = "collect"


@dataclasses.dataclass(frozen=True)
class Variant:
    """One point of the parameter grid: `params` is `k=v;k=v`, sorted, of the swept keys only."""

    params: str
    experiment: Experiment


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """One training: its name, its place in the grid, and its repeat (from 1)."""

    name: str
    size: Size
    variant: Variant
    repeat: int


@dataclasses.dataclass(frozen=True)
class Group:
    """The runs of one script; array index i is `runs[i]`."""

    name: str
    size: Size
    runs: tuple[PlannedRun, ...]
