"""A sweep on disk: layout, journal, lock. The files are the only store."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import secrets
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import yaml

from hpcjobs import contract
from hpcjobs.errors import InputError
from hpcjobs.files import read_json
from hpcjobs.lock import held
from hpcjobs.records import ExitRecord

_ATTEMPT = re.compile(r"^a(\d{3,})$")


def new_sweep_id() -> str:
    """A short id that no other sweep has: the second it was made, and four random letters."""
    letters = "".join(secrets.choice("abcdefghjkmnpqrstuvwxyz23456789") for _ in range(4))
    return time.strftime("%y%m%d%H%M%S") + letters


@dataclasses.dataclass(frozen=True)
class SweepDir:
    """Paths of one sweep folder. `root` is absolute."""

    root: Path

    @property
    def sweep_yaml(self) -> Path:
        return self.root / "sweep.yaml"

    @property
    def provenance(self) -> Path:
        return self.root / "provenance.json"

    @property
    def journal(self) -> Path:
        return self.root / "journal.jsonl"

    @property
    def lock_file(self) -> Path:
        return self.root / "lock"

    @property
    def scripts(self) -> Path:
        return self.root / "scripts"

    @property
    def slurm(self) -> Path:
        return self.root / "slurm"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def report(self) -> Path:
        return self.root / "report"

    def script(self, group: str) -> Path:
        """The batch script of a group; `group.runs` stands beside it."""
        return self.scripts / f"{group}.sbatch"

    def run(self, name: str) -> Path:
        return self.runs / name

    def attempts(self, name: str) -> list[Path]:
        """Attempt folders of a run, oldest first."""
        found = []
        with contextlib.suppress(FileNotFoundError):
            found = [entry for entry in os.listdir(self.run(name)) if _ATTEMPT.match(entry)]
        return [self.run(name) / entry for entry in sorted(found, key=lambda entry: int(entry[1:]))]


def open_sweep(folder: Path) -> SweepDir:
    """The sweep in `folder`. Raises InputError where there is none."""
    sweep = SweepDir(folder.resolve())
    if not sweep.sweep_yaml.is_file():
        raise InputError(f"{folder}: no sweep here (no sweep.yaml); give the folder that `hpcjobs sweep` printed")
    return sweep


def read_sweep_yaml(path: Path) -> dict[str, Any]:
    """The resolved sweep. Raises InputError where the file cannot be read or is no sweep."""
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict) or data.get("version") != 1 or not isinstance(data.get("sweep"), str):
        raise InputError(f"{path}: not a sweep.yaml of this hpcjobs")
    return data


def is_free(folder: Path) -> None:
    """Raises InputError where a new sweep must not be written to `folder`."""
    if SweepDir(folder).sweep_yaml.exists():
        raise InputError(
            f"--out {folder}: there is a sweep already; give another folder, or see `hpcjobs status {folder}`"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"--out {folder}: exists and is no empty folder")


# --- journal -------------------------------------------------------------------------------------


def append(sweep: SweepDir, event: str, **fields: object) -> None:
    """Add one line to the journal, on disk before this returns. Only the lock's holder may."""
    line = json.dumps({"time": round(time.time(), 3), "event": event, **fields}, ensure_ascii=False) + "\n"
    descriptor = os.open(sweep.journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(descriptor, line.encode("utf-8"))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_journal(sweep: SweepDir) -> list[dict[str, Any]]:
    """All whole lines of the journal; a last line cut short by a crash is left out."""
    try:
        text = sweep.journal.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    events = []
    for line in text.splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            entry = json.loads(line)
            if isinstance(entry, dict) and "event" in entry:
                events.append(entry)
    return events


# --- lock ----------------------------------------------------------------------------------------


def locked(sweep: SweepDir) -> AbstractContextManager[None]:
    """Hold the sweep's lock. Raises lock.Locked, naming the holder."""
    return held(sweep.lock_file, sweep.root)


# --- evidence of an attempt ----------------------------------------------------------------------


def read_exit(attempt: Path) -> ExitRecord | None:
    """The attempt's exit.json, or None where there is none."""
    data = read_json(attempt / contract.EXIT_JSON)
    if data is None:
        return None
    try:
        return ExitRecord(**{field.name: data[field.name] for field in dataclasses.fields(ExitRecord)})
    except KeyError:
        return None


def read_aborts(attempt: Path) -> list[dict[str, Any]]:
    """What each rank that gave up left behind, the earliest first."""
    found = [read_json(path) for path in sorted(attempt.glob("abort-r*.json"))]
    return sorted((abort for abort in found if abort), key=lambda abort: float(abort.get("time", 0)))
