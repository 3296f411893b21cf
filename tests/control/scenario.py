"""A sweep on a scheduler that misbehaves, in a few words.

    def test_a_run_on_a_node_that_failed_runs_again(tmp_path):
        scenario = SweepScenario(tmp_path).gpus(1, 2).repeats(2).failing("g0001-r01", "NODE_FAIL").submitted()
        scenario.repaired().resume()
        assert scenario.submitted_again == ["g0001-r01"]
        assert scenario.excluded("g0001") == [(), ("n1",)]
        assert scenario.state("g0001-r01") == "done"

First come the words that describe the sweep (`gpus`, `repeats`, `terms`, `cluster`) and its site (`failing`, `working`,
`queueing`, ...), then what a user does (`submitted`, `resume`, `cancel`, `watch`), then what is known of it. A word
that describes or does something returns the scenario, so that words follow each other.

A command takes the scheduler's answers to its submissions, one after the other: `scenario.resume(TAKEN, REFUSED)`.

The tests that use it call nothing of the engine themselves.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hpcjobs.base import sweepdir
from hpcjobs.base.errors import SubmitRefused
from hpcjobs.base.records import JobState, RunState
from hpcjobs.base.sweepdir import SweepDir
from hpcjobs.config import Experiment, profiles
from hpcjobs.engine import cancel, follow, resume, submit
from hpcjobs.engine.folder import scripts, write_folder
from hpcjobs.engine.state import RunStatus
from hpcjobs.engine.sweep import Sweep
from hpcjobs.plan.planning import Terms, make_plan, parameter_grid
from hpcjobs.study import Study
from tests.control.fake_scheduler import Answer, FakeScheduler, Fate, Killed, Pace

ID = "261125120000abcd"


@dataclasses.dataclass(frozen=True)
class _SweepOnFake(Sweep):
    """A sweep whose scheduler is the fake one."""

    fake: FakeScheduler

    @property
    def scheduler(self) -> FakeScheduler:  # type: ignore[override]
        return self.fake


class SweepScenario:
    """A sweep of two repeats on 1, 2 and 4 GPUs, unless it says otherwise, in the subfolder `name` of `folder`."""

    def __init__(self, folder: Path, name: str = "o") -> None:
        self.where = SweepDir(folder / name)
        self.scheduler = FakeScheduler(self.where)
        self.messages: list[str] = []  # of the last command, for the user
        self.submitted_again: list[str] = []  # runs, by the last resume
        self.adopted: list[str] = []  # names of jobs that the last resume found unrecorded
        self._gpus: tuple[int, ...] = (1, 2, 4)
        self._repeats = 2
        self._terms: dict[str, Any] = {}
        self._cluster: dict[str, Any] = {}

    # --- the sweep ---

    def gpus(self, *sizes: int) -> SweepScenario:
        self._gpus = sizes
        return self

    def repeats(self, number: int) -> SweepScenario:
        self._repeats = number
        return self

    def terms(self, **terms: Any) -> SweepScenario:
        """Options of `hpcjobs sweep` on how it submits: `throttle`, `one_allocation`."""
        self._terms = terms
        return self

    def cluster(self, **changes: Any) -> SweepScenario:
        """Keys of the cluster's profile."""
        self._cluster = changes
        return self

    @functools.cached_property
    def _sweep(self) -> Sweep:
        """The sweep, its folder written."""
        cluster = msgspec.structs.replace(profiles.cluster("virtual"), python="/bin/true", **self._cluster)
        variants = parameter_grid(profiles.read(Experiment, "demo"), [])
        plan = make_plan(list(self._gpus), variants, cluster, self._repeats, Terms(**self._terms))
        sweep = _SweepOnFake(ID, self.where, plan, self.scheduler)
        write_folder(sweep, scripts(sweep), ["hpcjobs"])
        return sweep

    # --- its site ---

    def failing(self, run: str, word: str = "FAILED", node: str = "n1") -> SweepScenario:
        """Tasks of that run fail, on that node; `word` is Slurm's for it."""
        self.scheduler.fates[run] = Fate(word, node)
        return self

    def repaired(self) -> SweepScenario:
        """From now on no task fails."""
        self.scheduler.fates.clear()
        return self

    def failing_before_its_attempt(self, run: str, output: str) -> SweepScenario:
        """Tasks of that run claim it and fail before they make an attempt, with that output."""
        self.scheduler.outputs[run] = output
        return self

    def working(self) -> SweepScenario:
        """Tasks work until they are ended: see `ends`. One that is cancelled is not at an end before that, either."""
        self.scheduler.pace = Pace.WORKING
        return self

    def queueing(self) -> SweepScenario:
        """Tasks stay pending."""
        self.scheduler.pace = Pace.QUEUED
        return self

    def claimed(self, run: str, by: str) -> SweepScenario:
        """A task, which is pending (again), has claimed the run's first submission; no record of it exists."""
        self._sweep.where.claim(run, 1).write_text(json.dumps({"job": by, "submission": 1}))
        self.scheduler.states[by] = JobState(RunState.PENDING, "PENDING")
        return self

    def forgets_a_task_of(self, run: str) -> SweepScenario:
        """The next task of that run is accepted; then it neither starts nor does the scheduler know it."""
        self.scheduler.forgotten.add(run)
        return self

    def forgets_every_task(self) -> SweepScenario:
        self.scheduler.states.clear()
        return self

    def renames_jobs(self) -> SweepScenario:
        """The site gives jobs other names than they were submitted under."""
        self.scheduler.renames = True
        return self

    def says(self, word: str) -> SweepScenario:
        """Slurm's word for every task that is at work."""
        for task in self.scheduler.at_work:
            self.scheduler.states[task] = JobState(RunState.RUNNING, word)
        return self

    def scheduler_away(self, away: bool = True) -> SweepScenario:
        self.scheduler.away = away
        return self

    def late_jobs_arrive(self) -> SweepScenario:
        self.scheduler.arrive()
        return self

    def waiting_tasks_start(self) -> SweepScenario:
        """Each pending task starts that waits for nothing more."""
        self.scheduler.start()
        return self

    def forgotten_task_starts(self, run: str) -> SweepScenario:
        """The task of the run's first submission starts after all."""
        self.scheduler.begin(run, self.tasks(run)[0], 1)
        return self

    def ends(self, *runs: str, rc: int = 0) -> SweepScenario:
        """The tasks of these runs, which are at work, end with that exit code; with 0 they leave a measurement."""
        for run in runs:
            self.scheduler.end(self._at_work(run), rc)
        return self

    def all_end(self, *, cancelled: bool, rc: int = 0) -> SweepScenario:
        """All tasks end that are at work and were cancelled, or were not."""
        for task in list(self.scheduler.at_work):
            if (self.scheduler.states[task].word == "COMPLETING") == cancelled:
                self.scheduler.end(task, rc)
        return self

    def leaves_a_result(self, run: str) -> SweepScenario:
        """The run's task leaves its measurement and exit code 0; the scheduler does not know of its end yet."""
        self.scheduler.leave(self._at_work(run), 0)
        return self

    def an_hour_later(self) -> SweepScenario:
        """All that the journal tells is an hour older."""
        lines = [json.loads(line) for line in self.journal.splitlines()]
        older = [json.dumps({**line, "time": line["time"] - 3600}) + "\n" for line in lines]
        self.where.journal.write_text("".join(older))
        return self

    # --- what a user does ---

    def submit(self, *answers: Answer) -> SweepScenario:
        """`hpcjobs sweep`."""
        self._meets(answers)
        submit.submit_all(self._sweep, {}, self.messages.append)
        return self

    def written(self) -> SweepScenario:
        """The sweep's folder is written, and nothing is submitted."""
        assert self._sweep.where.sweep_yaml.is_file()
        return self

    def submitted(self) -> SweepScenario:
        return self.submit()

    def killed_while_submitting(self, *answers: Answer) -> SweepScenario:
        with pytest.raises(Killed):
            self.submit(*answers)
        return self

    def refused_while_submitting(self, *answers: Answer) -> SweepScenario:
        with pytest.raises(SubmitRefused):
            self.submit(*answers)
        return self

    def resume(self, *answers: Answer, retryable: bool = False) -> SweepScenario:
        """`hpcjobs resume`."""
        self._meets(answers)
        self.submitted_again, self.adopted = [], []
        resumed = resume.resume(self._sweep, self.messages.append, retryable=retryable)
        self.submitted_again, self.adopted = list(resumed.runs), list(resumed.adopted)
        return self

    def killed_while_resuming(self, *answers: Answer) -> SweepScenario:
        with pytest.raises(Killed):
            self.resume(*answers)
        return self

    def resume_or_be_killed(self, *answers: Answer) -> SweepScenario:
        """The same, where it may submit nothing and so is not killed."""
        with contextlib.suppress(Killed):
            self.resume(*answers)
        return self

    def cancel(self, *runs: str) -> list[str]:
        """`hpcjobs cancel`: the runs that were ended."""
        return cancel.cancel(self._sweep, list(runs), self.messages.append)

    def watch(self) -> Callable[[], list[RunStatus]]:
        """`hpcjobs status --watch`, each call of the result one look."""
        self.messages.clear()
        return follow.Watch(self._sweep, self.messages.append).look

    def watch_to_the_end(self, sleep: Callable[[float], None]) -> list[RunStatus]:
        """The same until it returns by itself; `sleep` is called between two looks."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(follow.time, "sleep", sleep)
            return follow.wait(self._sweep, lambda runs: None, self.messages.append)

    # --- what is known of it ---

    def study(self, tell: Callable[[str], None] = lambda text: None) -> Study:
        """As `hpcjobs.open` gives it."""
        return Study(self._sweep, tell)

    @property
    def runs(self) -> list[str]:
        return sorted(run.name for run in self._sweep.plan.runs)

    def status(self, run: str) -> RunStatus:
        """As `hpcjobs status` shows it."""
        return next(each for each in follow.snapshot(self._sweep) if each.run == run)

    def state(self, run: str) -> str:
        return self.status(run).state.value

    @property
    def states(self) -> dict[str, str]:
        """The state of each run, in the order of the plan."""
        return {run.run: run.state.value for run in follow.snapshot(self._sweep)}

    @property
    def all_done(self) -> bool:
        return set(self.states.values()) == {"done"}

    @property
    def executed(self) -> list[str]:
        """Runs, in the order in which tasks began them."""
        return self.scheduler.executed

    @property
    def results(self) -> list[str]:
        """The run of each attempt with exit code 0, sorted."""
        records = [sweepdir.read_exit(attempt) for run in self.runs for attempt in self.where.attempts(run)]
        return sorted(record.run for record in records if record is not None and record.rc == 0)

    def attempts(self, run: str) -> list[str]:
        return [path.name for path in self.where.attempts(run)]

    @property
    def submissions(self) -> list[str]:
        """The jobs that the scheduler accepted, in turn, by group and number of the submission: `g0001-s01`."""
        return [self._short(job.number) for job in self.scheduler.jobs.values()]

    @property
    def collectors(self) -> dict[str, list[str]]:
        """For each job that collects the jobs after which it starts, named as in `submissions`."""
        return {
            self._short(job.number): [self._short(number) for number in job.order.after]
            for job in self.scheduler.jobs.values()
            if job.group == "collect"
        }

    def tasks(self, run: str) -> list[str]:
        """The tasks that were submitted for the run, the oldest first."""
        return [task for job in self.scheduler.jobs.values() for name, task in job.tasks if name == run]

    def starts_after(self, run: str) -> list[str]:
        """The tasks for whose end the newest task of the run waits."""
        newest = [job for job in self.scheduler.jobs.values() if run in dict(job.tasks)][-1]
        return list(newest.order.after)

    def excluded(self, group: str) -> list[tuple[str, ...]]:
        """The nodes that each submission of the group leaves out."""
        return [job.order.exclude for job in self.scheduler.jobs.values() if job.group == group]

    def arguments(self, group: str) -> list[tuple[str, ...]]:
        """What each submission of the group hands to the script."""
        return [job.order.arguments for job in self.scheduler.jobs.values() if job.group == group]

    @property
    def throttles(self) -> set[int | None]:
        """How many tasks may run at a time, of all jobs that do not collect."""
        return {job.order.throttle for job in self.scheduler.jobs.values() if job.group != "collect"}

    @property
    def told_to_end(self) -> list[str]:
        """Every id that the scheduler was asked to cancel."""
        return self.scheduler.cancels

    @property
    def journal(self) -> str:
        return self.where.journal.read_text()

    def _meets(self, answers: tuple[Answer, ...]) -> None:
        self.scheduler.answers = list(answers)
        self.messages.clear()

    def _short(self, number: str) -> str:
        name = self.scheduler.jobs[number].name
        assert name.startswith(f"hpcjobs-{ID}-")
        return name.removeprefix(f"hpcjobs-{ID}-")

    def _at_work(self, run: str) -> str:
        (task,) = [task for task, attempt in self.scheduler.at_work.items() if attempt.parent.name == run]
        return task
