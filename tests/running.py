"""Runs `hpcjobs` as a user does, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# In seconds, for what takes a few: such a limit ends a wait for what never comes, and a busy machine is no failure.
PATIENCE_S = 300.0
# A command may train, too. Below pytest's own limit, so that its output is shown.
COMMAND_S = 560.0


def hpcjobs(
    *words: str, cwd: Path, code: int | None = 0, env: Mapping[str, str] | None = None, timeout: float = COMMAND_S
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


def until(ready: Callable[[], object], seconds: float = PATIENCE_S) -> None:
    """Wait for something that must come."""
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.5)
