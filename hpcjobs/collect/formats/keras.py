"""Keras' progress, from Keras 1 to 3.

    Epoch 2/10
    4096/4096 - 749s - loss: 0.1983 - val_loss: 0.1414                        verbose=2
    4096/4096 - 749s - loss: 0.1983 - val_loss: 0.1414 - 749s/epoch - 183ms/step
    4096/4096 - 749s - 183ms/step - loss: 0.1983 - val_loss: 0.1414           Keras 3
    100/100 [==============================] - 12s 118ms/step - loss: 0.5     bar; on one line after \\r and backspaces
    100/100 ━━━━━━━━━━━━━━━━━━━━ 12s 118ms/step - loss: 0.5                   Keras 3, with colours and backspaces
    60000/60000 [==============================] - 4s 66us/sample - loss: 0.3 counts samples, as where
    Train on 60000 samples, validate on 10000 samples                         says so: Keras to 2.3, TensorFlow to 2.1
     - 12s - loss: 0.5                                                        Keras 2, verbose=2: no count

Only the last line of an epoch counts: the rest is progress. A line without Epoch before it and without val_ is taken
for evaluate(). Several ranks' lines of an epoch are one: their mean. An epoch's time contains its validation.
Keras says neither batch nor GPUs; a script may, in plain words.
"""

from __future__ import annotations

import re

from hpcjobs.collect.formats.context import Facts, split
from hpcjobs.collect.formats.reader import Findings, Room, mean
from hpcjobs.collect.lines import Line, unstamped
from hpcjobs.collect.steady import Windows, scaled

_EPOCH = re.compile(r"(?:^|\s)Epoch (\d+)/(\d+)\s*$")
_TIME = r"(\d+)s(?: +(?:- )?(\d+)(ms|us|μs|s|ns)/(step|sample|epoch))?"
_DONE = re.compile(r"(?:^|\s)(\d+)/(\d+)(?: \[=+\]| ━+)?(?: -)? " + _TIME + r"(?= - )(.*)")
_BARE = re.compile(r"^\s?- " + _TIME + r"(?= - )(.*)")
_LATER = re.compile(r" - (\d+)(ms|us|μs|s|ns)/(epoch|step)\b")
_TRAIN_ON = re.compile(r"Train on (\d+) (?:samples|steps)")
_METRIC = re.compile(r"\b\w*loss: (?:\d|nan)")
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "μs": 1e-6, "ns": 1e-9}

FLAG_VALIDATION = "validation_in_epoch"


class _Epoch:
    """One epoch: what each rank says of it."""

    def __init__(self, number: int, line: int) -> None:
        self.number, self.line = number, line
        self.seconds: dict[tuple[str, int], float] = {}  # (rank, line): s; the last of a line counts
        self.count = 0  # steps or samples; 0: not said
        self.samples = False
        self.validated = False


class _Run:
    """One fit()."""

    def __init__(self) -> None:
        self.line = 0
        self.epoch: _Epoch | None = None
        self.windows = Windows()
        self.count = 0
        self.samples = False
        self.validated = False


class KerasRoom(Room):
    """See above."""

    name = "keras"
    needles = (b"loss: ", b"Epoch ", b"Train on ", *Facts.needles)

    def __init__(self, findings: Findings) -> None:
        super().__init__(findings)
        self.run = _Run()
        self.facts = Facts()
        self.train_on: int | None = None
        self.heads: dict[str, int] = {}  # rank: number of the epoch that it announced last
        self.due: dict[str, int] = {}  # rank: announced epochs that have not ended; untagged ranks are one
        self.headed = False
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
        elif match := _TRAIN_ON.search(text):
            self.train_on = int(match[1])
        else:
            self.facts.take(text)

    def _announce(self, number: int, line: Line) -> None:
        self.headed = True
        epoch = self.run.epoch
        if epoch is not None and number < epoch.number:
            self._end()
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
            if self.headed or not validated or line.text == self.last:  # evaluate(), or the copy of another rank
                return
            # Without any Epoch line: each rank's next one.
            done = 0 if epoch is None else sum(rank == line.rank for rank, _ in epoch.seconds)
            number = 1 if epoch is None else epoch.number + (1 if done else 0)
        self.last = line.text
        seconds = _seconds(count, whole, unit_time, unit, per, rest)
        if seconds is None:
            return
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
        run.windows.add(1.0, mean(epoch.seconds.values()))

    def _end(self) -> None:
        self._close_epoch()
        run, self.run = self.run, _Run()
        steady = run.windows.steady(min(1, len(run.windows) - 1), "without the first epoch, if there are several")
        if steady is None:
            return
        epoch_s, facts = 1 / steady.rate, self.facts
        local, whole = facts.local_batch, facts.global_batch
        if not local and not whole:
            local, whole = split(facts.batch, facts.gpus, None, self.findings.option)
        step_ms = 1000 * epoch_s / run.count if run.count and not run.samples else None
        why = "Keras says steps and seconds, but the log not the batch: no rate can be had"
        if not run.count:
            why = "the log says the seconds of an epoch, but not of how many steps"
        rate = run.count / epoch_s if run.samples else None
        self.tell(
            run.line,
            "samples over the time of epochs" if run.samples else "batch over the time of steps",
            total=rate,
            gpus=facts.gpus,
            nodes=facts.nodes,
            local_batch=local,
            global_batch=whole,
            step_ms=step_ms,
            sd=steady.sd * run.count if steady.sd is not None and run.samples else None,
            steady=scaled(steady, run.count or None),
            unit="samples",
            epoch_s=epoch_s,
            flags=(FLAG_VALIDATION,) if run.validated else (),
            why=why,
        )

    def close(self) -> None:
        self._end()


def _seconds(
    count: int, whole: str, unit_time: str | None, unit: str | None, per: str | None, rest: str
) -> float | None:
    """Seconds of an epoch: of those that the line gives, the one that is rounded least."""
    # (seconds, what rounding makes of it at most, as a fraction)
    told = [(float(whole), 0.5 / int(whole))] if int(whole) else []
    more = [(unit_time, unit, per)] if unit_time and unit and per else []
    for number, its_unit, of in more + [match.groups() for match in _LATER.finditer(rest)]:
        if int(number) and (of == "epoch" or count):
            told.append((int(number) * _SECONDS[its_unit] * (1 if of == "epoch" else count), 0.5 / int(number)))
    return min(told, key=lambda pair: pair[1])[0] if told else None
