"""PaddlePaddle's toolkits (Clas, Detection, OCR, Seg, Video, NLP, FleetX): `ips`, a rate of one GPU.

    [Train][Epoch 1/120][Iter: 10/626]lr: 0.1, batch_cost: 0.36s, reader_cost: 0.2, ips: 700.1 samples/s, eta: ...
    epoch: [3/40], global_step: 900, ..., avg_batch_cost: 0.012, avg_samples: 32, ips: 268.31 samples/s, eta: 0:12:03
    global step 2, ..., avg_batch_cost: 0.133 sec, speed: 7.51 step/s, ips_total: 61529 tokens/s, ips: 7691 tokens/s

ips times the time of a step is the batch of a GPU. It may vary if it is in tokens, or if each line says its samples, as
the last of an epoch has fewer. ips_total is over all GPUs: together with ips it says how many.
Where `speed: ... step/s` stands without ips_total, ips was of one GPU in some versions and of all in others: it counts
if there is one GPU, or if the batch says which.
"""

from __future__ import annotations

import math
import re
from itertools import repeat

from hpcjobs.collect.formats.facts import Facts, Product, half, rounded
from hpcjobs.collect.formats.matches import CUT, Matches, same, wholes
from hpcjobs.collect.formats.steps import Run, StepReader
from hpcjobs.collect.lines import WHOLE, Line
from hpcjobs.collect.steady import Windows, scaled

_NUMBER = rb"(\d{1,12}(?:\.\d{1,12})?)" + WHOLE
_PLAIN = rb"(\d{1,12}\.\d{5})"
_TRAINERS = re.compile(r"\b(?:PADDLE_TRAINERS_NUM\W{1,80}|the number of gpu is )(\d{1,9})\b")
_LAUNCH = re.compile(r"paddle\.distributed\.launch\b.*? --(?:selected_gpus|gpus|devices)[= ]['\"]?(\d+(?:,\d+)*)")
# Of several nodes, of which a launcher's line says the GPUs of one.
_NODES = re.compile(r" --(?:nnodes[= ](\d{1,6})(?![\d:])|(?:ips|cluster_node_ips)[= ]['\"]?([^\s'\"]+)|nnodes)")
_OTHER = re.compile(rb"(?i)\beval|\bval(?:id)?\b|\btest|\bEND ")
_TOTAL = re.compile(rb" ips_total: " + _NUMBER)
_SAMPLES = re.compile(rb"\bavg_samples:? (\d{1,12}(?:\.\d{1,12})?),")
_STEP = re.compile(
    rb"(?i)(?:global[_ ]step|iter|step|batch)[:\]]? ?\[? *(\d{1,12})(?:/\d{1,12})?|\] +\[ *(\d{1,12})/\d"
)
_EPOCH = re.compile(rb"(?i)epoch:? ?\[? *(\d{1,9})")
_BEFORE = re.compile(rb"\D*\Z")
_UNITS = {b"image": "images", b"img": "images", b"sequence": "sequences", b"token": "tokens", b"word": "tokens"}


class _Run(Run):
    """One run."""

    def __init__(self) -> None:
        super().__init__()
        self.local = Product("ips x time of a step")
        self.work = Windows()  # samples and s of steps
        self.counted = True  # whether lines say their samples, or count tokens
        self.ratio = Product("GPUs by ips_total and ips:")
        self.total = False
        self.open = False  # whether ips may be of all GPUs
        self.unit = "samples"
        self.epoch = -1


class PaddleReader(StepReader[_Run]):
    """Reads the logs that the text at the top of this file describes."""

    name = "paddle"
    begin = b"PADDLE_TRAINERS_NUM"
    heads = (b"PADDLE_TRAINERS_NUM", b"number of gpu is", b"distributed.launch", *Facts.needles)
    steps = re.compile(
        rb"batch_cost:? " + _NUMBER + rb"([^\n\x1e]*?)[ _]ips:? " + _NUMBER + rb"(?: ?([a-z]+)/s)?"
    )  # fmt: skip
    plain = re.compile(rb"batch_cost: " + _PLAIN + rb"()[s, ][^/\n]* ips: " + _PLAIN + rb" ([a-z]+)/s")
    marks = (b"batch_cost",)
    fixed = True

    def new(self) -> _Run:
        return _Run()

    def head(self, line: Line) -> None:
        facts = self.run.facts
        if match := _TRAINERS.search(line.text):
            facts.say("gpus", int(match[1]), line.number, "PADDLE_TRAINERS_NUM")
        elif match := _LAUNCH.search(line.text):
            nodes = _NODES.search(line.text)
            times = int(nodes[1] or 0) or (nodes[2].count(",") + 1 if nodes[2] else 0) if nodes else 1
            facts.say("gpus", (match[1].count(",") + 1) * times, line.number, "GPUs of paddle.distributed.launch:")
        else:
            facts.take(line)

    def step(self, match: re.Match[bytes]) -> None:
        block, at = self.numbers.block, match.start()
        before = block[max(block.rfind(b"\n", 0, at), block.rfind(b"\x1e", 0, at)) + 1 : at]
        if _OTHER.search(before):
            return
        run, cost, rate = self.run, float(match[1]), float(match[3])
        if (epoch := _EPOCH.search(before)) and int(epoch[1]) != run.epoch:
            if int(epoch[1]) < run.epoch:
                run = self.again(at)
            elif b"global" not in before:
                run.last = -1
            run.epoch = int(epoch[1])
        if step := _STEP.search(_EPOCH.sub(b"", before)):
            count = run.count(int(step[1] or step[2]))
            if count < 0:
                run = self.again(at)
            elif count <= 0:
                return
        if not (0 < cost < math.inf and 0 < rate < math.inf):
            return
        line = self.numbers.at(at)
        run.unit = _unit(match[4])
        run.add(1.0, cost)
        if run.counted:
            counted = _SAMPLES.search(match[2])
            run.counted = run.unit == "tokens" or (counted is not None and _near(rate * cost, float(counted[1])))
            run.work.add(rate * cost, cost)
        run.local.add(rate, half(match[3]), cost, half(match[1]), line)
        if whole := _TOTAL.search(match[2]):
            run.total = True
            run.ratio.add(float(whole[1]), half(whole[1]), 1 / rate, half(match[3]) / rate**2, line)
        run.open = run.open or (not whole and b"step/s" in match[2])

    def many(self, found: Matches, begin: int) -> int:
        run, end = self.run, begin + self.words_alike(begin)
        if begin == end or run.counted:
            return begin
        units, gaps = found.column(4, begin, end), found.before(begin, end)
        line, text = gaps[0][gaps[0].rfind(b"\n") + 1 :], CUT.join(gaps)
        if _OTHER.search(line) or not same(units) or b"/" in b"".join(found.column(2, begin, end)):
            return begin  # "/": ips_total, or steps a second
        # All lines say the same up to the step: so each has its epoch and its step where one has them.
        epoch, step = _EPOCH.search(line), _STEP.search(_EPOCH.sub(lambda match: b"\n" * len(match[0]), line))
        if not step or (epoch and int(epoch[1]) != run.epoch):
            return begin
        at, stop = step.span(step.lastindex or 0)
        mark = line[epoch.start() if epoch else _BEFORE.search(line, 0, at).start() : at]  # type: ignore[union-attr]
        steps = text.split(mark)[1:]
        if len(steps) != len(gaps) or not line[stop : stop + 1].strip():
            return begin
        first, last = steps[0].find(line[stop]), steps[-1].find(line[stop])
        # Of as many digits as the first and the last have, all between them are whole if they ascend.
        widths = repeat(first) if first == last else [one.find(line[stop]) for one in steps]
        count = wholes([one[:width] for one, width in zip(steps, widths, strict=False)])
        costs, rates = rounded(found, 1, begin, end), rounded(found, 3, begin, end)
        bounds = run.local.bounds(rates, costs)  # none if a figure is 0
        if not bounds or not run.counts(count):
            return begin
        run.local.narrow(bounds, self.line_of(found, end - 1))
        run.unit = _unit(units[0])
        run.extend([1.0] * len(costs[0]), costs[0])
        return end

    def end(self, run: _Run) -> None:
        facts, local, steady = run.facts, run.local.fact(), run.settled()
        if local is None or steady is None:
            return
        work = run.work.steady() if run.local.why and run.counted else None  # of batches that vary
        why = run.ratio.why or ("" if work else run.local.why)
        if (counted := run.ratio.whole()) is not None:
            facts.say("gpus", counted, run.ratio.line, run.ratio.words)
        own = facts.own(self.findings)
        gpus = self.count(run.line, own.get("gpus"))
        each, whole = facts.first.get("local_batch"), facts.first.get("global_batch")
        times = gpus
        if run.open and gpus != 1 and run.unit != "tokens" and whole and _near(local.value, whole.value):
            times = 1
        elif run.open and gpus != 1 and not (each and _near(local.value, each.value)):
            why = why or "ips may be of one GPU or of all: the log does not say which"
        elif each and not work and not _near(local.value, each.value) and run.unit != "tokens":
            why = why or f"the log contradicts itself: {local}; {each}: no figure counts"
        batch = None if work else run.local.whole()
        rate = work.rate if work else steady.rate * (batch or local.value)
        self.add_run(
            run.line,
            "ips_total" if run.total else "ips of one GPU" if times == gpus else "ips of all GPUs",
            total=rate * times if times and not why else None,
            per_gpu=rate if times == gpus and not why else None,
            local_batch=batch if times == gpus and not why else None,
            global_batch=batch * times if batch and times and not why else None,
            step_ms=None if why else 1000 / steady.rate,
            steady=scaled(*((work, times) if work else (steady, (batch or local.value) * times)))
            if times and not why
            else None,
            unit=run.unit,
            why=why or "the log gives the rate of one GPU, but not how many there are",
            **own,
        )


def _unit(word: bytes | None) -> str:
    return next((unit for begin, unit in _UNITS.items() if (word or b"").startswith(begin)), "samples")


def _near(one: float, other: float) -> bool:
    return 0.9 * other < one < 1.1 * other
