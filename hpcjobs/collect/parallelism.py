"""How many GPUs share a model, by what a log says of its tensor, pipeline and context parallelism.

    using world size: 32, data-parallel-size: 1, tensor-model-parallel size: 4, pipeline-model-parallel size: 8
      tensor_model_parallel_size ...................... 4
    --pipeline-model-parallel-size 8   ici_tensor_parallelism: 4   "key": "tensor_parallelism", "value": 4

The GPUs of a run are a multiple of their product. Expert parallelism is within the others, and tensor_parallel_size may
be that of an inference beside the training: neither counts. Where a log says two numbers for one, neither does, because
one of them may be of another model.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

_KINDS = {
    "tensor": r"tensor[_-]model[_-]parallel[_ -]size|model[_-]parallel[_ -]size|tensor_parallel(?:ism|_degree)",
    "pipeline": r"pipeline[_-]model[_-]parallel[_ -]size|pipe[_-]parallel[_ -]size|pipeline_parallel(?:ism|_degree)",
    "context": r"context[_-]parallel[_ -]size|context_parallel(?:ism|_degree)",
    # MaxText's, within a slice and between them
    "ici_tensor": r"ici_tensor_parallelism",
    "dcn_tensor": r"dcn_tensor_parallelism",
    "ici_pipeline": r"ici_pipeline_parallelism",
    "dcn_pipeline": r"dcn_pipeline_parallelism",
}
# One of them with its number.
SIZE = re.compile(
    r"(?<![\w.])(?<![A-Za-z]-)(?:--)?(?:"
    + "|".join(f"(?P<{kind}>{names})" for kind, names in _KINDS.items())
    + r")[\"']?(?:, \"value\"\"?)?(?: \.+)? ?[:=]? ?[\"']?(?P<value>[1-9]\d{0,4})\b(?!\.\d)"
)
# What each line that says some of this has.
NEEDLE = b"arallel"


class _Size(NamedTuple):
    """So many GPUs share a model in one way; the log's words for it, and its line."""

    kind: str
    value: int
    words: str
    line: int

    def __str__(self) -> str:
        return f"{self.words} {self.value} (line {self.line})"


class Parallelism:
    """What one log says of it."""

    def __init__(self) -> None:
        self._sizes: list[_Size] = []

    def take(self, number: int, text: str) -> None:
        """Read a line."""
        for match in SIZE.finditer(text):
            kind = next(kind for kind in _KINDS if match[kind])
            self._sizes.append(_Size(kind, int(match["value"]), match[kind], number))

    def against(self, gpus: int, since: float, end: float) -> tuple[str, int]:
        """What of a run contradicts a number of GPUs, and its line; "" and 0 if nothing does.

        The run's lines are those after `since` up to `end`; one that says nothing has what lines before it say.
        """
        said = [one for one in self._sizes if one.line <= end]
        said = [one for one in said if one.line > since] or said
        sizes: dict[str, _Size] = {}
        for one in said:
            sizes.setdefault(one.kind, one)
        twice = {one.kind for one in said if one.value != sizes[one.kind].value}
        shared = [one for kind, one in sizes.items() if kind not in twice and one.value > 1]
        if not shared or gpus % math.prod(one.value for one in shared) == 0:
            return "", 0
        return " x ".join(map(str, shared)), shared[0].line
