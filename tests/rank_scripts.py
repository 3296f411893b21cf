"""The shell parts of a job around any command, rendered alone, and what its processes leave."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jinja2

from hpcjobs.base.contract import EXIT_INTERRUPTED

HERE = Path(__file__).parent
TEMPLATES = HERE.parent / "templates"
FAKE_TORCHRUN = (sys.executable, str(HERE / "fake_torchrun.py"))
RANK_PROGRAM = str(HERE / "rank_program.py")
PARTS = ("functions", "tree", "meet", "watch", "outcome", "fork")
# `attempt_dir` and `host` as the job script sets them; the other variables are those of a claim, which nobody makes.
_HEAD = """#!/bin/bash
set -uo pipefail
attempt_dir={attempt} host='"n1"'
export sweep='' submission=1 job=1 restart=0 started=0
export HPCJOBS_ATTEMPT_DIR="$attempt_dir" HPCJOBS_RANK_WRAPPER={wrapper}
"""


def render(name: str) -> str:
    """A template's text as a job script includes it."""
    loader = jinja2.FileSystemLoader(TEMPLATES)
    environment = jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    return environment.get_template(f"{name}.sh.j2").render(interrupted=EXIT_INTERRUPTED)


def write_wrapper(folder: Path) -> Path:
    """rank.sh, executable, in that folder."""
    path = folder / "rank.sh"
    path.write_text(render("rank"))
    path.chmod(0o755)
    return path


def job_script(folder: Path, lines: str) -> Path:
    """A job script with all functions, and then these lines. Its attempt folder is FOLDER/attempt."""
    (folder / "attempt").mkdir(exist_ok=True)
    head = _HEAD.format(attempt=folder / "attempt", wrapper=write_wrapper(folder))
    path = folder / "job.sh"
    path.write_text("\n\n".join([head, *map(render, PARTS), lines]) + "\n")
    return path


def records(attempt: Path, form: str = "rank-r*.json") -> dict[int, dict[str, Any]]:
    """The records of ends by rank."""
    found = [json.loads(path.read_text()) for path in sorted(attempt.glob(form))]
    return {record["rank"]: record for record in found}


def first(attempt: Path) -> tuple[int, int]:
    """(rank, exit code) of the rank that failed first by itself."""
    failed = [record for record in records(attempt).values() if record["rc"] and record["signal"] != 15]
    earliest = min(failed, key=lambda record: float(record["end"]))
    return earliest["rank"], earliest["rc"]
