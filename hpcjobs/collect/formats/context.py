"""Reads what scripts print about the batch in logs of any format, if the meaning is clear."""

from __future__ import annotations

import re

from hpcjobs.collect.agreement import alike

_SEPARATOR = r"(?: is| are)? ?[:=]? ?"
_GLOBAL = re.compile(r"\bglobal[ _-]?(?:train[ _])?batch[ _-]?(?:size)?\b[\"']?" + _SEPARATOR + r"(\d+)\b", re.I)
_LOCAL = re.compile(
    r"\b(?:local|per[ _-]?(?:gpu|device|replica|rank|worker))[ _-]batch[ _-]?(?:size)?\b[\"']?"
    + _SEPARATOR
    + r"(\d+)\b"
    r"|\bbatch[ _-]?size[ _-]per[ _-](?:gpu|device|replica|rank|worker)\b[\"']?" + _SEPARATOR + r"(\d+)\b",
    re.I,
)
_BATCH = re.compile(r"(?<!\w)batch[ _-]?size\b[\"']?" + _SEPARATOR + r"(\d+)\b", re.I)


class Context:
    """What a log says about its batch, or None. Of `batch` it does not say whether it is per GPU or over all."""

    needles = (b"atch",)

    def __init__(self) -> None:
        self.local_batch: int | None = None
        self.global_batch: int | None = None
        self.batch: int | None = None

    def __bool__(self) -> bool:
        return bool(self.local_batch or self.global_batch or self.batch)

    def take(self, text: str) -> None:
        """Read one line. The first line that gives a number counts."""
        batch = _first(_GLOBAL, text)
        local = _first(_LOCAL, text)
        self.global_batch = self.global_batch or batch
        self.local_batch = self.local_batch or local
        if not batch and not local:
            self.batch = self.batch or _first(_BATCH, text)


def _first(pattern: re.Pattern[str], text: str) -> int | None:
    match = pattern.search(text)
    return next((int(group) for group in match.groups() if group), None) or None if match else None


def local_and_global(
    batch: int | None, gpus: int | None, implied: float | None, option: int | None = None, accumulation: int = 1
) -> tuple[int | None, int | None]:
    """(local, global) batch of a `batch` that may be either, None if it is not known.

    `implied` is the global batch by the rates over all GPUs and the log's time stamps, if it has both. It decides
    if it agrees with one of them (agreement.alike): of the batch, of batch x GPUs, or of that x `accumulation` (how
    often gradients are added up before a step). With one GPU, and nothing added up, both are the same. `option` is
    the number of GPUs that --gpus or --gpus-from gives.
    """
    gpus = gpus or option
    if batch is None or (gpus == 1 and accumulation == 1):
        return batch, batch
    if implied is None or gpus is None:
        return None, None
    if alike(implied, batch):
        return (batch if gpus == 1 else None), batch
    for times in (1, accumulation):
        if alike(implied, batch * gpus * times):
            return batch, batch * gpus * times
    return None, None
