"""What the readers of all formats share: FormatReader, and the findings that it fills."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any, ClassVar

from hpcjobs.collect.lines import Line, lines
from hpcjobs.collect.measurements import Measured, Problem, Throughput

NO_GPUS = "the log does not say how many GPUs it used: --gpus-from can read the number from its path"


@dataclasses.dataclass
class Findings:
    """What was found in one log so far. `option` is the number of GPUs that --gpus-from finds in its path."""

    path: str
    option: int | None = None
    measurements: list[Measured] = dataclasses.field(default_factory=list)
    problems: list[Problem] = dataclasses.field(default_factory=list)

    def problem(self, line: int, reason: str) -> None:
        self.problems.append(Problem(self.path, line, reason))


class FormatReader:
    """Reads the logs of one format. It is given only lines that contain one of `needles`."""

    name: ClassVar[str]
    needles: ClassVar[tuple[bytes, ...]] = ()

    def __init__(self, findings: Findings) -> None:
        self.findings = findings

    def feed(self, first: int, block: bytes, sign: int = 0) -> None:
        """Read a block of whole lines; `first` is the log's number of the first one.

        `sign` is where the first line begins that only this format has; 0 if that is not known.
        """
        for line in lines(block, first, self.needles):
            self.take(line)

    def take(self, line: Line) -> None:
        """Read one line that contains a needle."""

    def close(self) -> None:
        """Finish the last run: the log has ended."""

    def add_run(
        self,
        line: int,
        figure: str,
        *,
        total: float | None = None,
        per_gpu: float | None = None,
        gpus: int | None = None,
        local_batch: int | None = None,
        global_batch: int | None = None,
        step_ms: float | None = None,
        why: str = "",
        **more: Any,
    ) -> None:
        """Add a training run. Figures that follow from others are filled in, and `missing` names what is not known.

        `line` is the log's line at which the run begins, `figure` the log's name of the rate, `why` the problem to
        report if there is no rate.
        """
        found, option = self.findings, self.findings.option
        gpus_from = "log" if gpus else ""
        if not gpus and option:
            gpus, gpus_from = option, "option"
        elif gpus and option and option != gpus:
            found.problem(line, f"the log says {gpus} GPUs, the path {option}: the log counts")
        gpus = gpus or None
        total, per_gpu, step_ms = _figure(total), _figure(per_gpu), _figure(step_ms)
        if total is None and per_gpu is not None and gpus:
            total = per_gpu * gpus
        if gpus and local_batch and not global_batch:
            global_batch = local_batch * gpus
        elif gpus and global_batch and not local_batch and global_batch % gpus == 0:
            local_batch = global_batch // gpus
        if total is None and step_ms and global_batch:
            total = global_batch / step_ms * 1000
        elif step_ms is None and total and global_batch:
            step_ms = global_batch / total * 1000
        missing = [name for name, value in (("throughput", total), ("gpus", gpus)) if value is None]
        if total is None:
            found.problem(line, why or "the log does not give a rate over all GPUs")
        if gpus is None:
            found.problem(line, NO_GPUS)
        if global_batch is None:
            missing.append("batch")
        found.measurements.append(
            Throughput(
                source=found.path,
                line=line,
                format=self.name,
                figure=figure,
                throughput=total,
                per_gpu=per_gpu if per_gpu is not None else total / gpus if total and gpus else None,
                gpus=gpus,
                gpus_from=gpus_from,
                local_batch=local_batch,
                global_batch=global_batch,
                step_ms=step_ms,
                missing=tuple(missing),
                **more,
            )
        )


class Copies:
    """Finds rows of a table that another rank wrote word for word."""

    def __init__(self) -> None:
        self.seen: dict[str, str] = {}

    def is_copy(self, line: Line) -> bool:
        """Whether another rank wrote the line before, within the newest thousand rows."""
        if self.seen.setdefault(line.text.strip(), line.rank) != line.rank:
            return True
        if len(self.seen) > 1000:
            del self.seen[next(iter(self.seen))]
        return False


def _figure(value: float | None) -> float | None:
    """The figure, or None if it is zero, negative, infinite or not a number."""
    return value if value is not None and 0 < value < math.inf else None


def mean(values: Iterable[float]) -> float:
    """The mean of at least one value."""
    values = list(values)
    return sum(values) / len(values)
