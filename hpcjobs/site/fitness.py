"""`hpcjobs check`: whether a cluster is fit for a study, from the login node, a compute node and the fabric probe."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from hpcjobs.base.contract import FAILURE, OK, WARNING, Finding
from hpcjobs.base.errors import InputError, SchedulerUnreachable, SubmitRefused
from hpcjobs.base.files import read_json, write_atomic
from hpcjobs.base.records import Tell
from hpcjobs.base.times import seconds
from hpcjobs.jobs import render
from hpcjobs.jobs.group import PlannedRun
from hpcjobs.plan import cost
from hpcjobs.plan.estimate import UserLimit, site_limits
from hpcjobs.plan.planning import Plan, size_of
from hpcjobs.schedulers import factory
from hpcjobs.site import check, check_job, preflight
from hpcjobs.site.check_job import CLOCK, last_line
from hpcjobs.site.fabric import fabric_finding
from hpcjobs.trainers.registry import trainer_of

_PROBE = "hpcjobs-probe"
_OBJECTED = "change the key of the profile that Slurm objects to"


@dataclasses.dataclass(frozen=True)
class Fitness:
    """The result of a check. `fabric` is the file of the probe, if there is one; `reached`: the scheduler answered."""

    findings: tuple[Finding, ...]
    fabric: Path | None
    reached: bool

    @property
    def fit(self) -> bool:
        """Whether nothing failed."""
        return not any(each.state == FAILURE for each in self.findings)


def check_fitness(
    plan: Plan,
    out: Path,
    patience_s: float,
    tell: Tell,
    show: Callable[[Finding], None] = lambda finding: None,
    probe_s: int | None = None,
) -> Fitness:
    """Check the plan's cluster: from this host, by a job on a node and, if `probe_s` is given, by the fabric probe.

    `out` is the folder in which sweeps will lie; the check keeps a folder there if something failed or the fabric was
    probed. `show` receives each finding when it is known. A job that does not start within `patience_s` is cancelled.
    Raises InputError if `out` cannot be written to, or a script cannot be rendered.
    """
    findings: list[Finding] = []

    def add(finding: Finding) -> None:
        findings.append(finding)
        show(finding)

    fabric, reached = None, True
    try:
        for finding in _from_here(plan, out):
            add(finding)
        folder = _make_folder(out)
        try:
            for finding in _ask_node(plan, folder, patience_s, tell):
                add(finding)
            if probe_s is not None:
                fabric, finding = _probe(plan, folder, patience_s, tell, probe_s)
                add(finding)
        finally:
            # Files that explain a failure stay.
            if fabric is None and not any(each.state == FAILURE for each in findings):
                shutil.rmtree(folder, ignore_errors=True)
                with contextlib.suppress(OSError):
                    folder.parent.rmdir()  # only an empty folder is removed
    except SchedulerUnreachable as error:
        add(Finding("slurm", FAILURE, str(error), "is this a login node, and is slurmctld up? `scontrol ping`"))
        reached = False
    return Fitness(tuple(findings), fabric, reached)


def _from_here(plan: Plan, out: Path) -> Iterator[Finding]:
    """What the login node can find. Raises SchedulerUnreachable after the findings that need no scheduler."""
    cluster = plan.cluster
    root = out.absolute()
    texts = {group.name: render.script(group, cluster, "check", root) for group in plan.groups}
    template = cluster.template or f"{cluster.launcher}.sbatch.j2"
    yield Finding("template", OK, f"{template} renders {', '.join(texts)}")
    for variant in plan.variants:
        yield from trainer_of(variant.experiment).findings(variant.experiment)
    if factory.capabilities(cluster).limits:
        limits, unknown = site_limits(cluster)
        limits = UserLimit(cluster).added_to(limits)
        if unknown:
            raise SchedulerUnreachable(unknown)
        partition = f"partition {limits.partition}" if limits.partition else "no default partition"
        yield Finding("slurm", OK, f"answers; {partition}")
        time_s = seconds(cluster.time) if cluster.time else None
        scheduler = factory.make(cluster)
        tests = {name: (lambda text=text: scheduler.test(text)) for name, text in texts.items()}
        yield from check.fits(cost.objections(plan, limits, time_s), tests)


def _make_folder(out: Path) -> Path:
    folder = out.absolute() / f"check-{uuid.uuid4().hex[:8]}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written to: {error.strerror}") from None
    return folder


def _ask_node(plan: Plan, folder: Path, patience_s: float, tell: Tell) -> Iterator[Finding]:
    """What a compute node has."""
    yield check.disk(folder.parent, sum(_bytes_on_disk(run) for run in plan.runs))
    script = preflight.write_script(plan, folder)
    try:
        job = check_job.run(plan.cluster, folder, script, preflight.NAME, patience_s, tell)
    except SubmitRefused as error:
        yield Finding("node", FAILURE, str(error), _OBJECTED)
        return
    yield from preflight.answers(job, folder)


def _bytes_on_disk(run: PlannedRun) -> int:
    experiment = run.variant.experiment
    return trainer_of(experiment).bytes_on_disk(experiment)


def _probe(plan: Plan, folder: Path, patience_s: float, tell: Tell, probe_s: int) -> tuple[Path | None, Finding]:
    """(file of the fabric probe, the finding of it). The probe is an MPI program with a rank for each GPU."""
    cluster, largest = plan.cluster, plan.groups[-1]
    needs_mpi = trainer_of(largest.runs[0].variant.experiment).needs_mpi
    if largest.size.gpus < 2 or cluster.launcher in ("horovodrun", "fork"):
        why = "two ranks or more" if largest.size.gpus < 2 else f"MPI, which launcher {cluster.launcher} does not use"
        remedy = "give more --gpus, or launcher srun or mpirun"
        return None, Finding("fabric", WARNING, f"not probed: the probe needs {why}", remedy)
    path = folder / "fabric.json"
    python = cluster.python or sys.executable
    words = [python, "-m", "hpcjobs.nodes.probe", "--out", str(path), "--seconds", str(probe_s)]
    if cluster.device == "gpu" and needs_mpi:
        # Horovod comes with the trainer that needs MPI. Not run by us: needs GPUs.
        words.append("--horovod")
    if cluster.mem_per_gpu_mib is not None:
        # Each rank holds two buffers, and MPI needs memory too.
        words += ["--largest", str(min(2**28, cluster.mem_per_gpu_mib * 2**20 // 8))]
    (folder / CLOCK).unlink(missing_ok=True)
    script = folder / f"{_PROBE}.sbatch"
    ranks = dataclasses.replace(largest, size=size_of(largest.size.gpus, cluster))
    text = render.probe_job(ranks, cluster, _PROBE, folder, words, 5 + probe_s // 30, start="rank")
    write_atomic(script, text)
    try:
        job = check_job.run(cluster, folder, script, _PROBE, patience_s, tell)
    except SubmitRefused as error:
        return None, Finding("fabric", FAILURE, str(error), _OBJECTED)
    about = read_json(path)
    see = f"see {folder}/{_PROBE}.out"
    if job.ended is None:
        return None, Finding("fabric", WARNING, f"job {job.id} did not end in time", "try again when nodes are free")
    if about is None:
        # A command brings its own Python, so the profile's may lack what the probe needs.
        remedy = see if needs_mpi else f"{see}; the profile's `python` needs hpcjobs with mpi4py and numpy"
        return None, Finding("fabric", FAILURE, f"the probe failed: {last_line(folder, _PROBE)}", remedy)
    if "--horovod" in words and "horovod" not in about["together"]:
        message = f"measured between hosts, but not through Horovod, which failed: {last_line(folder, _PROBE)}"
        return path, Finding("fabric", WARNING, message, see)
    return path, fabric_finding(about, path)
