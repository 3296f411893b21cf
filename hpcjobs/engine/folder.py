"""Writes a sweep's folder: scripts, run.yaml of every run, provenance, sweep.yaml."""

from __future__ import annotations

import shlex
import shutil
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path

from hpcjobs.base import contract
from hpcjobs.base.contract import dump_runs
from hpcjobs.base.errors import InputError
from hpcjobs.base.files import beside, claim_link, read_json, shown, write_atomic, write_json, write_new
from hpcjobs.base.lock import alive, process
from hpcjobs.base.provenance import provenance
from hpcjobs.base.sweepdir import SweepDir
from hpcjobs.config import dump, to_builtins
from hpcjobs.engine.sweep import Sweep, run_configs, to_yaml
from hpcjobs.jobs import render
from hpcjobs.jobs.group import COLLECTOR

# The mark of a folder whose sweep.yaml is not written yet. It holds the process() that writes the folder.
UNFINISHED = ".unfinished"
# The entries that such a folder may have.
_OURS = ("scripts", "slurm", "runs", "provenance.json")


def scripts(sweep: Sweep) -> dict[str, str]:
    """The text of every script, by group.

    Raises InputError if one cannot be rendered, or if the folder's name would split a list of folders in one.
    """
    plan, root = sweep.plan, sweep.where.root
    if ":" in str(root) and render.support_files(plan.groups, plan.cluster):
        raise InputError(
            f"--out {shown(root)}: its path has a colon, at which PYTHONPATH would split it in the environment of the "
            "command; give a folder without one"
        )
    texts = {group.name: render.script(group, plan.cluster, sweep.id, root) for group in plan.groups}
    if plan.allocation is not None:
        texts[plan.allocation.name] = render.allocation(plan.allocation, plan.cluster, sweep.id, root)
    if sweep.collects:
        texts[COLLECTOR] = render.collector(plan.cluster, sweep.id, root)
    return texts


def write_folder(sweep: Sweep, rendered: Mapping[str, str], command: list[str]) -> None:
    """Write everything but the journal. sweep.yaml comes last: a folder that has one is complete.

    Raises InputError if the folder holds a sweep already or cannot be made, OSError if a file cannot be written.
    """
    where = sweep.where
    begin(where.root)
    for folder in (where.scripts, where.slurm, where.runs):
        folder.mkdir()
    files = {where.script(name): text for name, text in rendered.items()}
    support = render.support_files(sweep.plan.groups, sweep.plan.cluster)
    files |= {where.scripts / name: text for name, text in support.items()}
    for name in support:
        (where.scripts / name).parent.mkdir(parents=True, exist_ok=True)
    files |= {where.script(name).with_suffix(".runs"): text for name, text in run_lists(sweep).items()}
    configs = run_configs(sweep)
    for name, text in zip(configs, dump_runs(configs.values()), strict=True):
        where.run(name).mkdir()
        files[where.run(name) / contract.RUN_YAML] = text
    write_new(files)
    make_executable(where, support)
    write_json(where.provenance, provenance(command, to_builtins(sweep.plan.cluster)))
    write_atomic(where.sweep_yaml, dump(to_yaml(sweep.id, sweep.plan) | {"begun_in": str(where.root)}))
    (where.root / UNFINISHED).unlink()


def run_lists(sweep: Sweep) -> dict[str, str]:
    """The text of each list of runs that a script reads, by group: a line for each array index."""
    plan = sweep.plan
    lists = {group.name: "".join(f"{run.name}\n" for run in group.runs) for group in plan.groups}
    if plan.allocation is not None:
        places = {run.name: (group.name, i) for group in plan.groups for i, run in enumerate(group.runs)}
        lines = ("{} {} {}\n".format(run.name, *places[run.name]) for run in plan.allocation.runs)
        lists[plan.allocation.name] = "".join(lines)
    return lists


def make_executable(where: SweepDir, support: Iterable[str]) -> None:
    """torchrun executes rank.sh in place of its interpreter."""
    for name in support:
        (where.scripts / name).chmod(0o755 if name == render.RANK_SCRIPT else 0o644)


def check_free(folder: Path) -> None:
    """Raises InputError if a new sweep must not be written to `folder`."""
    name = shown(folder)
    if SweepDir(folder).sweep_yaml.exists():
        raise InputError(
            f"--out {name}: holds a sweep already; `hpcjobs resume {shlex.quote(name)}` continues it, "
            "or give another folder"
        )
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"--out {name}: exists and is not a folder")
    if any(folder.iterdir()):
        writer = read_json(folder / UNFINISHED)
        # The mark alone does not allow deleting files that hpcjobs did not write.
        foreign = [path.name for path in folder.iterdir() if path.name not in _OURS and not path.name.startswith(".")]
        if writer is None and all(path.name.startswith(f".{UNFINISHED}.") for path in folder.iterdir()):
            return  # the writer was killed between writing the mark and renaming it to UNFINISHED
        if writer is None or foreign:
            raise InputError(f"--out {name}: exists and is not an empty folder")
        if writer.get("host") != socket.gethostname() or alive(writer):
            raise InputError(f"--out {name}: process {writer.get('pid')} on {writer.get('host')} is writing a sweep")


def begin(folder: Path) -> None:
    """Make the folder of a new sweep, and mark it as unfinished; remove first what a killed `sweep` left there.

    Raises InputError if it cannot be made, or its file system makes no hard links, with which a job claims its run.
    """
    check_free(folder)
    try:
        if folder.exists():
            for path in folder.iterdir():
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / UNFINISHED, process())
        probe = beside(folder / UNFINISHED)
        try:
            claim_link(probe, "")
            probe.unlink()
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    except OSError as error:
        raise InputError(f"--out {shown(folder)}: cannot be used: {error.strerror}; give another folder") from None
