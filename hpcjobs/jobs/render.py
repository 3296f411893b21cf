"""A group of runs becomes a batch script.

All arithmetic is done here, none in the templates; every value passes the one quoting filter `q`.
"""

from __future__ import annotations

import dataclasses
import functools
import posixpath
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import msgspec

from hpcjobs.base.contract import EXIT_INTERRUPTED
from hpcjobs.base.errors import InputError
from hpcjobs.base.hostlist import expand_hosts
from hpcjobs.base.times import seconds
from hpcjobs.config import Cluster
from hpcjobs.config.cluster import EARLY_S, SbatchOptions
from hpcjobs.jobs.arms import arms, counters, launch_of, told, word
from hpcjobs.jobs.group import COLLECTOR, Group
from hpcjobs.jobs.quoting import quote
from hpcjobs.jobs.variables import BASH_VARIABLES, OURS
from hpcjobs.schedulers.factory import capabilities
from hpcjobs.trainers import Launch, Start
from hpcjobs.trainers.registry import trainer_of

# The template that every launcher's template extends, and the one that takes its place in a probe job.
BASE = "base.sbatch.j2"
_PROBE_BASE = "check.sbatch.j2"
# Stands beside the scripts of open commands, and around each process that a launcher starts.
RANK_SCRIPT = "rank.sh"
# What the Python of an open command can import, and what puts the meter into it: files of this package, which stand in
# METER_FOLDER beside the scripts.
METER_FOLDER = "python"
_INJECTED = ("sitecustomize", "meter_driver", "meter_torch", "rank_end")
METER_FILES = ("meter.py", *(f"inject/{name}.py" for name in _INJECTED))


def job_name(sweep: str, group: str, submission: int) -> str:
    """The Slurm job name of a submission (from 1) of a group.

    It holds the sweep's id, so that one query finds every job of a sweep.
    """
    return f"hpcjobs-{sweep}-{group}-s{submission:02d}"


def script(group: Group, cluster: Cluster, sweep: str, sweep_dir: Path) -> str:
    """The batch script of one size: an array with a task for each of its runs.

    `sweep_dir` is the absolute sweep folder. Raises InputError for a template that does not render or
    a value that no script can hold.
    """
    found = arms(group, cluster)
    launch = found[0].launch
    return _render(
        cluster.template or f"{cluster.launcher}.sbatch.j2",
        cluster,
        sweep_dir,
        directives=directives(group, cluster, sweep, sweep_dir),
        arms=found,
        counters=counters(group),
        told=told(group, cluster, sweep),
        near_s=warned_s(launch, cluster) + 2 * EARLY_S,
        warned_s=warned_s(launch, cluster),
        **_process_variables(group, cluster, sweep_dir, launch),
    )


def support_files(plan_groups: Sequence[Group], cluster: Cluster) -> dict[str, str]:
    """The texts that stand beside the scripts of these groups, by path: what runs around and in each process."""
    if not any(launch_of(group.runs[0], cluster).open for group in plan_groups):
        return {}
    package = resources.files("hpcjobs")
    meter = {f"{METER_FOLDER}/{name}": package.joinpath(name).read_text("utf-8") for name in METER_FILES}
    return {RANK_SCRIPT: support_file(RANK_SCRIPT), **meter}


def support_file(name: str) -> str:
    """A script that has no values of its own to be filled in: `name` is that of its template without .j2."""
    return _environment(None, BASE).get_template(f"{name}.j2").render()


def warned_s(launch: Launch, cluster: Cluster) -> int:
    """Seconds before its time limit at which a job is signalled; 0: it is not, or the command would not know why."""
    return 0 if launch.open and launch.stop is None else cluster.warned_s


def allocation(group: Group, cluster: Cluster, sweep: str, sweep_dir: Path) -> str:
    """The batch script of one job that runs all of `group`, of any size up to its own, by calling their scripts.

    Raises InputError as `script` does.
    """
    one = dataclasses.replace(group, runs=group.runs[:1])
    warned = warned_s(launch_of(group.runs[0], cluster), cluster)
    return _render(
        "allocation.sbatch.j2",
        cluster,
        sweep_dir,
        directives=directives(one, cluster, sweep, sweep_dir),
        group=group.name,
        near_s=warned + 2 * EARLY_S,
        warned_s=warned,
        last_line=len(group.runs) - 1,
        size=group.size,
    )


def collector(cluster: Cluster, sweep: str, sweep_dir: Path) -> str:
    """The batch script of the last small job, which reports. Raises InputError as `script` does."""
    return _render(
        "collect.sbatch.j2",
        cluster,
        sweep_dir,
        directives=_collector_directives(cluster, sweep, sweep_dir),
        environment=cluster.env,
        python=sys.executable,
    )


def probe_job(
    group: Group,
    cluster: Cluster,
    name: str,
    folder: Path,
    command: Sequence[str],
    minutes: int,
    *,
    start: Start | None = None,
) -> str:
    """The batch script of a short job of a group's size that belongs to no sweep: a check, the fabric probe.

    Each process, started by the launcher as in a run, runs `command`. `start` takes the place of the runs' own. The job
    writes into the absolute `folder`: first the node's clock, then its output `NAME.out`. Raises InputError as `script`
    does.
    """
    dropped = ("comment", "array", "open-mode", "requeue", "no-requeue", "signal")
    changed = {"job-name": name, "output": _percent(folder / f"{name}.out"), "time": f"{minutes}:00"}
    lines = {option: value for option, value in directives(group, cluster, "", folder) if option not in dropped}
    launch = launch_of(group.runs[0], cluster)
    launch = dataclasses.replace(launch, start=start or launch.start, open=False, mpirun=())
    # The user's template counts only if it extends the base. A template that is a whole script, or a base itself,
    # would start a run; then the launcher's own template is used.
    theirs = cluster.template if cluster.template and Path(cluster.template).name != BASE else None
    text = ""
    for template in dict.fromkeys((theirs, None)):
        reached = jinja2.utils.Namespace(probe_base=False)
        text = _render(
            template or f"{cluster.launcher}.sbatch.j2",
            msgspec.structs.replace(cluster, template=template),
            folder,
            base=_PROBE_BASE,
            reached=reached,
            directives=list({**lines, **changed, "no-requeue": None}.items()),
            command=command,
            # The probe measures the fastest transport that MPI finds: no option of the trainer limits it.
            **_process_variables(group, cluster, folder, launch),
        )
        if reached.probe_base:  # check.sbatch.j2 sets it
            break
    return text


def _process_variables(group: Group, cluster: Cluster, folder: Path, launch: Launch) -> dict[str, Any]:
    """The variables of a template that starts processes. `folder` is the one that they write to."""
    return {
        "cpus_per_node": cluster.cpus_per_gpu * group.size.gpus_per_node,
        "container": _container(group, cluster, folder, launch),
        "environment": cluster.env,
        "gpu_request": _gpu_request(group, cluster),
        "group": group.name,
        "launch": launch,
        "limit_s": seconds(cluster.time) if cluster.time else None,
        "ours": OURS,
        "python": [cluster.python or sys.executable],
        "sampled_by": _sampled_by(cluster, launch),
        # hpcjobs' own Python, on a file system that the nodes share, as the collector's.
        "sampler": sys.executable,
        "size": group.size,
    }


def _sampled_by(cluster: Cluster, launch: Launch) -> str:
    """Who starts the samplers of a command's nodes: `ranks` (rank.sh of each node's first process), `script`, or ""."""
    if not (launch.open and cluster.node_sampler):
        return ""
    # With pyxis rank.sh runs inside the container, which lacks hpcjobs' Python.
    return "script" if launch.start == "once" or cluster.container.kind == "pyxis" else "ranks"


def _render(
    template: str,
    cluster: Cluster,
    sweep_dir: Path,
    directives: Iterable[tuple[str, object]],
    base: str = BASE,
    **values: object,
) -> str:
    if "\\" in str(sweep_dir):
        raise InputError(f"{sweep_dir}: sbatch cannot take a folder whose name holds a backslash")
    for option, value in directives:
        if "\\" in str(value):
            raise InputError(f"#SBATCH --{option}={value}: sbatch would change the backslash")
    for name in cluster.env:
        # The script's own variables have lower-case names. It has no variables *_proxy, so those are allowed.
        if name in BASH_VARIABLES or (name == name.lower() and not name.endswith("_proxy")):
            raise InputError(
                f"env.{name}: bash or the job script uses this name itself; the value would not reach the ranks"
            )
    name = Path(template).name
    try:
        return (
            _environment(cluster.template, base)
            .get_template(name)
            .render(
                capabilities=capabilities(cluster),
                cluster=cluster,
                directives=directives,
                interrupted=EXIT_INTERRUPTED,
                sweep_dir=str(sweep_dir),
                **values,
            )
        )
    except InputError:
        raise
    except jinja2.TemplateNotFound as error:
        raise InputError(f"template '{error.name}' not found") from None
    except jinja2.TemplateSyntaxError as error:
        raise InputError(f"{error.filename or error.name or name}:{error.lineno}: {error.message}") from None
    except Exception as error:  # a user's template may raise anything
        raise InputError(f"{_place(error, name)}: {_message(error)}") from None


def _place(error: Exception, template: str) -> str:
    """The place of an error in a template: tracebacks of Jinja name the lines of the template."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.endswith(".j2")]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else f"template {template}"


def _message(error: Exception) -> str:
    message = " ".join(str(error).split())
    return message if isinstance(error, jinja2.TemplateError) else f"{type(error).__name__}: {message}"


@functools.cache
def _environment(template: str | None, base: str) -> jinja2.Environment:
    """Finds templates beside the profile's own, then those of hpcjobs. A template that extends BASE extends `base`."""
    shipped = Path(str(resources.files("hpcjobs.templates")))
    folders = [str(shipped)]
    if template:
        folders.insert(0, str(Path(template).parent))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders) if base == BASE else _BaseReplacingLoader(folders, shipped / base),
        undefined=jinja2.StrictUndefined,
        trim_blocks=False,
        keep_trailing_newline=True,
        autoescape=False,  # shell, not HTML: `q` is the filter that quotes
    )
    environment.filters["q"] = quote
    environment.filters["word"] = word
    return environment


class _BaseReplacingLoader(jinja2.FileSystemLoader):
    """Loads another file in place of BASE."""

    def __init__(self, folders: Sequence[str], base: Path):
        super().__init__(folders)
        self._base = base

    def get_source(self, environment: jinja2.Environment, template: str) -> tuple[str, str, Callable[[], bool]]:
        """(text, file, function that tells whether the text is still current), as jinja2 defines it."""
        if posixpath.normpath(template) == BASE:
            return self._base.read_text(), str(self._base), lambda: True
        return super().get_source(environment, template)


def directives(group: Group, cluster: Cluster, sweep: str, sweep_dir: Path) -> list[tuple[str, object]]:
    """(option, value) of each #SBATCH line, in order; value None is a bare flag."""
    size, launch = group.size, launch_of(group.runs[0], cluster)
    warned = warned_s(launch, cluster)
    lines: list[tuple[str, object]] = [
        ("job-name", job_name(sweep, group.name, 1)),  # for later submissions sbatch's command line replaces it
        ("comment", f"hpcjobs sweep {sweep}"),
        ("array", f"0-{len(group.runs) - 1}"),
        ("output", _output(sweep_dir, "%A_%a.out")),
        ("open-mode", "append"),
        # A command that writes no checkpoint must not begin again by itself, when a node fails or a job is preempted.
        ("requeue" if cluster.requeues and (launch.stop or not launch.open) else "no-requeue", None),
    ]
    if warned:
        lines.append(("signal", f"B:USR1@{warned}"))
    lines += [
        ("nodes", size.nodes),
        ("ntasks", size.processes),
        ("ntasks-per-node", size.processes_per_node),
        ("cpus-per-task", size.per_process(cluster.cpus_per_gpu)),
    ]
    lines += _gpu_request(group, cluster)
    if cluster.mem_per_gpu_mib is not None:
        lines.append(("mem", f"{cluster.mem_per_gpu_mib * size.gpus_per_node}M"))
    if cluster.sharing == "exclusive":
        lines.append(("exclusive", None))
    for option in ("partition", "account", "qos", "reservation", "constraint", "nodelist", "exclude", "time"):
        value = getattr(cluster, option)
        if option == "nodelist" and value is not None:
            # sbatch refuses a list with more names than nodes.
            value = ",".join(expand_hosts(value)[: size.nodes])
        if value is not None:
            lines.append((option, value))
    return lines + _options(cluster.sbatch)


def _gpu_request(group: Group, cluster: Cluster) -> list[tuple[str, object]]:
    kind = f"{cluster.gpu_type}:" if cluster.gpu_type else ""
    values = {"gres": f"gpu:{kind}{group.size.gpus_per_node}", "gpus-per-node": f"{kind}{group.size.gpus_per_node}"}
    return [(option, value) for option, value in values.items() if option == cluster.gpu_request]


def _container(group: Group, cluster: Cluster, sweep_dir: Path, launch: Launch) -> list[str]:
    """The words that put a process' command into a container: a command of apptainer, or options of srun for pyxis."""
    about = cluster.container
    if about.kind == "none":
        return []
    mounts = [*_folders(group, sweep_dir), *about.mounts]
    if about.kind == "apptainer":
        binds = [word for mount in mounts for word in ("--bind", mount)]
        gpus = ["--nv"] if cluster.device == "gpu" else []
        inside = ["--pwd", launch.workdir] if launch.workdir else []
        return ["apptainer", "exec", *gpus, *binds, *inside, *about.options, str(about.image)]
    pairs = ",".join(mount if ":" in mount else f"{mount}:{mount}" for mount in mounts)
    words = [f"--container-image={about.image}", f"--container-mounts={pairs}"]
    # Without this option the image's own value of a variable would win.
    names = [*cluster.env, *(OURS if launch.open else ())]
    kept = [f"--container-env={','.join(names)}"] if names else []
    return [*words, *kept, *about.options]


def _folders(group: Group, sweep_dir: Path) -> list[str]:
    """The paths that a process reads and writes, which have the same name inside and outside. Raises InputError."""
    experiments = [run.variant.experiment for run in group.runs]
    wanted = [str(sweep_dir), *(path for each in experiments for path in trainer_of(each).inputs(each))]
    for path in wanted:
        if set(path) & set(",:"):
            raise InputError(f"{path}: a comma or a colon in a name cannot be mounted into a container")
    return list(dict.fromkeys(wanted))


def _collector_directives(cluster: Cluster, sweep: str, sweep_dir: Path) -> list[tuple[str, object]]:
    # The qos and the constraint of the GPU nodes may not exist in another partition. The account pays everywhere.
    inherited = ("account",) if cluster.collect.partition else ("partition", "account", "qos", "constraint")
    lines: dict[str, object] = {
        "job-name": job_name(sweep, COLLECTOR, 1),
        "comment": f"hpcjobs sweep {sweep}",
        "array": 0,  # an array of one task, so that its task id has the form of all others
        "output": _output(sweep_dir, "collect-%j.out"),
        "open-mode": "append",
        "requeue": None,
        "nodes": 1,
        "ntasks": 1,
    }
    lines |= {option: value for option in inherited if (value := getattr(cluster, option)) is not None}
    chosen = {"partition": cluster.collect.partition, "time": cluster.collect.time}
    lines |= {option: value for option, value in chosen.items() if value is not None}
    lines = {option: value for option, value in lines.items() if option not in cluster.collect.sbatch}
    return [*lines.items(), *_options(cluster.collect.sbatch)]


def _output(sweep_dir: Path, name: str) -> str:
    return _percent(sweep_dir) + f"/slurm/{name}"


def _percent(path: Path) -> str:
    # Slurm would read a percent sign in a folder's name as a filename pattern.
    return str(path).replace("%", "%%")


def _options(chosen: SbatchOptions) -> list[tuple[str, object]]:
    return [(option, None if value is True else value) for option, value in chosen.items() if value is not False]
