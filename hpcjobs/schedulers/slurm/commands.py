"""Runs Slurm's commands: a clean environment, a time limit, and what their errors mean."""

from __future__ import annotations

import os
import re
import subprocess

from hpcjobs.base.errors import HpcjobsError, SchedulerUnreachable

TIMEOUT_S = 60.0

# Variables that change what a command does or prints: a script's own directives must win, and a table
# must have the columns that were asked for. Where Slurm is (SLURM_CONF) is the user's to say.
_PREFIXES = ("SBATCH_", "SLURM_", "SQUEUE_", "SACCT_", "SCANCEL_", "SCONTROL_")
_KEPT = {"SLURM_CONF"}

# What the commands print when nobody answered: then nothing is known.
_AWAY = (
    "unable to contact slurm controller",
    "unable to contact slurmdbd",
    "could not establish a configuration source",
    "unable to establish",
    "connection refused",
    "connection timed out",
    "socket timed out",
    "communication connection failure",
    "communication shutdown failure",
    "message send failure",
    "message receive failure",
    "header lengths are longer than data received",
    "connection reset by peer",
    "broken pipe",
    "no route to host",
    "network is unreachable",
    "zero bytes were transmitted",
    "slurm backup controller in standby",
    "authentication plugin",
    "protocol authentication error",
    "problem talking to the database",
    "resource temporarily unavailable",
)


# An answer that ends like an absence: the controller has as many jobs as it may (MaxJobCount).
_FULL = re.compile(r"temporarily unable to accept job", re.IGNORECASE)


class Refused(HpcjobsError):
    """Slurm answered, and said no; the text is what it said."""


class NotHere(SchedulerUnreachable):
    """The command is not on this machine."""


def environment() -> dict[str, str]:
    """The user's environment without what would change a Slurm command's meaning."""
    return {key: value for key, value in os.environ.items() if key in _KEPT or not key.startswith(_PREFIXES)}


def run(*command: str, both: bool = False, given: str = "") -> str:
    """Standard output of a command (`both`: standard error behind it), which reads `given`.

    Raises Refused where it failed, SchedulerUnreachable where it failed because nobody answered in
    time or it was killed before it could tell the answer, NotHere where there is no such command.
    """
    try:
        done = subprocess.run(
            command,
            input=given,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            env=environment(),
        )
    except FileNotFoundError:
        raise NotHere(f"{command[0]} is not on PATH: is this a login node of a Slurm cluster?") from None
    except subprocess.TimeoutExpired:
        raise SchedulerUnreachable(f"{command[0]} gave no answer in {TIMEOUT_S:.0f} s") from None
    if done.returncode < 0 or 128 < done.returncode < 193:  # above 128: that of a wrapper's child
        raise SchedulerUnreachable(f"{command[0]} was killed by signal {abs(done.returncode) % 128}")
    if done.returncode:
        said = _one_line(done.stderr) or _one_line(done.stdout) or f"{command[0]} ended with {done.returncode}"
        if is_unreachable(said):
            raise SchedulerUnreachable(f"Slurm does not answer: {said}")
        raise Refused(said)
    return done.stdout + done.stderr if both else done.stdout


def is_unreachable(message: str) -> bool:
    """Whether the error message of a Slurm command says that no daemon answered, so that nothing is known."""
    return not _FULL.search(message) and any(words in message.lower() for words in _AWAY)


def _one_line(text: str) -> str:
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())
