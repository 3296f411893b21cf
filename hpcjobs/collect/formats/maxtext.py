"""MaxText: lines of steps, whose rate is of one device.

    Num_devices: 256, shape (1, 1, 256, 1, ...)
    Config param per_device_batch_size: 6.0
    completed step: 7, seconds: 6.051, TFLOP/s/device: 451.236, Tokens/s/device: 8123.462, total_weights: 393216, ...

Tokens/s/device times the seconds is the batch of a device in tokens, which the configuration checks. The rate over all
devices needs their number, which `Num_devices` says. total_weights counts the tokens that are no padding.
"""

from __future__ import annotations

import re

from hpcjobs.collect.formats.facts import Fact, Facts, Product, contradiction, half, rounded
from hpcjobs.collect.formats.matches import Matches
from hpcjobs.collect.formats.steps import Run, StepReader
from hpcjobs.collect.lines import WHOLE, Line
from hpcjobs.collect.steady import scaled

_NUMBER = rb"(\d{1,12}(?:\.\d{1,12})?)" + WHOLE
_PLAIN = rb"(\d{1,12}\.\d{3})"
_DEVICES = re.compile(r"\bNum_devices: (\d{1,9})\b")
_SIZES = ("per_device_batch_size", "max_target_length", "gradient_accumulation_steps")
_PARAMETER = re.compile(r"\bConfig param (" + "|".join(_SIZES) + r"): (\d{1,9}(?:\.\d{1,9})?)\s*$")


class _Run(Run):
    """One run."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = Product("Tokens/s/device x seconds")
        self.sizes: dict[str, Fact] = {}


class MaxtextReader(StepReader[_Run]):
    """Reads the logs that the text at the top of this file describes."""

    name = "maxtext"
    begin = b"Num_devices: "
    heads = (b"Num_devices", b"Config param ", *Facts.needles)
    steps = re.compile(
        rb"completed step: (\d{1,12}), seconds: " + _NUMBER + rb", TFLOP/s/device: \d+(?:\.\d+)?"
        + rb", Tokens/s/device: " + _NUMBER
    )  # fmt: skip
    plain = re.compile(
        rb"completed step: (\d{1,12}), seconds: " + _PLAIN + rb", TFLOP/s/device: \d+\.?\d*"
        + rb", Tokens/s/device: " + _PLAIN + WHOLE
    )  # fmt: skip
    marks = (b"completed step: ",)
    fixed = True

    def new(self) -> _Run:
        return _Run()

    def head(self, line: Line) -> None:
        run = self.run
        if match := _DEVICES.search(line.text):
            run.facts.say("gpus", int(match[1]), line.number, "Num_devices")
        elif match := _PARAMETER.search(line.text):
            run.sizes[match[1]] = Fact(float(match[2]), line.number, match[1])
        elif "Config param" not in line.text:
            run.facts.take(line)

    def step(self, match: re.Match[bytes]) -> None:
        step = int(match[1])
        run, count = self.follow(step, match)
        time, rate = float(match[2]), float(match[3])
        if count and time > 0:
            run.add(1.0, time)
            run.tokens.add(rate, half(match[3]), time, half(match[2]), self.numbers.at(match.start()))

    def many(self, found: Matches, begin: int) -> int:
        run, times = self.run, rounded(found, 2, begin)
        bounds = run.tokens.bounds(rounded(found, 3, begin), times)  # none if a figure is 0
        if not bounds or not run.counts(found.wholes(1, begin)):
            return begin
        run.tokens.narrow(bounds, self.line_of(found, found.count - 1))
        run.extend([1.0] * len(times[0]), times[0])
        return found.count

    def end(self, run: _Run) -> None:
        steady, tokens = run.settled(), run.tokens.fact()
        if steady is None or tokens is None:
            return
        own, sizes = run.facts.own(self.findings), run.sizes
        gpus = self.count(run.line, own.get("gpus"))
        each = None
        if {*_SIZES[:2]} <= sizes.keys():
            each = sizes[_SIZES[0]].value * sizes[_SIZES[1]].value
            each *= sizes[_SIZES[2]].value if _SIZES[2] in sizes else 1
        said = Fact(each, sizes[_SIZES[0]].line, "tokens of a device's batch") if each else None
        why = run.tokens.why or contradiction(tokens, said, run.tokens.error(), exact=True)
        local = int(each) if each else run.tokens.whole()
        rate = steady.rate * (local or tokens.value)
        self.add_run(
            run.line,
            "Tokens/s/device",
            per_gpu=None if why else rate,
            local_batch=None if why else local,
            step_ms=None if why else 1000 / steady.rate,
            steady=scaled(steady, (local or tokens.value) * gpus) if gpus and not why else None,
            unit="tokens",
            why=why or "the log gives the rate of one device, but not how many there are",
            **own,
        )
