"""Swin Transformer's main.py and the projects that began with it.

    RANK and WORLD_SIZE in environ: 0/8
    [2024-09-24 09:36:48 swin_tiny] (main.py 188): INFO Train: [0/300][10/1251]  eta 0:08:30 lr 0.000002  wd 0.0500
      time 0.4012 (0.5310)  loss 6.9012 (6.9120)  grad_norm 1.2 (1.3)  mem 12345MB

Of the configuration that it prints, BATCH_SIZE is of one GPU, and ACCUMULATION_STEPS lines of steps are one step of the
optimizer. In brackets stands the mean since the epoch's begin, which counts.
"""

from __future__ import annotations

import re

from hpcjobs.collect.formats.facts import Facts
from hpcjobs.collect.formats.meters import EpochRun, MeterReader
from hpcjobs.collect.lines import WHOLE, Line

_NUMBER = rb"(\d{1,12}(?:\.\d{1,12})?)" + WHOLE
_PLAIN = rb"(\d{1,12}\.?\d{0,12})"
_WORLD = re.compile(r"RANK and WORLD_SIZE in environ: \d+/(\d{1,9})\b")
_SETTING = re.compile(r"^ *(BATCH_SIZE|ACCUMULATION_STEPS): (\d{1,9})\s*$")
_CONFIG = re.compile(r"\bINFO (?:AMP|AUG)|^(?:AMP|AUG)[A-Z_]*:")


class SwinReader(MeterReader[EpochRun]):
    """Reads the logs that the text at the top of this file describes."""

    name = "swin"
    begin = b"WORLD_SIZE in environ"
    heads = (b"WORLD_SIZE in environ", b"BATCH_SIZE: ", b"ACCUMULATION_STEPS: ", b"INFO A", *Facts.needles)
    steps = re.compile(
        rb"Train: \[(\d{1,9})/\d{1,9}\]\[ *(\d{1,9})/(\d{1,9})\]\s+eta [^\n\x1e]*?\btime +" + _NUMBER + rb" +\( *"
        + _NUMBER + rb"\)"
    )  # fmt: skip
    plain = re.compile(
        rb"Train: \[(\d{1,9})/\d{1,9}\]\[ *(\d{1,9})/(\d{1,9})\]\s+eta [^t\n]*\btime +" + _PLAIN + rb" +\( *" + _PLAIN
        + rb"\)"
    )  # fmt: skip
    marks = (b"Train: [",)

    def new(self) -> EpochRun:
        return EpochRun()

    def head(self, line: Line) -> None:
        facts = self.run.facts
        if match := _WORLD.search(line.text):
            facts.say("gpus", int(match[1]), line.number, "WORLD_SIZE in environ")
        elif match := _SETTING.match(line.text):
            facts.say(
                "local_batch" if match[1] == "BATCH_SIZE" else "accumulation", int(match[2]), line.number, match[1]
            )
        elif _CONFIG.search(line.text):  # The configuration comes again: another start, before any step.
            for name in ("local_batch", "accumulation"):
                facts.first.pop(name, None)
                facts.against.pop(name, None)
        else:
            facts.take(line)

    def step(self, match: re.Match[bytes]) -> None:
        epoch, step, of, _, mean = match.groups()
        self.epoch_line(int(epoch), int(step), int(of), mean, match.start())

    def end(self, run: EpochRun) -> None:
        accumulation = run.facts.get("accumulation") or 1
        why = ""
        if "accumulation" in run.facts.against:
            why = "the log says two accumulations of gradients: no figure counts"
        self.add_epochs(run, run.steady(), "mean time of a step", "samples", accumulation=accumulation, why=why)
