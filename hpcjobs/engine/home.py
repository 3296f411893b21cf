"""Where a study was begun: one that was moved goes on from its new place, a copy is only read."""

from __future__ import annotations

import shlex
from pathlib import Path

from hpcjobs.base import contract, sweepdir
from hpcjobs.base.contract import dump_runs
from hpcjobs.base.errors import InputError
from hpcjobs.base.files import shown, write_atomic
from hpcjobs.base.records import Tell
from hpcjobs.base.sweepdir import SweepDir
from hpcjobs.engine.folder import make_executable, run_lists, scripts
from hpcjobs.engine.journal import Journal
from hpcjobs.engine.sweep import Sweep, run_configs
from hpcjobs.jobs import render


def check_original(sweep: Sweep) -> Path | None:
    """The place that the study was moved away from, or None if it is where it was begun, by whatever name.

    Raises InputError if it is a copy: the study's jobs bear its id, and work in the place where it was begun. Also if
    the journal is gone although jobs have claimed runs: what is submitted is not known then.
    """
    where = sweep.where
    events = sweepdir.read_journal(where)
    if not where.journal.exists() and (claimed := next(where.runs.glob("*/claim-s*"), None)) is not None:
        raise InputError(f"{shown(where.journal)} is missing, and a job has made {shown(claimed)}: {_new_one(where)}")
    begun = sweepdir.read_sweep_yaml(where.sweep_yaml).get("begun_in")
    places = [event["to"] for event in events if event["event"] == "moved" and isinstance(event.get("to"), str)]
    home = places[-1] if places else begun
    # A study of an older version does not say where it was begun.
    if not isinstance(home, str) or home == str(where.root):
        return None
    try:
        if Path(home).samefile(where.root):
            return None
        there = sweepdir.read_sweep_yaml(SweepDir(Path(home)).sweep_yaml)["sweep"] if _holds_study(Path(home)) else None
    except (FileNotFoundError, NotADirectoryError):
        return Path(home)
    except (OSError, ValueError, InputError):
        there = sweep.id  # what cannot be looked at may be the original
    if there != sweep.id:
        return Path(home)
    raise InputError(f"{shown(where.root)} is a copy of the study in {home}, whose jobs are not ended or submitted "
                     f"from here: work there, or {_new_one(where)}")  # fmt: skip


def _holds_study(home: Path) -> bool:
    try:
        SweepDir(home).sweep_yaml.lstat()
    except FileNotFoundError:
        return False
    return True


def _new_one(where: SweepDir) -> str:
    return f"make a new study of it: `hpcjobs sweep --from {shlex.quote(shown(where.root))}`"


def settle(sweep: Sweep, journal: Journal, old: Path | None, tell: Tell) -> None:
    """Make the folder fit for submissions: scripts with this place in them, and a folder of every run.

    `old` is what `check_original` returned. The journal gets its line last: whoever is killed before does it again.
    """
    configs = run_configs(sweep)
    lacking = [name for name in configs if not (sweep.where.run(name) / contract.RUN_YAML).is_file()]
    texts = scripts(sweep)
    support = render.support_files(sweep.plan.groups, sweep.plan.cluster)
    missing = [name for name in texts if not sweep.where.script(name).is_file()]
    missing += [name for name in support if not (sweep.where.scripts / name).is_file()]
    for folder in (sweep.where.scripts, sweep.where.slurm, sweep.where.runs):
        folder.mkdir(exist_ok=True)
    if old is not None or missing:
        _write_scripts(sweep, texts, support)
    wanted = list(configs) if old is not None else lacking
    for name, text in zip(wanted, dump_runs(configs[name] for name in wanted), strict=True):
        sweep.where.run(name).mkdir(exist_ok=True)
        write_atomic(sweep.where.run(name) / contract.RUN_YAML, text, durable=False)
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        tell(f"made anew, because it was missing: runs/{lacking[0]}/{contract.RUN_YAML}{more}")
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        tell(f"made anew, because scripts were missing: {missing[0]}{more}")
    if old is not None:
        journal.append("moved", **{"from": str(old), "to": str(sweep.where.root)})
        tell(f"the study was moved from {old}: its scripts are written anew")


def _write_scripts(sweep: Sweep, texts: dict[str, str], support: dict[str, str]) -> None:
    where = sweep.where
    files = {where.script(name): text for name, text in texts.items()}
    files |= {where.script(name).with_suffix(".runs"): text for name, text in run_lists(sweep).items()}
    files |= {where.scripts / name: text for name, text in support.items()}
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text, durable=False)
    make_executable(where, support)
