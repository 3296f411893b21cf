"""Whether the processes of a command had fewer CPUs than the profile gives them, by the records that rank.sh left."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from hpcjobs.base.files import read_json

_RANGE = re.compile(r"(\d{1,6})(?:-(\d{1,6}))?")


def numbers(text: object) -> set[int]:
    """The CPUs of a list as Linux writes it: `0-2,8` is 0, 1, 2, 8. Empty if it is no such list."""
    found: set[int] = set()
    for part in str(text).split(","):
        match = _RANGE.fullmatch(part)
        if match is None:
            return set()
        found.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return found


def too_few(attempt: Path, per_process: int) -> bool:
    """Whether the processes of a host might use, all together, fewer CPUs than `per_process` each.

    Ranks that are bound have CPUs of their own, and others share theirs, so the distinct CPUs of a host count. False
    where records are missing or do not name CPUs. A limit on CPU time (a container's quota) is not seen.
    """
    # Under torchrun the launcher starts one process on a node, and the profile's CPUs are that one's.
    paths = [*attempt.glob("node-process-*.json")] or [*attempt.glob("rank-r*.json")]
    hosts: dict[str, list[set[int]]] = defaultdict(list)
    for path in paths:
        record = read_json(path) or {}
        hosts[str(record.get("host", ""))].append(numbers(record.get("cpus", "")))
    return any(all(own) and len(set().union(*own)) < per_process * len(own) for own in hosts.values())
