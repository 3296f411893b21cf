"""What the readers of all formats share: FormatReader, and the findings that it fills."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from hpcjobs.collect import agreement
from hpcjobs.collect.agreement import Figure, Kind, Sizes
from hpcjobs.collect.lines import Line, lines
from hpcjobs.collect.measurements import Measured, Problem, Throughput
from hpcjobs.collect.steady import scaled
from hpcjobs.collect.wordings import Wordings
from hpcjobs.collect.world import NOTHING, OF_OPTION, OWN, Gpus, Known, Statement, World

NO_GPUS = "the log does not say how many GPUs it used: give --gpus N, or --gpus-from REGEX for its path"


@dataclasses.dataclass
class Findings:
    """What was found in one log so far. `known` is what is known of its run without it.

    `world` is what lines of any format say of GPUs and nodes. `at` is the line that a reader takes, `before` the one
    that it took before, so that a run that ends does not see what is said of the next; `ended` is set after the last.
    """

    path: str
    known: Known = NOTHING
    world: World = dataclasses.field(default_factory=World)
    at: int = 0
    before: int = 0
    ended: bool = False
    measurements: list[Measured] = dataclasses.field(default_factory=list)
    problems: list[Problem] = dataclasses.field(default_factory=list)

    def problem(self, line: int, reason: str, run: int = 0) -> None:
        """Say what is wrong with a line; 0: with what no line says. `run` is the line at which its run begins."""
        self.problems.append(Problem(self.path, line, reason, run))


class FormatReader:
    """Reads the logs of one format. It is given only lines that contain one of `needles`."""

    name: ClassVar[str]
    needles: ClassVar[tuple[bytes, ...]] = ()
    # Whether the time of a step checks the rate. Not where both come from the same windows, whose batches may differ.
    checks: ClassVar[bool] = True

    def __init__(self, findings: Findings) -> None:
        self.findings = findings

    def rest(self, block: bytes, wordings: Wordings) -> tuple[bytes, Wordings]:
        """The block that `feed` reads next, without what is of steps only; it has the same lines. And its wordings.

        It is called before `feed`, which may need what it found. `wordings` are those of the whole block.
        """
        return block, wordings

    def feed(self, first: int, block: bytes, sign: int = 0) -> None:
        """Read a block of whole lines; `first` is the log's number of the first one.

        `sign` is where the first line begins that only this format has; 0 if that is not known.
        """
        found = self.findings
        for line in lines(block, first, self.needles):
            if line.number != found.at:
                found.before, found.at = found.at, line.number
            self.take(line)

    def take(self, line: Line) -> None:
        """Read one line that contains a needle."""

    def close(self) -> None:
        """Finish the last run: the log has ended."""

    def anew(self, last: int, line: int, head: bool = False) -> None:
        """Begin a run at a line whose steps fall back behind those of the run that ended with line `last`.

        `head`: whether lines between them say something of it. If none does, not even its GPUs, its head is lost, and
        the launcher of the run before may not be its own.
        """
        world = self.findings.world
        world.begin_anew(last, head or any(last < one.line <= line for one in world.statements))

    def gpus(self, line: int, own: int | None, words: str = OWN, begin: int | None = None) -> Gpus:
        """The GPUs of the run that ends here. `own` is what the reader knows of them, from `line` with these words.

        `begin` is the run's first line, if it is not `line`.
        """
        found = self.findings
        alone = found.ended and not found.world.since and not found.world.apart
        said = Statement("all", OWN, own, line, words) if own else None
        return found.world.resolve(self._end_line(), said, alone, max(line, begin or 0), found.known)

    def count(self, line: int, own: int | None) -> int | None:
        """The GPUs of the run that ends here, as add_run counts them: the log's, or else those that are known.

        None if neither says them, or if the log contradicts what is known.
        """
        found, known = self.gpus(line, own), self.findings.known
        if found.gpus or not known.gpus:
            return found.gpus
        if found.contradiction and known.source and known.gpus not in (found.values or (known.gpus,)):
            return None
        return None if self.findings.world.against(known.gpus, self._end_line())[0] else known.gpus

    def _end_line(self) -> float:
        """The last line of the run that ends: the one before the line that is taken, or the log's last."""
        found = self.findings
        return (found.at if found.ended else found.before) if found.at else math.inf

    def add_run(
        self,
        line: int,
        figure: str,
        *,
        total: float | None = None,
        per_gpu: float | None = None,
        figures: Sequence[Figure] = (),
        gpus: int | None = None,
        gpus_at: tuple[int, str] | None = None,
        nodes: int | None = None,
        local_batch: int | None = None,
        global_batch: int | None = None,
        accumulation: int | None = None,
        shared: bool = False,
        tokens: int | None = None,
        step_ms: float | None = None,
        why: str = "",
        **more: Any,
    ) -> None:
        """Add a training run: agreement.agree says which of its figures is the rate, world.World how many GPUs it has.

        `line` is the log's line at which the run begins, `figure` the log's name of the rate in `total` (over all GPUs)
        or `per_gpu`; `step_ms` is a step's time that the log gives. `figures` are more figures of the same run, which
        count after these. `gpus` is what the reader's own lines say, at `gpus_at` (line, words). `accumulation` is how
        many times gradients of a step are added up, `shared` whether GPUs may share a model, `tokens` how many a
        sequence has. `why` is the problem to report if there is no rate. `missing` names what is not known.
        """
        found, known = self.findings, self.findings.known
        at, words = gpus_at or (line, OWN)
        world = self.gpus(at, gpus, words, line)
        gpus, gpus_from, refused = world.gpus, "log" if world.gpus else "", world.contradiction
        if refused:
            asked = f"{known.source} {known.gpus}" if known.source and known.gpus else ""
            if asked and known.gpus in (world.values or (known.gpus,)):
                told = f"{asked} counts"
            else:
                told = "the number of GPUs is not known"
                if asked:
                    refused, known = f"{refused}, and {asked} is neither", NOTHING
            found.problem(world.line or line, f"{refused}: {told}", line)
        if not gpus and known.gpus:
            gpus, gpus_from = known.gpus, "option"
        elif gpus and known.source and known.gpus not in (None, gpus):
            against = f"the log says {gpus} GPUs, {known.source} {known.gpus}"
            if known.source == OF_OPTION:
                gpus, gpus_from, refused = None, "", f"{against}: the number of GPUs is not known"
            found.problem(world.line, refused or f"{against}: the log counts", line)
        odd, odd_at = found.world.against(gpus, self._end_line()) if gpus and gpus_from == "option" else ("", 0)
        if odd:
            refused = f"{known.source or 'the plan'} {gpus} is no multiple of {odd}: the number of GPUs is not known"
            found.problem(odd_at, refused, line)
            gpus, gpus_from = None, ""
        local_batch, global_batch, odd = agreement.batches(gpus, local_batch, global_batch, accumulation, shared)
        if odd:
            found.problem(line, f"{odd}: the batch is not known", line)
        total, per_gpu, step_ms = _figure(total), _figure(per_gpu), _figure(step_ms)
        given = [Figure(Kind.TOTAL, total, line, figure)] if total else []
        given += [Figure(Kind.ONE, per_gpu, line, figure)] if per_gpu else []
        given += figures
        given += [Figure(Kind.STEP, step_ms / 1000, line, "time of a step")] if step_ms and self.checks else []
        agreed = agreement.agree(given, Sizes(gpus, global_batch, tokens))
        rate, counts = agreed.rate, agreed.figure
        if agreed.contradiction:
            found.problem(agreed.line or line, agreed.contradiction, line)
        if counts is not None and counts in figures:
            figure = counts.words + (f" ({agreed.how})" if agreed.how else "")
            if counts.steady is not None and rate is not None and "steady" not in more:
                steady = more["steady"] = scaled(counts.steady, rate / counts.value)
                more["sd"] = steady.sd if steady else None
        if rate is None and agreed.contradiction:
            step_ms = per_gpu = None
            more |= {"steady": None, "sd": None}
        elif global_batch and rate and (step_ms is None or counts is None or counts.kind is not Kind.STEP):
            step_ms = global_batch / rate * 1000 if step_ms is None or agreed.contradiction else step_ms
        if found.world.cpu > 0 and not more.get("device"):
            more["device"] = "cpu"
        missing = [name for name, value in (("throughput", rate), ("gpus", gpus)) if value is None]
        if rate is None and not agreed.contradiction:
            found.problem(0, why or "the log does not give a rate over all GPUs", line)
        if gpus is None and not refused:
            found.problem(0, NO_GPUS, line)
        if global_batch is None:
            missing.append("batch")
        found.world.since = self._end_line()
        found.measurements.append(
            Throughput(
                source=found.path,
                line=line,
                format=self.name,
                figure=figure,
                throughput=rate,
                per_gpu=per_gpu if per_gpu is not None else rate / gpus if rate and gpus else None,
                gpus=gpus,
                gpus_from=gpus_from,
                nodes=nodes or (world.nodes if gpus_from == "log" else None),
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
