"""What a log says, anywhere, about the size of its run: a figure that contradicts the run's own size is refused."""

from __future__ import annotations

import dataclasses
import math

from hpcjobs.collect.formats.context import Context
from hpcjobs.collect.lines import lines
from hpcjobs.collect.world import Gpus, Known, World

# Configurations, which may be those of another part of the training.
_DUMPS = ("Namespace(", "{'", '{"')
# A log that names more batches than this is not a log of one run.
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

    def known(self) -> Known:
        """What of this counts the GPUs."""
        return Known(self.gpus, self.nodes)


class Claims:
    """The number of GPUs that a log states, by world.World, and the batches, each with its first line."""

    def __init__(self) -> None:
        self.world = World()
        self.local: dict[int, int] = {}
        self.whole: dict[int, int] = {}

    def feed(self, first: int, block: bytes) -> None:
        """Read a block of whole lines; `first` is the log's number of the first one."""
        self.world.feed(first, block)
        for line in lines(block, first, Context.needles):
            if any(dump in line.text for dump in _DUMPS):
                continue
            context = Context()
            context.take(line.text)
            for kept, number in ((self.local, context.local_batch), (self.whole, context.global_batch)):
                if number and len(kept) < _KEPT:
                    kept.setdefault(number, line.number)

    def gpus(self, known: Sizes) -> Gpus:
        """The number of GPUs that the log states."""
        return self.world.resolve(math.inf, alone=True, known=known.known())

    def filled(self, known: Sizes) -> Sizes:
        """What is known, and of the rest what the log states and does not contradict."""
        gpus = known.gpus or self.gpus(known).gpus
        if known.local_batch or known.global_batch:
            return dataclasses.replace(known, gpus=gpus)
        return Sizes(gpus, known.nodes, _only(self.local), _only(self.whole))

    def gpus_contradiction(self, known: Sizes) -> str:
        """How the log contradicts the number of GPUs that is known, or ""."""
        found = self.gpus(known)
        shared, _ = self.world.against(known.gpus, math.inf) if known.gpus else ("", 0)
        if shared:
            return f"the run has {known.gpus} GPUs, no multiple of {shared}"
        if not known.gpus or found.gpus in (None, known.gpus):
            return ""
        return f"the log says {found.gpus} GPUs (line {found.line}), the run has {known.gpus}"

    def batch_contradiction(self, known: Sizes) -> str:
        """How the log contradicts the batches that are known, or "": it states some, and none is the known one."""
        for what, stated, right in (
            ("as batch of one GPU", self.local, known.local_batch),
            ("as global batch", self.whole, known.global_batch),
        ):
            if stated and right is not None and right not in stated:
                number, line = next(iter(stated.items()))
                return f"the log says {number} {what} (line {line}), the run has {right}"
        return ""


def _only(stated: dict[int, int]) -> int | None:
    return next(iter(stated)) if len(stated) == 1 else None
