"""What the files of one attempt say, in the words that all trainers share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hpcjobs.base.metrics import Measurement
from hpcjobs.base.records import Progress


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """What the files of one attempt say.

    log: the file that was read. finished: the run did what it should, and its rate is known if one was asked for.
    measurement: of a run that finished; None: no rate was asked for. problem: why a run that ended with success has
    not finished. hosts: those that the log names. timed: begin and end, in seconds since the epoch, of each stretch of
    timed steps. flags: what to know before trusting the figures, besides the measurement's own.
    command_s: seconds of a whole command that finished, its start-up included.
    batch: (local, global) batch of a step as a meter counted it; None where it did not.
    errors: what its ranks wrote about their end in files of their own framework, as abort-rNNN.json has it.
    """

    log: Path
    finished: bool = False
    measurement: Measurement | None = None
    problem: str = ""
    progress: Progress = dataclasses.field(default_factory=Progress)
    hosts: tuple[str, ...] = ()
    timed: Sequence[tuple[float, float]] = ()
    flags: tuple[str, ...] = ()
    command_s: float | None = None
    batch: tuple[int, int] | None = None
    errors: tuple[Mapping[str, Any], ...] = ()
