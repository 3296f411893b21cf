"""`hpcjobs check`."""

from __future__ import annotations

import contextlib
import json
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import click

from hpcjobs.base.contract import FAILURE, OK, WARNING, Finding
from hpcjobs.base.errors import InputError, SchedulerUnreachable, SubmitRefused
from hpcjobs.base.files import read_json, write_atomic
from hpcjobs.base.times import seconds
from hpcjobs.cli import profile_flags, show
from hpcjobs.cli import sweep_command as sweeping
from hpcjobs.jobs import render
from hpcjobs.plan import cost
from hpcjobs.plan.estimate import UserLimit, site_limits
from hpcjobs.plan.planning import Plan, Terms
from hpcjobs.schedulers.slurm.slurm_scheduler import SlurmScheduler
from hpcjobs.site import check as checks
from hpcjobs.site import preflight
from hpcjobs.trainers import chexnet

# Bytes of the checkpoints of one run at most: the newest two, the one being written, and the best weights.
_CHECKPOINTS = {"densenet121": 300_000_000, "densenet_tiny": 5_000_000}
_LOGS = 5_000_000
_PROBE = "hpcjobs-probe"
_OBJECTED = "change the key of the profile that Slurm objects to"
_STYLES = {OK: "green", WARNING: "yellow", FAILURE: "red"}


@click.command()
@click.option("--gpus", metavar="LIST", help="GPU counts of the study.  [default: 1, and as many as fill a node]")
@sweeping.experiment_option
@sweeping.cluster_option
@sweeping.settings_option("Override a key, as in `hpcjobs sweep`.")
@profile_flags.options
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="sweeps",
    show_default=True,
    metavar="DIR",
    help="The folder in which sweeps will be.",
)
@click.option("--probe", is_flag=True, help="Measure the fabric, too, by a job of the largest size.")
@click.option("--probe-seconds", type=click.IntRange(min=5), default=60, show_default=True, help="For about so long.")
@click.option(
    "--patience-min",
    type=click.FloatRange(min=0),
    default=10,
    show_default=True,
    help="Wait so long for a job to begin.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def check(
    ctx: click.Context,
    gpus: str | None,
    experiment: str,
    cluster: str | None,
    settings: tuple[str, ...],
    daily_flags: profile_flags.Flags,
    out: Path,
    probe: bool,
    probe_seconds: int,
    patience_min: float,
    as_json: bool,
) -> None:
    """Say whether a cluster is fit for a study, before it is submitted; a short job asks a compute node.

    Exit code 0: fit, 1: a failure is among the lines, 3: Slurm does not answer.

    \b
    hpcjobs check --gpus 1,2,4,8,16 --cluster c4140 --set data.dir=/scratch/chestxray14
    """
    profile = daily_flags.applied_to(sweeping.chosen_cluster(cluster, daily_flags.keys.get("partition")))
    counts = gpus or ",".join(map(str, sorted({1, profile.gpus_per_node or 1})))
    plan = sweeping.plan_of(counts, experiment, profile, None, settings, Terms())
    found: list[Finding] = []

    def tell(finding: Finding) -> None:
        found.append(finding)
        if not as_json:
            _print(finding)

    code, fabric = 0, None
    try:
        for finding in _from_here(plan, out):
            tell(finding)
        errand = _Errand(plan, _make_folder(out), patience_min * 60)
        try:
            for finding in errand.ask_node():
                tell(finding)
            if probe:
                fabric, finding = errand.probe(probe_seconds)
                tell(finding)
        finally:
            # What may be needed to understand a failure stays.
            if fabric is None and not any(each.state == FAILURE for each in found):
                shutil.rmtree(errand.folder, ignore_errors=True)
                with contextlib.suppress(OSError):
                    errand.folder.parent.rmdir()  # where nothing else is in it
    except SchedulerUnreachable as error:
        tell(Finding("slurm", FAILURE, str(error), "is this a login node, and is slurmctld up? `scontrol ping`"))
        code = error.exit_code
    if as_json:
        lines = [
            {"check": each.check, "state": each.state, "said": each.message, "cure": each.remedy} for each in found
        ]
        click.echo(json.dumps({"fabric": str(fabric) if fabric else None, "findings": lines}))
    ctx.exit(code or int(any(each.state == FAILURE for each in found)))


def _print(finding: Finding) -> None:
    from rich.text import Text

    console = show.terminal()
    line = Text.assemble((f"{finding.state:<8}", _STYLES[finding.state]), f"{finding.check:<11}", finding.message)
    console.print(line, soft_wrap=True)
    if finding.remedy and finding.state != OK:
        console.print(Text(f"{'':<19}-> {finding.remedy}"), soft_wrap=True)


def _from_here(plan: Plan, out: Path) -> Iterator[Finding]:
    """What the login node can tell. Raises SchedulerUnreachable, behind what was found before."""
    cluster = plan.cluster
    root = out.absolute()
    texts = {group.name: render.script(group, cluster, "check", root) for group in plan.groups}
    template = cluster.template or f"{cluster.launcher}.sbatch.j2"
    yield Finding("template", OK, f"{template} renders {', '.join(texts)}")
    for variant in plan.variants:
        model = variant.experiment.model
        if model.name != "densenet121" and model.weights == "imagenet":
            yield Finding("weights", FAILURE, f"no ImageNet weights of {model.name} exist", "set model.weights=none")
        if variant.experiment.data.dir is None and not chexnet.is_made_up(variant.experiment):
            cure = "`hpcjobs data prepare --out DIR ...` makes shards; give --set data.dir=DIR"
            yield Finding("data", FAILURE, f"experiment '{variant.experiment.name}' names no data.dir", cure)
    if cluster.scheduler == "slurm":
        limits, unknown = site_limits(cluster)
        limits = UserLimit(cluster).added_to(limits)
        if unknown:
            raise SchedulerUnreachable(unknown)
        partition = f"partition {limits.partition}" if limits.partition else "no default partition"
        yield Finding("slurm", OK, f"answers; {partition}")
        time = seconds(cluster.time) if cluster.time else None
        scheduler = SlurmScheduler()
        tests = {name: (lambda text=text: scheduler.test(text)) for name, text in texts.items()}
        yield from checks.fits(cost.objections(plan, limits, time), tests, limits.up)


def _needed(plan: Plan) -> int:
    """Bytes that the study's runs leave at most."""
    total = 0
    for run in plan.runs:
        experiment = run.variant.experiment
        keeps = experiment.mode == "train" and experiment.train.checkpoint
        total += _LOGS + (_CHECKPOINTS[experiment.model.name] if keeps else 0)
    return total


def _make_folder(out: Path) -> Path:
    folder = out.absolute() / f"check-{uuid.uuid4().hex[:8]}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written to: {error.strerror}") from None
    return folder


class _Errand:
    """The short jobs, which leave what they find in `folder`."""

    def __init__(self, plan: Plan, folder: Path, patience_s: float):
        self.plan, self.folder, self.patience_s = plan, folder, patience_s
        self.run = checks.run_by_slurm if plan.cluster.scheduler == "slurm" else checks.run_here

    def ask_node(self) -> Iterator[Finding]:
        """What a compute node has."""
        yield checks.disk(self.folder.parent, _needed(self.plan))
        script = preflight.written(self.plan, self.folder)
        try:
            job = self.run(self.folder, script, preflight.NAME, self.patience_s, show.talk)
        except SubmitRefused as error:
            yield Finding("node", FAILURE, str(error), _OBJECTED)
            return
        yield from preflight.answers(job, self.folder)

    def probe(self, seconds_: int) -> tuple[Path | None, Finding]:
        """(the probe's file, what it says)."""
        cluster, largest = self.plan.cluster, self.plan.groups[-1]
        if largest.size.gpus < 2 or cluster.launcher == "horovodrun":
            why = "needs two ranks or more" if largest.size.gpus < 2 else "needs MPI, which horovodrun does without"
            return None, Finding(
                "fabric", WARNING, f"not probed: it {why}", "give more --gpus, or launcher srun or mpirun"
            )
        path = self.folder / "fabric.json"
        words = ["-m", "hpcjobs.nodes.probe", "--out", str(path), "--seconds", str(seconds_)]
        if cluster.device == "gpu":
            # Not run by us: needs GPUs.
            words.append("--horovod")
        if cluster.mem_per_gpu_mib is not None:
            # Two buffers on each rank, and what MPI takes.
            words += ["--largest", str(min(2**28, cluster.mem_per_gpu_mib * 2**20 // 8))]
        (self.folder / checks.CLOCK).unlink(missing_ok=True)
        script = self.folder / f"{_PROBE}.sbatch"
        write_atomic(script, render.errand(largest, cluster, _PROBE, self.folder, words, 5 + seconds_ // 30))
        try:
            job = self.run(self.folder, script, _PROBE, self.patience_s, show.talk)
        except SubmitRefused as error:
            return None, Finding("fabric", FAILURE, str(error), _OBJECTED)
        about = read_json(path)
        if job.ended is None:
            return None, Finding("fabric", WARNING, f"job {job.id} did not run in time", "ask again when there is room")
        if about is None:
            said = f"the probe failed: {checks.last_line(self.folder, _PROBE)}"
            return None, Finding("fabric", FAILURE, said, f"see {self.folder}/{_PROBE}.out")
        if "--horovod" in words and "horovod" not in about["together"]:
            said = f"between hosts it is measured, through Horovod it failed: {checks.last_line(self.folder, _PROBE)}"
            return path, Finding("fabric", WARNING, said, f"see {self.folder}/{_PROBE}.out")
        return path, fabric(about, path)


def fabric(about: dict[str, object], path: Path) -> Finding:
    """What the probe's file says, in a line."""
    words = []
    for where, name in (("inside", "inside a node"), ("across", "between nodes")):
        latency, rate = about.get(f"{where}_latency_s"), about.get(f"{where}_bytes_per_s")
        if isinstance(latency, float) and isinstance(rate, float):
            words.append(f"{name} {latency * 1e6:.3g} us, {rate / 1e9:.3g} GB/s")
    together = about.get("together")
    if isinstance(together, dict) and (horovod := together.get("horovod")):
        words.append(
            f"all ranks by {horovod['operations']} {horovod['busbw_bytes_per_s'] / 1e9:.3g} GB/s (bus bandwidth)"
        )
    said = f"{'; '.join(words)} ({show.shorten(path)})"
    slow = about.get("slow")
    if not isinstance(slow, list) or not slow:
        return Finding("fabric", OK, said)
    slowest = [
        f"node {each['node']} ({each['way']})" if "node" in each else f"link {' to '.join(each['link'])}"
        for each in slow
    ]
    rates = [f"{name}: {each['bytes_per_s'] / 1e9:.3g} GB/s" for name, each in zip(slowest, slow, strict=True)]
    cure = "leave such nodes out (--exclude), or have them mended"
    return Finding("fabric", WARNING, f"slow: {', '.join(rates)}; {said}", cure)
