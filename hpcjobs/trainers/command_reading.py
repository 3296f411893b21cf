"""Which file of a command's attempt says how fast it is: train.log, which a meter writes, or what it printed."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

from hpcjobs.base.columns import FLAG_RATES_DIFFER
from hpcjobs.base.contract import JOB_LOG, TRAIN_LOG, RunConfig
from hpcjobs.base.errors import InputError
from hpcjobs.base.files import read_json
from hpcjobs.base.metrics import Measurement
from hpcjobs.base.records import Progress
from hpcjobs.collect import kept_readings
from hpcjobs.collect.claims import Sizes
from hpcjobs.collect.command_logs import CommandLog, read_command_log
from hpcjobs.collect.log_progress import ago_s, tail_progress
from hpcjobs.collect.meter_log import NO_WINDOW, meter_progress, rates_differ, read_meter_log
from hpcjobs.collect.pattern_log import counts_batch
from hpcjobs.trainers.command_checks import pattern_of


@dataclasses.dataclass(frozen=True)
class Found:
    """What a run that ended with success says of itself, in the file `log`; `flags` are for its row.

    batch: (local, global) batch of a step as the meter counted it; None where the experiment's is to be shown.
    """

    log: Path
    said: CommandLog
    flags: tuple[str, ...] = ()
    batch: tuple[int, int] | None = None


class CommandFiles:
    """The files of one attempt of a command, read as its experiment asks for."""

    def __init__(self, run: RunConfig, attempt: Path):
        about, batch = run.experiment["measure"], run.experiment["batch"]
        self.format: str = about["format"]
        self.is_benchmark = run.experiment.get("mode") == "benchmark"
        self._unit: str = about["unit"] or ""
        self._pattern = pattern_of(about)
        self._known = Sizes(run.gpus, run.nodes, batch["local"], batch["global"]).whole()
        self._job_log, self._train_log = attempt / JOB_LOG, attempt / TRAIN_LOG
        self._warmup = about["warmup"]
        self._may_meter = self.format == "auto" and about["meter"] != "off"
        self._metered = self.format in ("auto", "meter") and self._train_log.is_file()

    def progress(self) -> tuple[Path, Progress]:
        """How far the run has come, by the ends of a log, and which log says it."""
        if not self._metered:
            return self._job_log, tail_progress(self._job_log, self._pattern, self._known)
        log, found = self._train_log, meter_progress(self._train_log, self._unit) or Progress()
        if found.throughput is None and self.format == "auto":
            printed = tail_progress(self._job_log, self._pattern, self._known)
            if printed.throughput is not None:
                log, found = self._job_log, printed
        return log, dataclasses.replace(found, ago_s=ago_s(self._job_log, self._train_log))

    def measured(self) -> Found:
        """The rate of a run that ended with success: the meter's, or else the one that it printed.

        A train.log that contradicts the run is not made good by another log.
        """
        if self.format == "meter" and not self._metered:
            return Found(self._job_log, CommandLog(None, (), self._meter_says("the meter saw no step")))
        if not self._metered:
            printed = self._printed(self._unit)
            if printed.measurement is None and self._may_meter:
                looked_for = f"{self._meter_says('the meter saw no step')}, and {printed.looked_for}"
                printed = printed._replace(looked_for=looked_for)
            return Found(self._job_log, printed)
        ways = "meter", self._known, self._unit
        metered = kept_readings.kept(self._train_log, ways, lambda: read_meter_log(self._train_log, *ways[1:]))
        if metered.measurement is not None:
            one = metered.measurement
            return Found(self._train_log, metered, self._flags(one), self._batch(one))
        if metered.contradicted:
            return Found(self._train_log, metered)
        if metered.looked_for.endswith(NO_WINDOW):
            metered = metered._replace(looked_for=self._meter_says(metered.looked_for))
        if self.format == "meter":
            return Found(self._train_log, metered)
        printed = self._printed(self._unit)
        if printed.measurement is None:
            # Who has a loop that the meter sees, and no pattern, waits for no known format.
            also = f", and {printed.looked_for}" if self._pattern else ""
            printed = printed._replace(looked_for=f"{metered.looked_for}{also}")
        return Found(self._job_log, printed)

    def _meter_says(self, problem: str) -> str:
        """Why the meter measured nothing: `problem`, with what the meters of the ranks left beside the log."""
        notes = [read_json(path) or {} for path in sorted(self._train_log.parent.glob("meter-r*.json"))]
        if off := next((note["off"] for note in notes if note.get("off")), None):
            return f"{problem}: it is off ({off})"
        steps = max((note["steps"] for note in notes if isinstance(note.get("steps"), int)), default=0)
        if not steps:
            return problem
        needs = "a benchmark takes some hundred" if self.is_benchmark else f"measure.warmup is {self._warmup}"
        return f"{problem}: the run ended after {steps} {'step' if steps == 1 else 'steps'}, and {needs}"

    def _batch(self, metered: Measurement) -> tuple[int, int] | None:
        # A batch of the experiment counts samples. Where its gradients are accumulated, a step has several.
        if not counts_batch(metered.unit) and self._known.local_batch:
            return None
        if not metered.local_batch or not metered.global_batch:
            return None
        return metered.local_batch, metered.global_batch

    def _flags(self, metered: Measurement) -> tuple[str, ...]:
        # What a benchmark prints in its control blocks is another step's rate.
        if self.format != "auto" or self.is_benchmark:
            return ()
        # The measurement stands, whatever is wrong with the pattern.
        with contextlib.suppress(InputError):
            if rates_differ(metered, self._printed(metered.unit).measurement):
                return (FLAG_RATES_DIFFER,)
        return ()

    def _printed(self, unit: str) -> CommandLog:
        """What job.log says, by the pattern or by a format."""
        log, ways = self._job_log, (self._pattern or self.format, self._known, unit)
        return kept_readings.kept(log, ways, lambda: read_command_log(log, *ways))
