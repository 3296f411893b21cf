"""What a log says, anywhere, about the size of its run: a figure that contradicts the run's own size is refused."""

from __future__ import annotations

import dataclasses
import re

from hpcjobs.collect.formats.context import Context
from hpcjobs.collect.lines import Line

# Sizes of groups of ranks, as of data or tensor parallelism: not the number of GPUs.
_PARTS = re.compile(
    r"[\w-]*parallel[\w -]*size\W{0,3}\d+|[\w-]*parallel world[ _]size\W{0,3}\d+"
    r"|\b(?:local|node|group|[dtpe]p|model|pipeline|tensor|data|expert)[ _-]world[ _-]size\W{0,3}\d+",
    re.I,
)
# Configurations, which are printed before the ranks know of each other.
_DUMPS = ("Namespace(", "{'", '{"')
_SIZE = re.compile(r"\bsize\b|_size\b|nproc|in_sync")
# A log that names more sizes than this is not a log of one run.
_KEPT = 64


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is known of a run from outside its log; None: not known."""

    gpus: int | None = None
    nodes: int | None = None
    local_batch: int | None = None
    global_batch: int | None = None

    def whole(self) -> Sizes:
        """The same, with the batch that follows from the other one."""
        local, whole = self.local_batch, self.global_batch
        if self.gpus and local and not whole:
            whole = local * self.gpus
        elif self.gpus and whole and not local and whole % self.gpus == 0:
            local = whole // self.gpus
        return dataclasses.replace(self, local_batch=local, global_batch=whole)


class Claims:
    """The numbers of GPUs and the batches that a log states, each with its first line.

    "Number of GPUs" may be that of one node; a world size may not.
    """

    needles = (*Context.needles, b"WORLD_SIZE")

    def __init__(self) -> None:
        self.ranks: dict[int, int] = {}
        self.devices: dict[int, int] = {}
        self.local: dict[int, int] = {}
        self.whole: dict[int, int] = {}

    def take(self, line: Line) -> None:
        """Read one line."""
        if any(dump in line.text for dump in _DUMPS):
            return
        text, context = _PARTS.sub("", line.text), Context()
        context.take(text)
        exact = _SIZE.search(text) is not None
        for kept, number in (
            (self.ranks if exact else self.devices, context.gpus),
            (self.local, context.local_batch),
            (self.whole, context.global_batch),
        ):
            if number and len(kept) < _KEPT:
                kept.setdefault(number, line.number)

    def filled(self, known: Sizes) -> Sizes:
        """What is known, and of the rest what the log states and states only once."""
        gpus = known.gpus or _only(self.ranks or self.devices)
        if known.local_batch or known.global_batch:
            return dataclasses.replace(known, gpus=gpus)
        return Sizes(gpus, known.nodes, _only(self.local), _only(self.whole))

    def contradiction(self, known: Sizes) -> str:
        """How the log contradicts what is known, or "".

        It does if it states sizes of a kind of which none is the known one.
        """
        per_node = known.gpus // known.nodes if known.gpus and known.nodes else None
        for what, stated, right in (
            ("GPUs", self.ranks, (known.gpus,)),
            ("GPUs", self.devices if not self.ranks else {}, (known.gpus, per_node)),
            ("as batch of one GPU", self.local, (known.local_batch,)),
            ("as global batch", self.whole, (known.global_batch,)),
        ):
            if stated and right[0] is not None and not stated.keys() & {*right}:
                number, line = next(iter(stated.items()))
                return f"the log says {number} {what} (line {line}), the run has {right[0]}"
        return ""


def _only(stated: dict[int, int]) -> int | None:
    return next(iter(stated)) if len(stated) == 1 else None
