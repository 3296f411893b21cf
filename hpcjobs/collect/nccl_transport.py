"""How NCCL connected the GPUs of a run, in a few words, from the logs that its ranks had it write."""

from __future__ import annotations

import itertools
from pathlib import Path

from hpcjobs.base import nccl_log
from hpcjobs.base.files import open_plain

# At most so many ranks' logs are read, of each at most so many bytes: communicators come first, and are alike.
_RANKS, _BYTES = 64, 1 << 20


def read(attempt: Path) -> str:
    """`IB with GPUDirect, NVLINK`, as nccl_log.described says it; "" if no rank wrote a log."""
    found = []
    for path in itertools.islice(sorted(attempt.glob("nccl-r[0-9]*.txt")), _RANKS):
        try:
            with open_plain(path) as file:
                found.append(nccl_log.parse(file.read(_BYTES).decode("utf-8", "replace")))
        except OSError:
            continue
    merged = nccl_log.merge(found)
    return nccl_log.described(merged) if merged else ""
