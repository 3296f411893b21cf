"""A sweep on disk: where each file lies, and how it is read. The files are the only store."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import secrets
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from hpcjobs.base import contract
from hpcjobs.base.errors import InputError
from hpcjobs.base.files import claim_link, open_plain, read_json
from hpcjobs.base.records import ExitRecord, RankRecord

# 2: an experiment names its trainer. 1, of version 0.1: it does not.
SWEEP_YAML_VERSION = 2

_ATTEMPT = re.compile(r"^a(\d{3,})$")
_CLAIM = re.compile(r"^claim-s(\d{3,})$")


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
    def node_energy(self) -> Path:
        """What Slurm says of the energy of the jobs' nodes. Keys: plugin (empty: none measures it), joules by task."""
        return self.root / "node-energy.json"

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

    def claim(self, run: str, submission: int) -> Path:
        """The claim of a run's submission: a job makes it with link() before anything else, or must not run the run."""
        return self.run(run) / f"claim-s{submission:03d}"

    def entries(self, name: str) -> list[str]:
        """The names in a run's folder; [] if it cannot be read."""
        try:
            return os.listdir(self.run(name))
        except OSError:
            return []

    def attempts(self, name: str, entries: Iterable[str] | None = None) -> list[Path]:
        """Attempt folders of a run, oldest first. `entries`: the names in the run's folder, if the caller has them."""
        found = [entry for entry in (self.entries(name) if entries is None else entries) if _ATTEMPT.match(entry)]
        if not found:
            return []
        return [self.run(name) / entry for entry in sorted(found, key=lambda entry: int(entry[1:]))]


def revoke_claim(sweep: SweepDir, run: str, submission: int, by: str) -> bool:
    """Take a submission's claim of a run, so that a job of it that starts later does not run the run.

    Returns False if the claim is taken already. `by` says who revoked it, for people who read the file.
    """
    claim = json.dumps({"job": "", "submission": submission, "by": by}) + "\n"
    return claim_link(sweep.claim(run, submission), claim)


def newest_claim(sweep: SweepDir, run: str, entries: Iterable[str]) -> tuple[str, int]:
    """(task, submission) of the newest claim among a run's `entries`.

    The task is empty if that claim is revoked, or if there is no claim.
    """
    numbers = [int(match[1]) for name in entries if (match := _CLAIM.match(name))]
    if not numbers:
        return "", 0
    claim = read_json(sweep.claim(run, max(numbers))) or {}
    return str(claim.get("job", "")), max(numbers)


def is_revoked(sweep: SweepDir, run: str, submission: int) -> bool:
    """Whether the claim is revoked: no job of this submission runs the run any more."""
    return (read_json(sweep.claim(run, submission)) or {}).get("job") == ""


def open_sweep(folder: Path) -> SweepDir:
    """The sweep in `folder`. Raises InputError if there is none."""
    sweep = SweepDir(folder.resolve())
    if not sweep.sweep_yaml.is_file():
        raise InputError(f"{folder}: no sweep here (no sweep.yaml); give the folder that `hpcjobs sweep` printed")
    return sweep


def read_sweep_yaml(path: Path) -> dict[str, Any]:
    """The content of a sweep.yaml. Raises InputError if the file cannot be read or does not hold a sweep."""
    try:
        with open_plain(path, follow=True) as file:
            text = file.read().decode("utf-8")
        data = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict) or data.get("version") not in (1, 2) or not isinstance(data.get("sweep"), str):
        raise InputError(f"{path}: not a sweep.yaml of this hpcjobs")
    return data


# --- journal -------------------------------------------------------------------------------------


def read_journal(sweep: SweepDir) -> list[dict[str, Any]]:
    """All whole lines of the journal; a last line cut short by a crash is left out."""
    try:
        with open_plain(sweep.journal) as file:
            text = file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return []
    events = []
    for line in text.split("\n"):  # not splitlines: Slurm's messages in it may hold other line separators
        with contextlib.suppress(json.JSONDecodeError):
            entry = json.loads(line)
            if isinstance(entry, dict) and "event" in entry:
                events.append(entry)
    return events


# --- evidence of an attempt ----------------------------------------------------------------------


def read_exit(attempt: Path) -> ExitRecord | None:
    """The attempt's exit.json, or None if it has none."""
    data = read_json(attempt / contract.EXIT_JSON)
    if data is None:
        return None
    try:
        return ExitRecord(**{field.name: data[field.name] for field in dataclasses.fields(ExitRecord)})
    except KeyError:
        return None


def read_aborts(attempt: Path) -> list[dict[str, Any]]:
    """The abort-rNNN.json of each rank that gave up, the earliest first."""
    found = [read_json(path) for path in sorted(attempt.glob("abort-r*.json"))]
    return sorted((abort for abort in found if abort), key=lambda abort: float(abort.get("time", 0)))


def read_ranks(attempt: Path) -> list[RankRecord]:
    """The rank-rNNN.json of each rank that ended, the earliest first; damaged ones are left out."""
    found = []
    for path in attempt.glob("rank-r*.json"):
        data = read_json(path) or {}
        with contextlib.suppress(KeyError, TypeError, ValueError):
            numbers = (int(data["rank"]), str(data["host"]), int(data["rc"]), int(data["signal"]), float(data["end"]))
            found.append(RankRecord(*numbers))
    return sorted(found, key=lambda record: record.end)
