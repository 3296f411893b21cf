"""What logs of any format say in passing: how many GPUs, which batch. Only words whose meaning is plain."""

from __future__ import annotations

import re

_SEPARATOR = r"(?: is| are)? ?[:=]? ?"
_GPUS = re.compile(
    r"\bnum(?:ber)?[ _]?(?:of)?[ _](?:gpus|devices|replicas|num_replicas_in_sync)\b[\"']?" + _SEPARATOR + r"(\d+)\b"
    r"|\bworld[ _]size\b[\"']?" + _SEPARATOR + r"(\d+)\b"
    r"|\bnum_replicas_in_sync\b[\"']?" + _SEPARATOR + r"(\d+)\b"
    r"|\b(?:hvd|horovod)[._ ]size(?:\(\))?\b[\"']?" + _SEPARATOR + r"(\d+)\b",
    re.I,
)
_GLOBAL = re.compile(r"\bglobal[ _-]?(?:train[ _])?batch[ _-]?(?:size)?\b[\"']?" + _SEPARATOR + r"(\d+)\b", re.I)
_LOCAL = re.compile(
    r"\b(?:local|per[ _-]?(?:gpu|device|replica|rank|worker))[ _-]batch[ _-]?(?:size)?\b[\"']?"
    + _SEPARATOR
    + r"(\d+)\b"
    r"|\bbatch[ _-]?size[ _-]per[ _-](?:gpu|device|replica|rank|worker)\b[\"']?" + _SEPARATOR + r"(\d+)\b",
    re.I,
)
_BATCH = re.compile(r"(?<!\w)batch[ _-]?size\b[\"']?" + _SEPARATOR + r"(\d+)\b", re.I)
_LAUNCH = re.compile(r"--nproc[_-]per[_-]node[= ](\d+)")
_NODES = re.compile(r"--nnodes[= ](\d+)\b(?!:)")


class Facts:
    """Whole numbers, or None. `batch` is one of which the log does not say whether it is per GPU or over all."""

    needles = (b"umber of ", b"um_", b"Num GPUs", b"size", b"nproc")

    def __init__(self) -> None:
        self.gpus: int | None = None
        self.nodes: int | None = None
        self.local_batch: int | None = None
        self.global_batch: int | None = None
        self.batch: int | None = None

    def take(self, text: str) -> bool:
        """Read one line; whether it said something. The first word on a thing counts."""
        before = self.known()
        self.gpus = self.gpus or _first(_GPUS, text)
        each = _first(_LAUNCH, text)
        if each and not self.gpus:
            self.nodes = _first(_NODES, text) or (None if "--nnodes" in text else 1)
            self.gpus = each * self.nodes if self.nodes else None
        batch = _first(_GLOBAL, text)
        local = _first(_LOCAL, text)
        self.global_batch = self.global_batch or batch
        self.local_batch = self.local_batch or local
        if not batch and not local:
            self.batch = self.batch or _first(_BATCH, text)
        return self.known() != before

    def known(self) -> tuple[int | None, ...]:
        """All of it."""
        return self.gpus, self.nodes, self.local_batch, self.global_batch, self.batch


def _first(pattern: re.Pattern[str], text: str) -> int | None:
    match = pattern.search(text)
    return next((int(group) for group in match.groups() if group), None) or None if match else None


def split(
    batch: int | None, gpus: int | None, implied: float | None, option: int | None = None
) -> tuple[int | None, int | None]:
    """(local, global) batch of a number of which the log does not say which of the two it is.

    `implied` is the global batch that rates over all GPUs and the log's time stamps give, where there are both. It
    decides, if it is within a fifth of one of the two and they differ; of one GPU both are the same.
    """
    gpus = gpus or option
    if batch is None or gpus == 1:
        return batch, batch
    if implied is None or gpus is None:
        return None, None
    if abs(implied / batch - 1) < 0.2:
        return None, batch
    if abs(implied / (batch * gpus) - 1) < 0.2:
        return batch, None
    return None, None
