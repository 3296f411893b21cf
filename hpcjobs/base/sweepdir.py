"""A sweep on disk: where each file lies, and how it is read. The files are the only store."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from hpcjobs.base import contract
from hpcjobs.base.errors import InputError
from hpcjobs.base.files import claim_link, open_plain, parse_json, read_evidence, read_json
from hpcjobs.base.records import ExitRecord, RankRecord

# 2: an experiment names its trainer. 1, of version 0.1: it does not.
SWEEP_YAML_VERSION = 2

_ATTEMPT = re.compile(r"^a(\d{3,9})$", re.ASCII)
_CLAIM = re.compile(r"^claim-s(\d{3,9})$", re.ASCII)


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

    def attempts(self, name: str, entries: Iterable[str] | None = None) -> list[Path]:
        """Attempt folders of a run, oldest first; [] if its folder cannot be read.

        `entries`: the names in the run's folder, if the caller has them.
        """
        if entries is None:
            try:
                entries = os.listdir(self.run(name))
            except OSError:
                return []
        found = [entry for entry in entries if _ATTEMPT.match(entry)]
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
    return read_claim(sweep.claim(run, max(numbers))).get("job", ""), max(numbers)


def is_revoked(sweep: SweepDir, run: str, submission: int) -> bool:
    """Whether the claim is revoked: no job of this submission runs the run any more. Raises OSError."""
    return (read_evidence(sweep.claim(run, submission)) or {}).get("job") == ""


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
    except (OSError, ValueError, OverflowError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read: {' '.join(str(error).split())[:400]}") from None
    if not isinstance(data, dict) or data.get("version") not in (1, 2) or not isinstance(data.get("sweep"), str):
        raise InputError(f"{path}: not a sweep.yaml of this hpcjobs")
    return data


# --- journal -------------------------------------------------------------------------------------


def read_journal(sweep: SweepDir) -> list[dict[str, Any]]:
    """All whole events of the journal, oldest first. Raises InputError if there is one that cannot be read."""
    return read_events(sweep)[0]


def read_events(sweep: SweepDir) -> tuple[list[dict[str, Any]], list[str]]:
    """(all whole events of the journal, what is wrong with its other lines); raises InputError as `read_journal`.

    A last line that a crash cut short is left out in silence.
    """
    try:
        with open_plain(sweep.journal) as file:
            text = file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return [], []
    except OSError as error:
        raise InputError(f"{sweep.journal}: cannot be read: {error.strerror}") from None
    events, wrong = [], []
    *lines, last = text.split("\n")  # not splitlines: Slurm's messages in it may hold other line separators
    for number, line in enumerate((*lines, last), 1):
        try:
            entry = parse_json(line)
            problem = _wrong_event(entry)
        except ValueError:
            problem = "it is not JSON"
        if not problem:
            events.append(entry)
        elif line.strip() and number <= len(lines):
            wrong.append(f"{sweep.journal}: line {number} is left out: {problem}")
    return events, wrong


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _is_words(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


# What a field of an event must be, if it is there; and the fields that an event must have.
_FIELDS: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "time": (lambda value: is_time(value), "a time in seconds since the epoch"),
    "group": (lambda value: isinstance(value, str), "a text"),
    "submission": (_is_count, "a whole number"),
    "indices": (lambda value: isinstance(value, list) and all(map(_is_count, value)), "a list of whole numbers"),
    "job": (lambda value: isinstance(value, str), "a text"),
    "runs": (_is_words, "a list of texts"),
    "after": (_is_words, "a list of texts"),
    "exclude": (_is_words, "a list of texts"),
    "retries": (
        lambda value: (
            isinstance(value, dict)
            and all(key.isascii() and key.isdigit() and len(key) < 10 for key in value)
            and _is_words(list(value.values()))
        ),
        "texts by whole numbers",
    ),
}
_NEEDED: Mapping[str, tuple[str, ...]] = {
    "submitting": ("group", "submission", "indices", "time"),
    "submitted": ("group", "submission", "indices", "job", "time"),
    "refused": ("group", "submission", "indices"),
    "cancel": ("runs",),
}


def _wrong_event(entry: object) -> str:
    """What is wrong with a line of the journal, or an empty text."""
    if not isinstance(entry, dict) or not isinstance(entry.get("event"), str):
        return "it is not an event"
    for name in _NEEDED.get(entry["event"], ()):
        if name not in entry:
            return f"{entry['event']} has no {name}"
    for name, (is_right, expected) in _FIELDS.items():
        if name in entry and not is_right(entry[name]):
            return f"{name} is {str(entry[name])[:40]!r}: expected {expected}"
    return ""


# --- evidence of an attempt ----------------------------------------------------------------------


def read_exit(attempt: Path) -> ExitRecord | None:
    """The attempt's exit.json, or None if it has none. Raises OSError if it has one that cannot be read now."""
    data = read_evidence(attempt / contract.EXIT_JSON)
    if data is None:
        return None
    try:
        data = {"suspended_s": 0, **data}
        found = ExitRecord(**{field.name: data[field.name] for field in dataclasses.fields(ExitRecord)})
    except KeyError:
        return None
    texts = (found.run, found.attempt, found.job, found.nodelist)
    is_right = (
        all(isinstance(text, str) for text in texts)
        and all(isinstance(code, int) and abs(code) < 2**31 for code in (found.rc, found.signal))
        and is_time(found.start)
        and is_time(found.end)
        and _is_count(found.suspended_s)
    )
    return found if is_right else None


def read_claim(path: Path) -> dict[str, Any]:
    """The keys of a claim that are right: job, nodelist (texts), submission, restart (whole), start (s, epoch).

    Raises OSError if it is there and cannot be read now.
    """
    found = read_evidence(path) or {}
    rules: Mapping[str, Callable[[object], bool]] = {
        **dict.fromkeys(("job", "nodelist"), lambda value: isinstance(value, str)),
        **dict.fromkeys(("submission", "restart"), _is_count),
        "start": is_time,
    }
    return {key: found[key] for key, is_right in rules.items() if key in found and is_right(found[key])}


def is_time(value: object) -> bool:
    """Whether a value may be a time in seconds since the epoch, up to the year 9999."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 253402300800


def read_aborts(attempt: Path) -> list[dict[str, Any]]:
    """The abort-rNNN.json of each rank that gave up, the earliest first; code and message are texts."""
    found = [read_json(path) or {} for path in sorted(attempt.glob("abort-r*.json"))]
    texts = ("code", "message", "host")
    whole = [abort for abort in found if all(isinstance(abort.get(key, ""), str) for key in texts)]
    return sorted(whole, key=lambda abort: abort["time"] if is_time(abort.get("time")) else 0)


def read_ranks(attempt: Path) -> list[RankRecord]:
    """The rank-rNNN.json of each rank that ended, the earliest first; damaged ones are left out."""
    found = []
    for path in attempt.glob("rank-r*.json"):
        data = read_json(path) or {}
        with contextlib.suppress(KeyError, TypeError, ValueError):
            numbers = (int(data["rank"]), str(data["host"]), int(data["rc"]), int(data["signal"]), float(data["end"]))
            found.append(RankRecord(*numbers))
    return sorted(found, key=lambda record: record.end)
