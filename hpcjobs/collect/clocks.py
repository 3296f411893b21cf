"""Whether the clocks of a run's hosts agree, by times in its own files that contradict each other.

Only a contradiction shows. That the first node's clock is ahead is not seen where a file has the time of the node that
wrote it, as on Lustre.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from hpcjobs.base import contract, sweepdir
from hpcjobs.base.files import open_plain, read_json
from hpcjobs.base.records import ExitRecord

# What may lie between two times without a clock being wrong, in seconds: `date +%s` has whole seconds, and file servers
# and nodes keep NTP's accuracy.
CLOSE_S = 2.0
# For how long a rank or a sampler may outlive the launcher that lost it, in seconds (Slurm's KillWait is 30).
_OUTLIVED_S = 60.0
# No figure is a difference to a file server's time, so that its clock may be off by this much.
_SERVER_S = 60.0


def submitter_differs(attempt: Path, claim: Mapping[str, Any], ended: ExitRecord | None, asked: float | None) -> bool:
    """Whether the clock of an attempt's first node differs from those of its file server and of the submitting host.

    `asked` is when its submission was begun, in seconds since the epoch by that host; None if it is not known.
    """
    start = claim.get("start")
    if start is not None and asked is not None and start < asked - CLOSE_S:
        return True
    # A file is written after the time in it was taken. A copy is only later.
    times = ((contract.CLAIM, start), (contract.EXIT_JSON, ended.end if ended else None))
    for name, time in times:
        with suppress(OSError):
            if time is not None and time > (attempt / name).stat().st_mtime + _SERVER_S:
                return True
    return False


def differing_hosts(attempt: Path, claim: Mapping[str, Any], ended: ExitRecord | None) -> set[str]:
    """The hosts whose clock differs from that of an attempt's first node, whose job script wrote its beginning and end.

    A rank or a sampler cannot begin before the job script, nor end a minute after it.
    """
    found = set()
    for host, first, last in (*_ranks(attempt), *_samplers(attempt)):
        early = first is not None and "start" in claim and first < claim["start"] - CLOSE_S
        if early or (last is not None and ended is not None and last > ended.end + _OUTLIVED_S):
            found.add(host)
    return found


def _ranks(attempt: Path) -> Iterator[tuple[str, float | None, float | None]]:
    for path in attempt.glob("rank-r*.json"):
        record = read_json(path) or {}
        yield str(record.get("host", "")), _time(record.get("start")), _time(record.get("end"))


def _samplers(attempt: Path) -> Iterator[tuple[str, float | None, float | None]]:
    for path in attempt.glob(contract.nvml_csv("*")):
        times: list[float | None] = []
        with suppress(OSError), open_plain(path) as file:
            head = file.read(4096).splitlines()[1:2]
            file.seek(max(0, path.stat().st_size - 4096))
            # The last line may be cut off.
            times = [_time(line.partition(b",")[0]) for line in (*head, *file.read().splitlines()[-2:-1])]
        known = [each for each in times if each is not None]
        yield path.stem.removeprefix("nvml-"), min(known, default=None), max(known, default=None)


def _time(value: object) -> float | None:
    with suppress(TypeError, ValueError):
        number = float(value)  # type: ignore[arg-type]
        return number if sweepdir.is_time(number) else None
    return None
