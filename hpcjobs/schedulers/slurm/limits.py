"""What a Slurm site allows."""

from __future__ import annotations

import re

from hpcjobs.records import Limits

_LINE = re.compile(r"^(MaxArraySize|MaxJobCount)\s*=\s*(\d+)", re.MULTILINE)


def read(text: str) -> Limits:
    """Limits of `scontrol show config`.

    MaxArraySize is one more than the largest index (slurm.conf(5)); indices start at 0, so it is the
    number of tasks, too.
    """
    found = {name: int(value) for name, value in _LINE.findall(text)}
    return Limits(max_array=found.get("MaxArraySize"), max_jobs=found.get("MaxJobCount"))
