"""Reads the `#SBATCH` lines that the local scheduler obeys: time limit, signal, requeue. It ignores all others."""

from __future__ import annotations

import dataclasses
import re
import shlex
import signal

from hpcjobs.base import times
from hpcjobs.base.errors import SubmitRefused

# sbatch(1), --signal: the default time between the signal and the limit, in seconds.
_SIGNAL_S = 60
_SIGNAL = re.compile(r"(?:(?P<who>[RB]+):)?(?:SIG)?(?P<name>\w+)(?:@(?P<seconds>\d+))?", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Directives:
    """What a script asks for.

    `time_s`: the time limit in seconds, None for no limit. `signal` is sent to the batch script `signal_s` seconds
    before the limit, None for no signal. `requeue`: whether a task may start again.
    """

    time_s: int | None = None
    signal: int | None = None
    signal_s: int = 0
    requeue: bool = False


def read(text: str) -> Directives:
    """The directives of a script. If an option is given twice, the last one counts. Raises SubmitRefused."""
    found = Directives()
    for option, value in _options(text):
        if option in ("time", "t"):
            found = dataclasses.replace(found, time_s=time_limit(value))
        elif option == "signal":
            number, seconds = _signal(value)
            found = dataclasses.replace(found, signal=number, signal_s=seconds)
        elif option in ("requeue", "no-requeue"):
            found = dataclasses.replace(found, requeue=option == "requeue")
    return found


def time_limit(text: str) -> int | None:
    """The seconds of a time limit in one of Slurm's forms. None for 0, UNLIMITED and INFINITE: no limit.

    Raises SubmitRefused for any other text.
    """
    if text.upper() in ("UNLIMITED", "INFINITE"):
        return None
    found = times.seconds(text)
    if found is None:
        raise SubmitRefused(f"#SBATCH --time={text}: not one of Slurm's forms, such as 90 (minutes) or 1-12:00:00")
    return found or None


def _signal(text: str) -> tuple[int | None, int]:
    """(signal, seconds before the limit) of `[B:]SIGNAL[@SECONDS]`. Without B it does not go to the batch script."""
    match = _SIGNAL.fullmatch(text)
    name = match["name"].upper() if match else ""
    known = {each.name.removeprefix("SIG"): each.value for each in signal.Signals}
    number = int(name) if name.isdigit() else known.get(name)
    if match is None or number not in known.values():
        raise SubmitRefused(f"#SBATCH --signal={text}: not of the form B:USR1@120")
    if "B" not in (match["who"] or ""):
        return None, 0
    return number, int(match["seconds"] or _SIGNAL_S)


def _options(text: str) -> list[tuple[str, str]]:
    """(option, value) of each `#SBATCH` word. Like sbatch, stops at the first command of the script."""
    found = []
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            break
        if not line.startswith("#SBATCH"):
            continue
        try:
            words = shlex.split(line.removeprefix("#SBATCH"), comments=True)
        except ValueError as error:
            raise SubmitRefused(f"{line}: {error}") from None
        while words:
            word = words.pop(0)
            if word.startswith("--"):
                option, equals, value = word[2:].partition("=")
            else:
                option, equals, value = word[1:2], word[2:], word[2:]
            # The value of an option may be the next word.
            if not equals and words and not words[0].startswith("-"):
                value = words.pop(0)
            found.append((option, value))
    return found
