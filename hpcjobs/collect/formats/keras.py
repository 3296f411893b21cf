"""The progress that Keras 1 to 3 prints.

    Epoch 2/10
    4096/4096 - 749s - loss: 0.1983 - val_loss: 0.1414                        verbose=2
    4096/4096 - 749s - loss: 0.1983 - val_loss: 0.1414 - 749s/epoch - 183ms/step
    4096/4096 - 749s - 183ms/step - loss: 0.1983 - val_loss: 0.1414           Keras 3
    100/100 [==============================] - 12s 118ms/step - loss: 0.5     bar, redrawn with \\r and backspaces
    100/100 ━━━━━━━━━━━━━━━━━━━━ 12s 118ms/step - loss: 0.5                   Keras 3, with colours and backspaces
    60000/60000 [==============================] - 4s 66us/sample - loss: 0.3 counts samples, also after
    Train on 60000 samples, validate on 10000 samples                         of Keras to 2.3, TensorFlow to 2.1
     - 12s - loss: 0.5                                                        Keras 2, verbose=2: no count

A time in whole seconds is half a second more or less, and 0s may be that too: a run's figure is refused where this is
more than 15 % of an epoch, unless the script prints the total time. Only the last line of an epoch counts. A line
without Epoch before it and without val_ is taken for evaluate(). If several ranks print an epoch's line, their mean
counts. An epoch's time includes its validation. Keras prints neither batch nor GPUs, but the script may.
"""

from __future__ import annotations

import re

from hpcjobs.base.columns import FLAG_VALIDATION
from hpcjobs.collect.agreement import TOLERANCE
from hpcjobs.collect.formats.context import Context, local_and_global
from hpcjobs.collect.formats.facts import TOLD
from hpcjobs.collect.formats.reader import Findings, FormatReader, mean
from hpcjobs.collect.lines import Line, unstamped
from hpcjobs.collect.steady import Windows, scaled

_EPOCH = re.compile(r"(?:^|\s)Epoch (\d+)/(\d+)\s*$")
_TIME = r"(\d+)s(?: +(?:- )?(\d+)(ms|us|μs|s|ns)/(step|sample|epoch))?"
_DONE = re.compile(r"(?:^|\s)(\d+)/(\d+)(?: \[=+\]| ━+)?(?: -)? " + _TIME + r"(?= - )(.*)")
_BARE = re.compile(r"^\s?- " + _TIME + r"(?= - )(.*)")
_LATER = re.compile(r" - (\d+)(ms|us|μs|s|ns)/(epoch|step)\b")
_TOTAL = re.compile(r"^\s*Total (?:training )?time(?: taken)?(?: is)?[: =]+(\d+(?:\.\d+)?) ?s(?:ec(?:ond)?s?)?\b", re.I)
_TRAIN_ON = re.compile(r"Train on (\d+) (?:samples|steps)")
_METRIC = re.compile(r"\b\w*loss: (?:\d|nan)")
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "μs": 1e-6, "ns": 1e-9}


class _Epoch:
    """One epoch, as each rank reports it."""

    def __init__(self, number: int, line: int) -> None:
        self.number, self.line = number, line
        # (rank, line): s and its largest rounding error; the last on a line counts
        self.seconds: dict[tuple[str, int], tuple[float, float]] = {}
        self.count = 0  # steps or samples; 0: not known
        self.samples = False
        self.validated = False


class _Run:
    """One call of fit()."""

    def __init__(self) -> None:
        self.line = 0
        self.epoch: _Epoch | None = None
        self.times: list[tuple[float, float]] = []  # s of each epoch and its largest rounding error
        self.total: tuple[float, int] | None = None  # s of all epochs, as the script prints it, and its line
        self.count = 0
        self.samples = False
        self.validated = False


class KerasReader(FormatReader):
    """Reads the logs that the text at the top of this file describes."""

    name = "keras"
    needles = (b"loss: ", b"Epoch ", b"Train on ", b"otal time", b"otal training time", *Context.needles)

    def __init__(self, findings: Findings) -> None:
        super().__init__(findings)
        self.run = _Run()
        self.context = Context()
        self.later = Context()  # what was said since the run's first epoch: of the next run, if there is one
        self.train_on: int | None = None
        self.heads: dict[str, int] = {}  # rank: the number of its last Epoch line
        # Of each rank, its Epoch lines whose epochs have not ended; ranks without a prefix count as one.
        self.due: dict[str, int] = {}
        self.headed = False
        self.done = 0  # the newest line of an epoch that has ended
        self.last = ""

    def take(self, line: Line) -> None:
        text = unstamped(line.text)
        if match := _EPOCH.search(text):
            self._announce(int(match[1]), line)
        elif (match := _DONE.search(text)) and _METRIC.search(text):
            if match[1] == match[2]:
                self._done(line, int(match[1]), match[3], match[4], match[5], match[6], match[7])
        elif (match := _BARE.match(text)) and _METRIC.search(text):
            self._done(line, 0, match[1], match[2], match[3], match[4], match[5])
        elif match := _TOTAL.search(text):
            self.run.total = float(match[1]), line.number
        elif match := _TRAIN_ON.search(text):
            self.train_on = int(match[1])
        else:
            (self.later if self.run.line else self.context).take(text)

    def _announce(self, number: int, line: Line) -> None:
        self.headed = True
        epoch = self.run.epoch
        if epoch is not None and number < epoch.number:
            self.findings.before = self.done
            self._end()
            self.anew(self.done, line.number, bool(self.context))
        elif epoch is not None and number > epoch.number:
            self._close_epoch()
        self.heads[line.rank] = number
        self.due[line.rank] = self.due.get(line.rank, 0) + 1

    def _done(
        self, line: Line, count: int, whole: str, unit_time: str | None, unit: str | None, per: str | None, rest: str
    ) -> None:
        run, validated = self.run, "val_" in rest
        epoch = run.epoch
        again = epoch is not None and (line.rank, line.number) in epoch.seconds
        number = self.heads.get(line.rank) if self.due.get(line.rank) or again else None
        if number is not None and not again:
            self.due[line.rank] -= 1
        elif not again:
            if self.headed or not validated or line.text == self.last:  # evaluate(), or another rank's copy
                return
            # The log has no Epoch lines: this is the rank's next epoch.
            done = 0 if epoch is None else sum(rank == line.rank for rank, _ in epoch.seconds)
            number = 1 if epoch is None else epoch.number + (1 if done else 0)
        self.last, self.done = line.text, line.number
        seconds = _seconds(count, whole, unit_time, unit, per, rest)
        if number is not None and (epoch is None or epoch.number != number):
            self._close_epoch()
            epoch = run.epoch = _Epoch(number, line.number)
        assert epoch is not None
        run.line = run.line or line.number
        epoch.seconds[line.rank, line.number] = seconds
        epoch.count = epoch.count or count
        epoch.samples = epoch.samples or per == "sample" or (count > 0 and count == self.train_on)
        epoch.validated = epoch.validated or validated

    def _close_epoch(self) -> None:
        run, epoch = self.run, self.run.epoch
        if epoch is None:
            return
        run.epoch = None
        run.count, run.samples = run.count or epoch.count, run.samples or epoch.samples
        run.validated = run.validated or epoch.validated
        run.times.append((mean(took for took, _ in epoch.seconds.values()), max(h for _, h in epoch.seconds.values())))

    def _end(self) -> None:
        self._close_epoch()
        run, self.run = self.run, _Run()
        if not run.times:
            return
        context, steady = self.context, None
        self.context, self.later = self.later, Context()  # A run whose head is lost may have another batch.
        epoch_s, half, coarse = self._epoch(run)
        if epoch_s and all(took > 0 for took, _ in run.times):
            windows = Windows()
            for took, _ in run.times:
                windows.add(1.0, took)
            steady = windows.steady(min(1, len(run.times) - 1), "all but the first epoch, if there are several")
        local, whole = context.local_batch, context.global_batch
        if not local and not whole:
            gpus = self.gpus(run.line, None).gpus
            local, whole = local_and_global(context.batch, gpus, None, self.findings.known.gpus)
        step_ms = 1000 * epoch_s / run.count if epoch_s and run.count and not run.samples else None
        why = "the log gives the time of a step, but not the batch: there is no rate"
        if not run.count:
            why = "the log gives the time of an epoch, but not its number of steps"
        if coarse:
            why = coarse
        elif epoch_s and half > TOLD * epoch_s:
            self.findings.problem(run.line, f"epochs are rounded to whole seconds: within {100 * half / epoch_s:.0f} %")
        rate = run.count / epoch_s if epoch_s and run.samples else None
        self.add_run(
            run.line,
            "samples over the time of epochs" if run.samples else "batch over the time of steps",
            total=rate,
            local_batch=local,
            global_batch=whole,
            step_ms=step_ms,
            sd=steady.sd * run.count if steady and steady.sd is not None and run.samples else None,
            steady=scaled(steady, run.count or None) if not coarse else None,
            unit="samples",
            epoch_s=epoch_s,
            flags=(FLAG_VALIDATION,) if run.validated else (),
            why=why,
        )

    def _epoch(self, run: _Run) -> tuple[float | None, float, str]:
        """(s of an epoch, its largest rounding error, why it is not known).

        The mean of all epochs but the first, if there are several. If that is too coarse, the total that the script
        prints, over all epochs, where the epochs' own times allow it.
        """
        counted = run.times[1:] or run.times
        took, half = mean(took for took, _ in counted), mean(half for _, half in counted)
        if took > 0 and half <= TOLERANCE * took:
            return took, half, ""
        whole, error = sum(took for took, _ in run.times), sum(half for _, half in run.times)
        if run.total and abs(run.total[0] - whole) <= error:
            return run.total[0] / len(run.times), 0.0, ""
        told = f"an epoch took {max(took - half, 0):.3g} to {took + half:.3g} s"
        if run.total:
            told += f", and the total {run.total[0]:g} s (line {run.total[1]}) contradicts that"
        return None, half, f"epochs are rounded to whole seconds: {told}"

    def close(self) -> None:
        self._end()


def _seconds(
    count: int, whole: str, unit_time: str | None, unit: str | None, per: str | None, rest: str
) -> tuple[float, float]:
    """The seconds of an epoch and their largest rounding error: of the times on the line, the most exact one."""
    found = [(float(whole), 0.5)]
    more = [(unit_time, unit, per)] if unit_time and unit and per else []
    for number, its_unit, of in more + [match.groups() for match in _LATER.finditer(rest)]:
        if of == "epoch" or count:
            one = _SECONDS[its_unit] * (1 if of == "epoch" else count)
            found.append((int(number) * one, 0.5 * one))
    return min(found, key=lambda pair: pair[1])
