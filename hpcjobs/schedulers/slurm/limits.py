"""The limits of a Slurm site, and which limit a refusal is about. Pure functions."""

from __future__ import annotations

import re

from hpcjobs.base.times import seconds
from hpcjobs.schedulers.slurm.parse import local_time

_CONFIG = re.compile(r"^(MaxArraySize|MaxJobCount)\s*=\s*(\d+)", re.MULTILINE)
_VERSION = re.compile(r"^SLURM_VERSION\s*=\s*(\d+)\.(\d+)", re.MULTILINE)

# Patterns of sbatch's messages, and the limit that each is about (slurm_strerror, and the reasons of squeue(1), of
# 22.05). The first pattern that matches counts.
_REFUSALS = {
    r"MaxSubmit|job submit limit": "the limit on a user's jobs (MaxSubmitJobs)",
    r"invalid job array|array specification": "the site's MaxArraySize",
    r"MaxJobCount|temporarily unable to accept job": "the site's MaxJobCount",
    r"time limit": "the time limit of the partition or QOS; the profile's `time` asks for more",
    r"node count": "the nodes that the partition or QOS allows one job",
    r"partition": "the profile's `partition`; `sinfo -s` lists all",
    r"account": "the profile's `account`; `sacctmgr show assoc user=$USER` lists yours",
    r"\bqos\b": "the profile's `qos`; `sacctmgr show qos` lists all",
    r"reservation": "the profile's `reservation`; `scontrol show reservation` lists all",
}


def config(text: str) -> tuple[int | None, int | None]:
    """(most tasks of one array, most jobs of the site) from `scontrol show config`. None where no limit is shown.

    MaxArraySize is one more than the largest index (slurm.conf(5)). Indices start at 0, so it is also the largest
    number of tasks.
    """
    found = {name: int(value) for name, value in _CONFIG.findall(text)}
    return found.get("MaxArraySize"), found.get("MaxJobCount")


def version(text: str) -> tuple[int, int] | None:
    """Slurm's version, such as (22, 5), from `scontrol show config`. None if it is not shown."""
    found = _VERSION.search(text)
    return (int(found[1]), int(found[2])) if found else None


def mpi_plugins(text: str) -> tuple[str, ...]:
    """The plugins that `srun --mpi=list` names, each on its own line; the last line may have more, behind a colon.

    Empty if there is no list. 20.11 writes `srun: ` before each of them.
    """
    _, heading, listed = text.partition("types are...")
    found = []
    for line in listed.splitlines() if heading else ():
        _, colon, after = line.strip().removeprefix("srun: ").rpartition(":")
        found += re.findall(r"[\w.-]+", after) if colon or " " not in after else []
    return tuple(dict.fromkeys(found))


def partition(text: str, name: str | None) -> tuple[str, int | None, int | None, bool]:
    """(name, most nodes of a job, its most seconds, whether up) of the partition `name`, or the default one if None.

    `text` is the output of `scontrol -o show partition`. A limit that it does not show is None.
    """
    for line in text.splitlines():
        words = dict(word.split("=", 1) for word in line.split() if "=" in word)
        chosen = words.get("PartitionName") == name if name else words.get("Default") == "YES"
        if chosen:
            nodes = [int(words[key]) for key in ("MaxNodes", "TotalNodes") if words.get(key, "").isdigit()]
            up = words.get("State", "UP") == "UP"
            return words["PartitionName"], min(nodes, default=None), seconds(words.get("MaxTime", "")), up
    return name or "", None, None, True


def reserved_s(text: str, now: float) -> float | None:
    """Seconds until a reservation ends, from `scontrol --oneliner show reservation NAME`; None if it is not shown."""
    found = re.search(r"\bEndTime=(\S+)", text)
    end = local_time(found[1]) if found else None
    return None if end is None else end - now


def submit(of_user: str, of_qos: str, qos: str | None) -> int | None:
    """How many jobs one user may have, pending and running. None if sacctmgr's tables show no limit.

    `of_user` has lines `MAXSUBMIT|DEFAULT QOS|QOS,QOS`, `of_qos` lines `QOS|MAXSUBMIT`. If `qos` is None, the user's
    default QOS counts, or the only one.
    """
    numbers: list[int] = []
    chosen = {qos} if qos else set()
    for line in of_user.splitlines():
        words = [*line.split("|"), "", "", ""][:3]
        numbers += [int(words[0])] if words[0].isdigit() else []
        allowed = words[2].split(",")
        if not qos:
            chosen |= {words[1]} if words[1] else set(allowed) if len(allowed) == 1 else set()
    for line in of_qos.splitlines():
        name, _, number = line.partition("|")
        numbers += [int(number)] if name in chosen and number.isdigit() else []
    return min(numbers, default=None)


def which(refusal: str) -> str:
    """The limit, or the key of the profile, that sbatch's message is about. Empty if the message names none."""
    found = (meaning for words, meaning in _REFUSALS.items() if re.search(words, refusal, re.IGNORECASE))
    return next(found, "")
