"""One protocol for everything that runs batch scripts: a real Slurm, or this machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Protocol

from hpcjobs.base.records import JobState, Limits, Order


@dataclasses.dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a kind of scheduler can do. Ask for one of these, never for the scheduler's name.

    arrays: one script is submitted as many tasks, each with an index.
    signals: the batch script is signalled some time before its time limit (`signal_s` of a profile).
    dependencies: a job can depend on the success of others, and is cancelled if one fails (`Order.after_ok`).
    accounting: a database answers for a user's limits and for jobs that ended long ago. A site may lack it.
    limits: there are partitions and limits, which `limits` and `test` answer for.
    site_options: options such as --partition, --account, --qos and --sbatch mean something.
    compute_nodes: jobs run on other machines than this one, whose names are in SLURM_JOB_NODELIST.
    requeue_from_job: a job requeues itself, by `scontrol requeue`. Otherwise the scheduler starts a task again that
    was signalled before its time limit and ended with EXIT_INTERRUPTED.
    epilogue: the scheduler runs a command by itself when no task is left. Otherwise a last job has to be submitted.
    """

    arrays: bool
    signals: bool
    dependencies: bool
    accounting: bool
    limits: bool
    site_options: bool
    compute_nodes: bool
    requeue_from_job: bool
    epilogue: bool


class Scheduler(Protocol):
    """A scheduler. Task ids are `JOB_INDEX`.

    Every method raises SchedulerUnreachable if the scheduler gives no answer.
    """

    capabilities: ClassVar[Capabilities]

    def submit(self, script: Path, indices: Sequence[int], name: str, order: Order) -> str:
        """Submit `script` as an array of `indices`. Returns the job id. Raises SubmitRefused."""
        ...

    def find(self, names: Collection[str], *, living: bool = False) -> dict[str, list[str]]:
        """The ids of all jobs with these names, by name, oldest first; only of jobs that have not ended if `living`."""
        ...

    def poll(self, tasks: Collection[str]) -> Mapping[str, JobState]:
        """The states of the `tasks` that the scheduler knows, in one query for all of them.

        A task is `silent` if only a part of the scheduler that gave no answer may know it. An id may have been given to
        another job meanwhile: compare `JobState.label`.
        """
        ...

    def cancel(self, ids: Sequence[str]) -> None:
        """Cancel jobs or tasks. One that has already ended is no error."""
        ...

    def limits(self, partition: str | None, reservation: str | None = None) -> Limits:
        """The site's limits in that partition, or the default one, and in that reservation.

        `max_submit` is not filled in: see `user_limit`.
        """
        ...

    def user_limit(self, qos: str | None) -> int | None:
        """`Limits.max_submit` of that QOS, or the default one. None if there is no such limit, or it is not known."""
        ...

    def node_energy(self, tasks: Sequence[str], mark: str) -> tuple[str, Mapping[str, int]]:
        """(plugin that measures the energy of nodes, joules of each of the ended `tasks` for which it is known).

        A task whose job does not have `mark` in its name is another one of the same id, and left out. The plugin is
        empty where none measures it.
        """
        ...

    def test(self, text: str) -> str:
        """Ask whether the script `text` would be accepted. Returns the scheduler's answer. Raises SubmitRefused."""
        ...
