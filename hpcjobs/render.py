"""A group of runs becomes a batch script.

All arithmetic is done here, none in the templates; every value passes the one quoting filter `q`.
"""

from __future__ import annotations

import shlex
import sys
from importlib import resources
from pathlib import Path

import jinja2

from hpcjobs.errors import InputError
from hpcjobs.plan import Group
from hpcjobs.spec import Cluster

OUTPUT_PATTERN = "%A_%a.out"


def quote(value: object) -> str:
    """One shell word that bash reads back as exactly `value`; sbatch reads directives alike.

    Raises InputError for characters that a line of a script cannot hold.
    """
    text = str(value)
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise InputError(f"{text!r} holds a control character and cannot stand in a job script")
    return shlex.quote(text)


def job_name(sweep: str, group: str, submission: int) -> str:
    """The Slurm job name of a submission (from 1) of a group.

    It holds the sweep's id, so that one query finds every job of a sweep.
    """
    return f"hpcjobs-{sweep}-{group}-s{submission:02d}"


def script(group: Group, cluster: Cluster, sweep: str, sweep_dir: Path) -> str:
    """The batch script of one size.

    `sweep_dir` is the absolute sweep folder. Raises InputError for a template that does not render or
    a value that no script can hold.
    """
    if "\\" in str(sweep_dir):
        raise InputError(f"{sweep_dir}: sbatch cannot take a folder whose name holds a backslash")
    environment = jinja2.Environment(
        loader=_loader(cluster),
        undefined=jinja2.StrictUndefined,
        trim_blocks=False,
        keep_trailing_newline=True,
        autoescape=False,  # shell, not HTML: `q` is the filter that quotes
    )
    environment.filters["q"] = quote
    name = Path(cluster.template).name if cluster.template else f"{cluster.launcher}.sbatch.j2"
    try:
        return environment.get_template(name).render(
            cluster=cluster,
            directives=directives(group, cluster, sweep, sweep_dir),
            environment=cluster.env,
            group=group.name,
            python=[cluster.python or sys.executable],
            size=group.size,
            sweep_dir=str(sweep_dir),
        )
    except jinja2.TemplateNotFound as error:
        raise InputError(f"template '{error}' not found") from None
    except jinja2.TemplateSyntaxError as error:
        raise InputError(f"{error.filename}:{error.lineno}: {error.message}") from None
    except jinja2.TemplateError as error:
        raise InputError(f"template {name}: {error}") from None


def _loader(cluster: Cluster) -> jinja2.BaseLoader:
    folders = [str(resources.files("hpcjobs.templates"))]
    if cluster.template:
        folders.insert(0, str(Path(cluster.template).parent))
    return jinja2.FileSystemLoader(folders)


def directives(group: Group, cluster: Cluster, sweep: str, sweep_dir: Path) -> list[tuple[str, object]]:
    """(option, value) of each #SBATCH line, in order; value None is a bare flag."""
    size = group.size
    lines: list[tuple[str, object]] = [
        ("job-name", job_name(sweep, group.name, 1)),  # sbatch's command line names the others
        ("comment", f"hpcjobs sweep {sweep}"),
        ("array", f"0-{len(group.runs) - 1}"),
        # A percent sign in a folder's name is no pattern of Slurm's.
        ("output", str(sweep_dir).replace("%", "%%") + f"/slurm/{OUTPUT_PATTERN}"),
        ("open-mode", "append"),
        ("nodes", size.nodes),
        ("ntasks", size.gpus),
        ("ntasks-per-node", size.tasks_per_node),
        ("cpus-per-task", cluster.cpus_per_gpu),
    ]
    kind = f"{cluster.gpu_type}:" if cluster.gpu_type else ""
    if cluster.gpu_request == "gres":
        lines.append(("gres", f"gpu:{kind}{size.tasks_per_node}"))
    elif cluster.gpu_request == "gpus-per-node":
        lines.append(("gpus-per-node", f"{kind}{size.tasks_per_node}"))
    if cluster.mem_per_gpu_mib is not None:
        lines.append(("mem", f"{cluster.mem_per_gpu_mib * size.tasks_per_node}M"))
    if cluster.sharing == "exclusive":
        lines.append(("exclusive", None))
    for option in ("partition", "account", "qos", "reservation", "constraint", "exclude", "time"):
        value = getattr(cluster, option)
        if value is not None:
            lines.append((option, value))
    for option, value in cluster.sbatch.items():
        if value is not False:
            lines.append((option, None if value is True else value))
    return lines
