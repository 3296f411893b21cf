"""Runs Slurm's commands in a clean environment with a time limit, and sorts their errors: refused or unreachable."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Sequence

from hpcjobs.base.errors import HpcjobsError, SchedulerUnreachable

TIMEOUT_S = 60.0
# The database of accounting may be slow: a loaded slurmdbd answers sacct after minutes.
ACCOUNTING_TIMEOUT_S = 180.0

# Variables that change what a command does or prints are removed: a script's own directives must win, and a table must
# have the columns that were asked for. The user may still say where Slurm is (SLURM_CONF).
_PREFIXES = ("SBATCH_", "SLURM_", "SQUEUE_", "SACCT_", "SCANCEL_", "SCONTROL_")
_KEPT = {"SLURM_CONF"}

# Parts of the messages that the commands print if slurmctld or slurmdbd did not answer: then nothing is known.
_UNREACHABLE = (
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
    "rate limit exceeded",
)

# slurmctld answered that this user asks too often, and has done nothing. Where that is the limit of `rl_enable`, the
# commands of 24.11 wait and ask again by themselves, for ever, and say nothing of it; older ones, and any that meets a
# full queue of requests ("please retry later"), print it and end.
_TOO_OFTEN = re.compile(r"rate limit exceeded", re.IGNORECASE)
_PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0)

# slurmctld answered that it has MaxJobCount jobs. The rest of that message looks like one of the above.
_FULL = re.compile(r"temporarily unable to accept job", re.IGNORECASE)


class Refused(HpcjobsError):
    """Slurm answered, and refused. The text is its message."""


class NotHere(SchedulerUnreachable):
    """The command is not on this machine."""


def environment() -> dict[str, str]:
    """The user's environment without the variables that change what a Slurm command does or prints."""
    return {key: value for key, value in os.environ.items() if key in _KEPT or not key.startswith(_PREFIXES)}


def run(*command: str, both: bool = False, given: str = "", timeout_s: float = TIMEOUT_S) -> str:
    """Run a command that reads `given`. Returns its standard output, followed by its standard error if `both`.

    A command that Slurm refuses because this user asks too often is run again, after growing pauses. Raises NotHere if
    there is no such command, SchedulerUnreachable if Slurm did not answer in `timeout_s` seconds or the command was
    killed before it could print the answer, Refused if it failed for any other reason.
    """
    for pause in (*_PAUSES_S, None):
        done = _run_once(command, given, timeout_s)
        if pause is None or not done.returncode or not _TOO_OFTEN.search(done.stderr):
            break
        time.sleep(pause)
    if done.returncode < 0 or 128 < done.returncode < 193:  # above 128: a wrapper script passes a signal on
        raise SchedulerUnreachable(f"{command[0]} was killed by signal {abs(done.returncode) % 128}")
    if done.returncode:
        message = _one_line(done.stderr) or _one_line(done.stdout) or f"{command[0]} ended with {done.returncode}"
        if is_unreachable(message):
            raise SchedulerUnreachable(f"Slurm does not answer: {message}")
        raise Refused(message)
    return done.stdout + done.stderr if both else done.stdout


def _run_once(command: Sequence[str], given: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            input=given,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            env=environment(),
        )
    except FileNotFoundError:
        raise NotHere(f"{command[0]} is not on PATH: is this a login node of a Slurm cluster?") from None
    except subprocess.TimeoutExpired:
        raise SchedulerUnreachable(f"{command[0]} gave no answer in {timeout_s:.0f} s") from None


def is_unreachable(message: str) -> bool:
    """Whether this message of a Slurm command says that slurmctld or slurmdbd did not answer."""
    return not _FULL.search(message) and any(words in message.lower() for words in _UNREACHABLE)


def _one_line(text: str) -> str:
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())
