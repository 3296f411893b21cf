"""Where a sweep comes from: versions, git state, command, profile, user, time."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpcjobs import __version__


def provenance(command: list[str], profile: Mapping[str, Any]) -> dict[str, Any]:
    """Where a sweep comes from: versions, git state of the working folder, command, profile, user, time."""
    return {
        "hpcjobs": __version__,
        "python": platform.python_version(),
        "host": socket.gethostname(),
        "user": os.environ.get("USER") or os.environ.get("LOGNAME") or f"uid{os.getuid()}",
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": command,
        "cwd": os.getcwd(),
        "git": _git_state(Path.cwd()),
        "cluster": dict(profile),
    }


def _git_state(folder: Path) -> dict[str, Any] | None:
    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "clean": git("status", "--porcelain") == ""}
    except (OSError, subprocess.SubprocessError):
        return None
