"""One protocol for everything that runs batch scripts: a real Slurm, or this machine."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from hpcjobs.base.records import JobState, Limits, Order


class Scheduler(Protocol):
    """A scheduler. Task ids are `JOB_INDEX`.

    Every method raises SchedulerUnreachable where the scheduler gives no answer.
    """

    def submit(self, script: Path, indices: Sequence[int], name: str, order: Order) -> str:
        """Submit `script` as an array of `indices`; returns the job id. Raises SubmitRefused."""
        ...

    def find(self, names: Collection[str]) -> dict[str, list[str]]:
        """The ids of all jobs of these names, by name, oldest first, also of ended jobs."""
        ...

    def poll(self, tasks: Collection[str]) -> Mapping[str, JobState]:
        """States of those of the `tasks` that are known, in one query for all."""
        ...

    def cancel(self, ids: Sequence[str]) -> None:
        """End jobs or tasks; one that has ended already is no error."""
        ...

    def limits(self, partition: str | None) -> Limits:
        """What the site allows, in that partition or the default one; `max_submit` apart."""
        ...

    def user_limit(self, qos: str | None) -> int | None:
        """`Limits.max_submit` of that QOS or the default one; None where there is none, or nobody says."""
        ...

    def test(self, text: str) -> str:
        """Ask whether the script `text` would be accepted; returns what the scheduler said. Raises SubmitRefused."""
        ...
