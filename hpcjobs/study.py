"""The Python interface of hpcjobs: begin a sweep, or open one, and work with it. The command line calls it too."""

from __future__ import annotations

import dataclasses
import logging
import shlex
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hpcjobs.base import sweepdir
from hpcjobs.base.errors import HpcjobsError, InputError, SchedulerUnreachable, SubmitRefused
from hpcjobs.base.files import shown
from hpcjobs.base.metrics import Run
from hpcjobs.base.records import Limits, Tell
from hpcjobs.base.sweepdir import SweepDir
from hpcjobs.config import Cluster, Document, Experiment, profiles
from hpcjobs.engine import cancel, folder, follow, home, resume, submit
from hpcjobs.engine.resume import Resumed
from hpcjobs.engine.state import RunStatus
from hpcjobs.engine.sweep import Sweep, load, plan_of, writing
from hpcjobs.jobs.arms import shown_command
from hpcjobs.plan import planning
from hpcjobs.plan.estimate import Estimate, UserLimit, estimate, site_limits
from hpcjobs.plan.planning import Plan, Terms
from hpcjobs.plan.settings import settings_of, texts
from hpcjobs.report import build
from hpcjobs.report.build import Report, ReportRequest
from hpcjobs.schedulers.factory import capabilities
from hpcjobs.site import preflight
from hpcjobs.site.choose import chosen_cluster, fitted, overridden
from hpcjobs.trainers.command_line import document_of
from hpcjobs.trainers.registry import DEFAULT, trainer_in, trainer_of

if TYPE_CHECKING:
    import pandas

log_line: Tell = logging.getLogger("hpcjobs").info


class Study:
    """A sweep in its folder. Every method reads the files and queries the scheduler again; nothing is kept in memory.

    `tell` receives lines for the user; without it they go to the logger `hpcjobs`.
    """

    def __init__(self, sweep: Sweep, tell: Tell = log_line):
        self.sweep = sweep
        self._tell = tell

    def __repr__(self) -> str:
        return f"hpcjobs.open({shown(self.folder)!r})"

    @property
    def folder(self) -> Path:
        """The folder of the sweep, absolute."""
        return self.sweep.where.root

    def status(self) -> list[RunStatus]:
        """The state of every run, by one query of the scheduler. If it is unreachable, only the files count."""
        return follow.snapshot(self.sweep, self._tell)

    def wait(self, show: Callable[[list[RunStatus]], None] = lambda runs: None) -> list[RunStatus]:
        """Wait until every submitted run has ended; `show` receives the states after each query.

        An interrupt (KeyboardInterrupt) leaves the runs as they are.
        """
        return follow.wait(self.sweep, show, self._tell)

    def collect(self) -> list[Run]:
        """Read the logs of all runs, and write report/runs.csv. Raises InputError."""
        with writing(self.sweep.where, self._advice()):
            return build.collect_sweep(self.sweep, self._seen())

    def report(
        self,
        *,
        baseline: int | str | None = None,
        against: str | Path | None = None,
        reference: str | None = None,
        out: str | Path | None = None,
    ) -> Report:
        """Collect, and write the report: scaling-report.csv, the figures, the page.

        baseline: the GPUs that speed-up is over, or "node"; absent: the smallest size measured.
        against: the folder of another sweep, or its runs.csv.
        reference: the name or the file of a published table.
        out: the folder of the report; absent: report/ in the study's folder. With it the study itself is only read.

        Raises InputError.
        """
        request = ReportRequest(
            None if baseline is None else str(baseline), None if against is None else Path(against), reference
        )
        folder = None if out is None else Path(out)
        with writing(self.sweep.where, self._advice()):
            return build.report_sweep(self.sweep, self._seen(), request, self._tell, folder)

    def table(self) -> pandas.DataFrame:
        """The scaling table as it stands now, with the columns of scaling-report.csv. Writes nothing."""
        import pandas

        table: pandas.DataFrame = pandas.DataFrame([row.row() for row in build.scaling_rows(self.sweep, self._seen())])
        return table

    def resume(self, *, retryable: bool = False) -> Resumed:
        """Submit runs that failed, were cancelled or are missing, never one that has a result or is under way.

        With `retryable`, only missing runs, and failures that the profile's `retry` allows. Raises InputError,
        SubmitRefused, SchedulerUnreachable, or lock.Locked if another process works on the sweep.
        """
        home.check_original(self.sweep)
        with writing(self.sweep.where):
            _make_data(self.sweep)
            return resume.resume(self.sweep, self._tell, retryable=retryable)

    def cancel(self, runs: Sequence[str] | None = None) -> list[str]:
        """End these runs, or all if `runs` is absent; returns the names of those that were ended.

        `runs` may also be one name. An empty list ends none. Raises as `resume` does.
        """
        if runs is not None and not runs:
            return []
        names = [runs] if isinstance(runs, str) else runs or ()
        with writing(self.sweep.where):
            return cancel.cancel(self.sweep, names, self._tell)

    def _seen(self) -> follow.Seen:
        return follow.seen(self.sweep, self._tell)

    def _advice(self) -> str:
        """What a user without write permission for the sweep's folder can do instead; the end of an error message."""
        return f"; to report elsewhere: `hpcjobs report {shlex.quote(shown(self.folder))} --out DIR`"


@dataclasses.dataclass(frozen=True)
class Preparation:
    """A sweep that is planned and rendered; nothing is written or submitted yet.

    `scripts`: text by group. `preflight`: the text of the script that checks a node before the runs, by its folder's
    name; empty without such a check. `unknown_limits`: why the site's limits are unknown, or empty.
    """

    sweep: Sweep
    scripts: Mapping[str, str]
    preflight: Mapping[str, str]
    limits: Limits
    unknown_limits: str
    user_limit: UserLimit

    def script_files(self) -> dict[Path, str]:
        """The text of each script, by the path that it will have."""
        where = self.sweep.where
        checks = {preflight.script_path(where.root / name): text for name, text in self.preflight.items()}
        return checks | {where.script(name): text for name, text in self.scripts.items()}

    def as_json(self, expected: Estimate) -> dict[str, object]:
        """Runs, costs and scripts, ready for JSON."""
        runs = [
            {
                "run": run.name,
                "gpus": run.size.gpus,
                "nodes": run.size.nodes,
                "gpus_per_node": run.size.gpus_per_node,
                "processes_per_node": run.size.processes_per_node,
                "params": run.variant.params,
                "command": shown_command(run, self.sweep.plan.cluster),
            }
            for run in self.sweep.plan.runs
        ]
        costs = {name: dataclasses.asdict(cost) for name, cost in expected.costs.items()}
        plan = {"costs": costs, "rate": expected.source, "starts": expected.starts, "warnings": expected.warnings}
        scripts = {**self.preflight, **self.scripts}
        return {"out": str(self.sweep.where.root), "runs": runs, "plan": plan, "scripts": scripts}

    def estimate(self) -> Estimate:
        """The cost of the plan, and what the scheduler says of its scripts."""
        plan, where = self.sweep.plan, self.sweep.where
        return estimate(
            plan, self.sweep.scheduler, self.scripts, self.user_limit.added_to(self.limits), where.root.parent
        )

    def submit(
        self,
        command: Sequence[str],
        tell: Tell = log_line,
        show_plan: Callable[[Sweep, Estimate], None] | None = None,
    ) -> tuple[Study, dict[str, str]]:
        """Write the sweep's folder and submit everything: (the study, job ids by group).

        `command` is recorded in provenance.json. `show_plan`, if given, is called after writing and before submitting;
        only for it is the scheduler asked for an estimate. If all submissions are refused, the folder is removed again.
        Raises SchedulerUnreachable, SubmitRefused, PreflightFailed, or OSError.
        """
        if self.unknown_limits:
            raise SchedulerUnreachable(self.unknown_limits)
        folder.write_folder(self.sweep, self.scripts, list(command))
        if show_plan is not None:
            show_plan(self.sweep, self.estimate())
        jobs = _submit(self.sweep, bool(self.preflight), tell)
        return Study(self.sweep, tell), jobs


def prepare(
    gpus: Sequence[int],
    document: Document,
    *,
    cluster: Cluster | None = None,
    settings: Sequence[str] = (),
    repeats: int | None = None,
    throttle: int | None = None,
    one_allocation: bool = False,
    check_node: bool = False,
    out: Path | None = None,
    tell: Tell = log_line,
) -> Preparation:
    """Plan a sweep of the experiment in `document`, and render its scripts.

    The other parameters are those of `sweep`, but `cluster` is a profile. Raises InputError.
    """
    for name, number in (("repeats", repeats), ("throttle", throttle)):
        if number is not None and (not isinstance(number, int) or number < 1):
            raise InputError(f"--{name} {number}: expected a whole number, at least 1")
    if throttle and one_allocation:
        raise InputError("--throttle and --one-allocation exclude each other: give one of them")
    profile = cluster or chosen_cluster(None, None, tell)
    user_limit = UserLimit(profile)
    limits, unknown = site_limits(profile)
    terms = Terms(throttle, limits.max_array, one_allocation)
    plan = make_plan(gpus, document, profile, repeats, settings, terms, tell)
    return _prepared(plan, out, check_node, limits, unknown, user_limit, tell)


def prepare_again(
    source: Path, *, check_node: bool = False, out: Path | None = None, tell: Tell = log_line
) -> Preparation:
    """Plan the sweep of a sweep.yaml, or of the one in a folder, once more. Raises InputError."""
    _, plan = plan_of(source)
    user_limit = UserLimit(plan.cluster)
    limits, unknown = site_limits(plan.cluster)
    return _prepared(plan, out, check_node, limits, unknown, user_limit, tell)


def make_plan(
    gpus: Sequence[int],
    document: Document,
    cluster: Cluster,
    repeats: int | None,
    settings: Sequence[str],
    terms: Terms,
    tell: Tell = log_line,
) -> Plan:
    """The plan of an experiment with `--set` settings. Raises InputError."""
    variants = planning.parameter_grid(document, settings)
    experiments = [variant.experiment for variant in variants]
    cluster = fitted(cluster, experiments[0], tell)
    try:
        trainer_of(experiments[0]).check_keys(experiments, cluster)
        count = repeats or experiments[0].repeats
        planning.check_seeds(experiments, count)
        return planning.make_plan(gpus, variants, cluster, count, terms)
    except InputError as error:
        raise document.placed(error, settings) from None


def _prepared(
    plan: Plan, out: Path | None, check_node: bool, limits: Limits, unknown: str, user_limit: UserLimit, tell: Tell
) -> Preparation:
    name = plan.variants[0].experiment.name
    root = (out or Path("sweeps") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}").absolute()
    sweep = Sweep(sweepdir.new_sweep_id(), SweepDir(root), plan)
    experiments = [variant.experiment for variant in plan.variants]
    trainer_of(experiments[0]).check(experiments, plan.cluster, tell)
    folder.check_free(root)
    scripts = folder.scripts(sweep)
    ahead = {preflight.FOLDER: preflight.script_text(plan, root / preflight.FOLDER)} if check_node else {}
    return Preparation(sweep, scripts, ahead, limits, unknown, user_limit)


def _make_data(sweep: Sweep) -> None:
    experiments = [variant.experiment for variant in sweep.plan.variants]
    trainer_of(experiments[0]).prepare(experiments, sweep.where.data)


def _submit(sweep: Sweep, check_node: bool, tell: Tell) -> dict[str, str]:
    """Make the data and submit everything, after a check of a node if `check_node`."""
    jobs: dict[str, str] = {}
    first: tuple[str, ...] = ()
    where = shlex.quote(shown(sweep.where.root))
    try:
        _make_data(sweep)
        if check_node and capabilities(sweep.plan.cluster).dependencies:
            first = (preflight.submit(sweep.plan, sweep.where.root, sweep.scheduler),)
            tell(f"job {first[0]} checks a node first; if it fails, the others are cancelled")
        elif check_node:
            preflight.run_here(sweep.plan, sweep.where.root)
        submit.submit_all(sweep, jobs, tell, after_ok=first)
    except (SubmitRefused, preflight.PreflightFailed):
        if not jobs:
            if first:
                sweep.scheduler.cancel(first)
            shutil.rmtree(sweep.where.root)
            raise
        tell(f"submitted before that: {', '.join(jobs)}; `hpcjobs resume {where}` submits the rest")
        raise
    except (HpcjobsError, OSError, KeyboardInterrupt):
        tell(f"stopped before everything was submitted; `hpcjobs resume {where}` continues, and submits nothing twice")
        raise
    return jobs


def sweep(
    gpus: Iterable[int] | int | str,
    *,
    experiment: str | Path | None = None,
    command: Sequence[str | int | float | Path] | None = None,
    cluster: str | Path | None = None,
    settings: Mapping[str, object] | None = None,
    override: Mapping[str, str] | None = None,
    sbatch: Sequence[str] | str = (),
    repeats: int | None = None,
    mode: str | None = None,
    start: str | None = None,
    pattern: str | None = None,
    of: str | None = None,
    unit: str | None = None,
    throttle: int | None = None,
    one_allocation: bool = False,
    preflight: bool = False,
    out: str | Path | None = None,
    tell: Tell = log_line,
) -> Study:
    """Submit one training per GPU count, point of the parameter grid and repeat.

    gpus: GPU counts, such as [1, 2, 4] or "1,2,4".
    experiment: a name of `experiments/`, or a file; absent, and without a command: CheXNet.
    command: the words of a training command to run instead, such as ["python", "train.py", "--lr", "{params.lr}"].
    cluster: a name of `hpcjobs cluster list`, or a file; absent: `hpcjobs sweep`'s choice without --cluster.
    settings: experiment keys to override; a list is swept: {"batch.local": [32, 64], "model.weights": "none"}.
        Those of a command have keys such as params.lr. A section may be a mapping: {"batch": {"local": 32}}.
    override: keys of the profile, such as {"partition": "v100", "time": "01:00:00"}; see site.choose.OVERRIDABLE.
    sbatch: any other options of sbatch, such as ["mail-type=FAIL"].
    repeats: runs of each point; absent: the experiment's.
    mode: train or benchmark, the key mode of an experiment.
    start, pattern, of, unit: the keys start, measure.pattern, measure.of and measure.unit of a command.
    throttle: the most runs of a size at a time.
    one_allocation: run everything in one job of the largest size.
    preflight: the runs wait for a job that checks a node.
    out: the sweep's folder; absent: sweeps/EXPERIMENT-DATE-TIME in the working folder.

    Raises InputError, SubmitRefused, SchedulerUnreachable.
    """
    override = override or {}
    options = [sbatch] if isinstance(sbatch, str) else list(sbatch)
    listed = gpus if isinstance(gpus, Iterable) and not isinstance(gpus, (str, bytes)) else [gpus]
    counts = planning.parse_gpus(",".join(map(str, listed)))
    chosen = chosen_cluster(None if cluster is None else str(cluster), override.get("partition"), tell)
    if experiment is not None and command is not None:
        raise InputError("experiment and command exclude each other: give one of them")
    words = None if command is None else texts(command)
    document = profiles.read(Experiment, str(experiment or DEFAULT)) if words is None else document_of(words)
    about = {"mode": mode, "start": start, "measure": {"pattern": pattern, "of": of, "unit": unit}}
    written = settings_of(settings or {}, about, trainer_in(document).keys)
    ready = prepare(
        counts,
        document,
        cluster=overridden(chosen, override, options),
        settings=written,
        repeats=repeats,
        throttle=throttle,
        one_allocation=one_allocation,
        check_node=preflight,
        out=None if out is None else Path(out),
        tell=tell,
    )
    # The provenance keeps the command that does the same.
    values: dict[str, object] = {
        **{"gpus": ",".join(map(str, counts)), "experiment": experiment, "cluster": cluster, **override},
        **{"repeats": repeats, "throttle": throttle},
    }
    line = [word for name, value in values.items() if value is not None for word in (f"--{name}", str(value))]
    line += [word for setting in written for word in ("--set", setting)]
    line += [word for option in options for word in ("--sbatch", option)]
    line += [flag for flag, is_set in (("--one-allocation", one_allocation), ("--preflight", preflight)) if is_set]
    line += ["--out", str(ready.sweep.where.root), *(["--", *words] if words is not None else ())]
    study, _ = ready.submit(["hpcjobs", "sweep", *line], tell)
    return study


def open_study(folder: str | Path, *, tell: Tell = log_line) -> Study:
    """The study in a folder that `sweep` wrote. Raises InputError if there is none."""
    return Study(load(Path(folder)), tell)
