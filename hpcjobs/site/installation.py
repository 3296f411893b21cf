"""`hpcjobs --version --json`: what a bug report needs to know about an installation."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from hpcjobs.base.provenance import code_state, redacted
from hpcjobs.base.version import __version__
from hpcjobs.config import profiles

_PACKAGE = "hpcjobs"
# The extra of the compute half, in pyproject.toml.
_COMPUTE = "train"
# How long, in s, a program may take to print its version.
_TIMEOUT_S = 5.0

Known = TypeVar("Known")


def about() -> dict[str, Any]:
    """What is installed here and what it runs on, ready for JSON; None for what cannot be found out. Never fails.

    Versions come from the packages' metadata: no package is imported. SHELL is the only environment variable included.
    `errors` says, by program, why an installed program printed no version; {} if each of them did.
    """
    with ThreadPoolExecutor() as pool:
        found = {program: pool.submit(_version_of, program, "--version") for program in ("sbatch", "mpirun")}
        return {
            "hpcjobs": __version__,
            "path": str(Path(__file__).parents[1]),
            "git": _or_none(_commit),
            "python": platform.python_version(),
            "executable": sys.executable or None,
            "platform": _or_none(platform.platform),
            "shell": os.environ.get("SHELL"),
            "control": _or_none(lambda: _versions(compute=False)),
            "compute": _or_none(lambda: _versions(compute=True)),
            "slurm": _or_none(lambda: re.sub(r"^slurm(-\w+)? ", "", found["sbatch"].result()[0] or "") or None),
            "mpirun": _or_none(lambda: found["mpirun"].result()[0]),
            "default_cluster": _or_none(profiles.default_cluster),
            "config_files": _or_none(lambda: [str(path) for path in profiles.config_files()]),
            "errors": {program: error for program, each in found.items() if (error := each.result()[1])},
        }


def _or_none(find: Callable[[], Known | None]) -> Known | None:
    try:
        return find()
    except Exception:  # the installation may be broken in any way: that is why there is a bug report
        return None


def _commit() -> dict[str, Any] | None:
    state = code_state()
    return {"commit": state["commit"], "clean": state["clean"]} if state else None


def _versions(compute: bool) -> dict[str, str | None]:
    """The versions of the packages that one half requires, None for one that is not installed."""
    return {name: _or_none(lambda name=name: metadata.version(name)) for name in _required(compute)}  # type: ignore[misc]


def _required(compute: bool) -> Iterator[str]:
    for line in metadata.requires(_PACKAGE) or ():
        name, marker = re.match(r"[\w.-]+", line), line.partition(";")[2]
        if name and bool(re.search(rf"extra\s*==\s*['\"]{_COMPUTE}['\"]", marker)) == compute:
            yield name[0]


def _version_of(*command: str) -> tuple[str | None, str | None]:
    """(first line that the command prints, None), or (None, why there is none); (None, None) if it is not installed."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S
        )
    except OSError as error:  # "no such file" may also mean the interpreter of a script
        return None, f"cannot be run: {error.strerror}" if shutil.which(command[0]) else None
    except subprocess.TimeoutExpired:
        return None, f"no answer in {_TIMEOUT_S:g} s"
    if done.returncode == 0 and (line := _first_line(done.stdout)):
        return line, None
    end = f"exit {done.returncode}" if done.returncode >= 0 else f"signal {-done.returncode}"
    return None, redacted(": ".join(filter(None, (end, _first_line(done.stderr) or _first_line(done.stdout)))))


def _first_line(text: str) -> str | None:
    return next((line.strip() for line in text.splitlines() if line.strip()), None)
