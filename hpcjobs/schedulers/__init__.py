"""One protocol for everything that runs batch scripts: a real Slurm, or this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from hpcjobs.records import JobState, Limits


class Scheduler(Protocol):
    """A scheduler. Task ids are `JOB_INDEX`.

    Every method raises SchedulerUnreachable where the scheduler gives no answer.
    """

    def submit(self, script: Path, indices: Sequence[int], name: str) -> str:
        """Submit `script` as an array of `indices`; returns the job id. Raises SubmitRefused."""
        ...

    def find(self, sweep_id: str) -> dict[str, str]:
        """Job names that hold the sweep's id, each with its job id, also of ended jobs."""
        ...

    def poll(self, ids: Sequence[str]) -> Mapping[str, JobState]:
        """States of all known tasks of jobs `ids`, in one query, by task id."""
        ...

    def cancel(self, ids: Sequence[str]) -> None:
        """End jobs or tasks; one that has ended already is no error."""
        ...

    def limits(self) -> Limits:
        """What the site allows."""
        ...

    def test(self, script: Path) -> str:
        """Ask whether `script` would be accepted; returns what the scheduler said. Raises SubmitRefused."""
        ...
