"""torchtitan: lines of steps, whose tps (wps until 2024) is in tokens a second of one GPU.

    [rank0]:[titan] 2025-08-22 07:52:50,101 - root - INFO - Building 1-D device mesh with ['dp_shard'], [8]
    [rank0]:[titan] ... - Trainer is initialized with local batch size 1, global batch size 8, gradient accumulation
      steps 1, sequence length 8192, total steps 10 (warmup 200)
    [rank0]:[titan] ... - step: 14  loss:  3.24405  grad_norm: 0.8319  memory: 9.46GiB(64.99%)  tps: 7,282  tflops: ...

The mesh says the number of GPUs. Where ranks print the same step, the first line counts. Time stamps check the batch.
"""

from __future__ import annotations

import math
import re
from operator import truediv

from hpcjobs.collect.formats.facts import Fact, Facts, contradiction
from hpcjobs.collect.formats.matches import Matches, grouped
from hpcjobs.collect.formats.stamps import Stamps, line_before
from hpcjobs.collect.formats.steps import Run, StepReader
from hpcjobs.collect.lines import Line
from hpcjobs.collect.steady import scaled

_MESH = re.compile(r"\bBuilding \d-D device mesh with .{0,200}?[\])], ?\[([\d, ]{1,60})\]")
_DEGREES = re.compile(r"\bBuilding device mesh with parallelism: (.{0,200})")
_DEGREE = re.compile(r"\b(?:pp|dp_replicate|dp_shard|cp|tp)=(\d{1,6})\b")
_BATCH = re.compile(r"\bglobal batch size (\d{1,9}),.{0,80}? sequence length (\d{1,9})\b")


class _Run(Run):
    """One run."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens: Fact | None = None  # of a step of all GPUs
        self.implied = Stamps()  # times tps: the tokens of a step of one GPU


class TorchtitanReader(StepReader[_Run]):
    """Reads the logs that the text at the top of this file describes."""

    name = "torchtitan"
    begin = b"device mesh with "
    heads = (b"device mesh with ", b"global batch size ", *Facts.needles)
    steps = re.compile(
        rb"step: +(\d{1,12}) +loss: [^\n\x1e]*? memory: [^\n\x1e]*?[tw]ps: (\d{1,3}(?:,\d{3}){1,4}|\d{1,12})(?=\s)"
    )
    plain = re.compile(
        rb"step: +(\d{1,12}) +loss: +\S+ +(?:grad_norm: +\S+ +)?memory: +\S+ +[tw]ps: (\d{1,3}(?:,\d{3})*)(?=\s)"
    )
    marks = (b"tps: ", b"wps: ")

    def new(self) -> _Run:
        return _Run()

    def head(self, line: Line) -> None:
        facts = self.run.facts
        if match := _MESH.search(line.text):
            facts.say("gpus", math.prod(map(int, re.findall(r"\d+", match[1]))), line.number, "GPUs of the device mesh")
        elif match := _DEGREES.search(line.text):
            facts.say("gpus", math.prod(map(int, _DEGREE.findall(match[1]))), line.number, "GPUs of the device mesh")
        elif match := _BATCH.search(line.text):
            self.run.tokens = Fact(int(match[1]) * int(match[2]), line.number, "tokens of the global batch")
        else:
            facts.take(line)

    def step(self, match: re.Match[bytes]) -> None:
        step = int(match[1])
        run, count = self.follow(step, match)
        rate = float(match[2].replace(b",", b""))
        if not count or not rate:
            return
        run.add(float(count), count / rate)
        if run.implied.open():
            run.implied.take(line_before(self.numbers.block, match.start()), count, rate)

    def many(self, found: Matches, begin: int) -> int:
        run = self.run
        rates, stamped = grouped(found.column(2, begin)), run.implied.wanted(found, begin)
        if min(rates) <= 0 or not (ahead := run.counts(found.wholes(1, begin))):
            return begin
        run.implied.extend(stamped, ahead, rates)
        run.extend(ahead, list(map(truediv, ahead, rates)))
        return found.count

    def end(self, run: _Run) -> None:
        steady = run.settled()
        if steady is None:
            return
        own = run.facts.own(self.findings)
        gpus = self.count(run.line, own.get("gpus"))
        why = ""
        if run.tokens and gpus and (tokens := run.implied.median()):
            implied = Fact(
                gpus * tokens,
                run.line,
                "tokens of a step by tps and time stamps",
                self.findings.at,
            )
            why = contradiction(implied, run.tokens)
        whole = int(run.tokens.value) if run.tokens and not why else None
        self.add_run(
            run.line,
            "tps of one GPU",
            per_gpu=None if why else steady.rate,
            global_batch=whole,
            sd=steady.sd * gpus if steady.sd is not None and gpus and not why else None,
            steady=scaled(steady, gpus) if not why else None,
            unit="tokens",
            why=why or "the log gives the rate of one GPU, but not how many there are",
            **own,
        )
