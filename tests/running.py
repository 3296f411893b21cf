"""Runs `hpcjobs` as a user does, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def hpcjobs(
    *words: str, cwd: Path, code: int | None = 0, env: Mapping[str, str] | None = None, timeout: float = 400
) -> subprocess.CompletedProcess[str]:
    """Run a command; its exit code must be `code` (None: any), and no traceback may show."""
    done = subprocess.run(
        [sys.executable, "-m", "hpcjobs", *words],
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert code in (None, done.returncode), f"exit {done.returncode}\n{done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr
    return done


def status(
    folder: str, *, cwd: Path, code: int | None = 0, env: Mapping[str, str] | None = None
) -> dict[str, dict[str, Any]]:
    """`hpcjobs status --json` by run."""
    printed = hpcjobs("status", folder, "--json", cwd=cwd, code=code, env=env).stdout
    return {run["run"]: run for run in json.loads(printed)}


def until(ready: Callable[[], object], seconds: float = 90.0) -> None:
    """Wait for something that must come."""
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.5)
