"""The findings of a check: limits, disk, and the answer of a compute node."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from hpcjobs.base.contract import CHECK_NODE, FAILURE, OK, WARNING, Finding
from hpcjobs.base.errors import SubmitRefused
from hpcjobs.base.files import open_plain, read_json
from hpcjobs.collect import causes
from hpcjobs.collect.failure_classes import FAILURE_CLASSES
from hpcjobs.plan.cost import Objection
from hpcjobs.site.check_job import CLOCK, CheckJob, last_line

# Clocks that differ by more than the first, in s, are a warning; by more than the second, elapsed times mean nothing.
_SKEW_S, _MUCH_SKEW_S = 2.0, 60.0


def fits(objections: Iterable[Objection], tests: Mapping[str, Callable[[], str]]) -> Iterator[Finding]:
    """What the site's limits and `sbatch --test-only` say of each script, by group."""
    for objection in objections:
        state = WARNING if objection.kind.passes else FAILURE
        yield Finding("limits", state, objection.text, objection.kind.remedy)
    for group, test in tests.items():
        try:
            yield Finding("sbatch", OK, f"{group}: could start {test()}")
        except SubmitRefused as error:
            yield Finding("sbatch", FAILURE, f"{group}: {error}", "change the key of the profile that Slurm objects to")


def disk(folder: Path, needed: int) -> Finding:
    """Whether `needed` bytes of checkpoints and logs fit into the folder's file system."""
    free = shutil.disk_usage(folder).free
    message = (
        f"{free / 1e9:.3g} GB free in {folder}, at most about {needed / 1e9:.3g} GB needed (quotas are not checked)"
    )
    if free > needed:
        return Finding("disk", OK, message)
    remedy = "give --out on a larger file system, fewer repeats, or keep no checkpoints"
    return Finding("disk", FAILURE, message, remedy)


def answers(job: CheckJob, folder: Path, name: str, token: str, here: str) -> Iterator[Finding]:
    """What the job found on its node, and what its start and end show. `here` is the name of this host."""
    if job.ended is None:
        why = f" ({job.reason})" if job.reason else ""
        message = f"job {job.id} did not end in time{why}: no compute node was checked"
        yield Finding("node", WARNING, message, "try again when nodes are free, or with a larger --patience-min")
        return
    if job.seen is None:
        message = (
            f"job {job.id} ended ({job.ended.word}), but this host does not see the files that it wrote into {folder}"
        )
        remedy = "give --out on a file system that compute nodes share and may write to"
        yield Finding("folder", FAILURE, message, remedy)
        return
    about = read_json(folder / CHECK_NODE) or {}
    if about.get("token") != token:
        why = last_line(folder, name)
        message = f"job {job.id} ended ({job.ended.word}) before it described its node: {why}"
        known = FAILURE_CLASSES.get(causes.class_of(why))
        advice = known.hint if known else "check python, modules and prologue of the profile"
        remedy = f"see {folder / name}.out; {advice}"
        yield Finding("node", FAILURE, message, remedy)
        return
    host = about["host"]
    yield Finding("folder", OK, f"{host} reads and writes {folder}")
    if host != here and (skew := clocks(folder, job)):
        yield skew
    for check, state, message, remedy in about["findings"]:
        yield Finding(check, state, f"{message} on {host}" if check != "data" else message, remedy)


def clocks(folder: Path, job: CheckJob) -> Finding | None:
    """How far the node's clock is from this host's, within the uncertainty of the wait; None if it is unknown."""
    try:
        with open_plain(folder / CLOCK) as file:
            theirs = float(file.read().split()[0])
    except (OSError, ValueError, IndexError):
        return None
    assert job.seen is not None
    least, most = theirs - job.seen, theirs - job.not_before
    if least <= 0 <= most:
        return Finding("clock", OK, f"the node's clock agrees with this host's within {max(-least, most):.1f} s")
    off = min(abs(least), abs(most))
    message = f"the node's clock is {'ahead of' if least > 0 else 'behind'} this host's by at least {off:.1f} s"
    state = FAILURE if off > _MUCH_SKEW_S else WARNING if off > _SKEW_S else OK
    return Finding("clock", state, message, "" if state == OK else "let NTP or chrony set the clocks of both hosts")
