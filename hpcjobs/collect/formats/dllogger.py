"""NVIDIA's DLLogger, which its DeepLearningExamples use.

    DLLL {"timestamp": "...", "datetime": "...", "type": "LOG", "step": [0, 5], "data": {"train.total_ips": 545.3}}
    DLL 2022-11-24 04:06:17.895552 - (0, 200) total_ips : 3285.28
    DLL 2022-06-01 10:54:47.073847 - Epoch: 0 Iteration: 1  train.loss : 7.09  train.total_ips : 829.74 img/s
    DLL 2022-11-24 04:09:25.834875 - () train_throughput : 3279.67 images/s

The first form is written to files (JSON; some copies lack DLLL), the others to standard output, with DLLL until 2019.
A step without numbers is the run's summary, one number is an epoch or a step, two are an iteration. A step of three
numbers, or with the word validation, is not training. The summary's figure counts if there is one, else the
iterations, else the epochs. An iteration that a script repeats (it skips the update while the loss scale is too
large) does not count. Rates are over all GPUs. NeMo logs no rate, but consumed_samples and the time of a step.
PARAMETER begins a run, and so does an iteration long before the newest. Its batch_size is per GPU in some scripts and
global in others, with or without accumulation: rates and time stamps decide, and without them it stays open.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections import deque
from typing import Any

from hpcjobs.collect.agreement import Figure, Kind, alike
from hpcjobs.collect.formats import context
from hpcjobs.collect.formats.reader import Findings, FormatReader
from hpcjobs.collect.lines import Line, seconds
from hpcjobs.collect.steady import Windows

_JSON = re.compile(r"(?:DLLL )?(\{.*\"type\": ?\"(?:LOG|METADATA)\".*\})")
_PLAIN = re.compile(r"\bDLLL? (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[.\d]*) - (.*)")
_PAIR = re.compile(r"(?:^|(?<=\s))([^\s:]\S*) : (\[[^\]]*\]|\S+)")
_STDOUT = re.compile(r"^\s*(Num GPUs|Per-GPU Batch Size|Global Batch Size)[: ]+(\d+)\s*$")

# The first of these keys that a script logs is its training throughput.
_KEYS = (
    *("train_throughput", "throughput_train", "average_train_throughput", "avg_train_throughput"),
    *("train.total_ips", "total_ips", "train.ips", "training_sequences_per_second", "avg_exp_per_second_train"),
    *("train_images_per_second", "train_samples_per_second", "train_imgs_per_s", "train_items_per_sec"),
    *("train_epoch_avg_items/sec", "train_avg_items/sec", "throughput", "ips", "images_per_second", "img/sec"),
)
_RANKS = {key: rank for rank, key in enumerate(_KEYS)}
# NeMo's names: samples since the begin, and s of a step (a moving mean).
_CONSUMED, _TIMING = "consumed_samples", ("train_step_timing in s", "train_step_timing")
_UNITS = ("images", "sequences", "samples", "tokens", "frames")
_STEPS_KEPT = 500
# A step before so many newest ones is of another run. What comes less late is another rank's.
_LAG = 4
_ACCUMULATION = ("num_accumulation_steps", "gradient_accumulation_steps", "accumulate_grad_batches", "grad_accum_steps")


class _Run:
    """One run, with the figures of each throughput key."""

    def __init__(self) -> None:
        self.line = 0
        self.rank = ""
        self.parameters: dict[str, Any] = {}
        self.stdout: dict[str, int] = {}
        self.units: dict[str, str] = {}
        self.summary: dict[str, float] = {}
        self.iterations: dict[str, Windows] = {}
        self.epochs: dict[str, Windows] = {}
        self.implied: list[float] = []  # global batches, from rates and time stamps
        self.took: list[float] = []  # s of a step, from time stamps
        self.before: tuple[tuple[int, ...], float] | None = None
        self.pending: dict[str, tuple[tuple[int, ...], float]] = {}  # key: newest iteration and rate, not yet counted
        self.recent: deque[tuple[int, ...]] = deque(maxlen=_LAG)  # the newest iterations
        self.again: dict[str, int] = {}  # key: lines of iterations that were repeated
        self.all: dict[str, Windows] = {}  # iterations with the repeated ones
        self.consumed: tuple[float, float] | None = None  # samples and time of the newest line
        self.samples = Windows()
        self.timings = Windows()

    def iterate(self, key: str, step: tuple[int, ...], rate: float) -> None:
        """Take the rate of an iteration. It counts when the next comes, and not if that has the same number."""
        self.all.setdefault(key, Windows()).add(1.0, 1 / rate)
        before = self.pending.get(key)
        if before is not None and before[0] == step:
            self.again[key] = self.again.get(key, 1) + 1
        elif before is not None:
            self._flush(key, before[1])
        self.pending[key] = step, rate

    def _flush(self, key: str, rate: float) -> None:
        if not self.again.pop(key, 0):
            self.iterations.setdefault(key, Windows()).add(1.0, 1 / rate)

    def finish(self) -> None:
        """Count the last iterations. If ranks without a prefix print every iteration, all of them count."""
        for key, (_, rate) in self.pending.items():
            self._flush(key, rate)
            kept = self.iterations.get(key)
            if kept is None or len(kept) * 2 < len(self.all[key]):
                self.iterations[key] = self.all[key]


class DlloggerReader(FormatReader):
    """Reads the logs that the text at the top of this file describes."""

    name = "dllogger"
    needles = (b"DLL", b'"type": "', b"Num GPUs", b"Batch Size")

    def __init__(self, findings: Findings) -> None:
        super().__init__(findings)
        self.run = _Run()

    def take(self, line: Line) -> None:
        text = line.text
        if match := _PLAIN.search(text):
            self._plain(line, match[1], match[2])
        elif match := _JSON.search(text):
            self._json(line, match[1])
        elif match := _STDOUT.match(text):
            self.run.stdout.setdefault(match[1], int(match[2]))

    def _json(self, line: Line, text: str) -> None:
        try:
            entry = json.loads(text)
            kind, step, data = entry["type"], entry.get("step"), entry.get("data")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return
        if kind == "METADATA":
            about = entry.get("metadata")
            unit = about.get("unit") if isinstance(about, dict) else None
            if isinstance(unit, str):
                self.run.units.setdefault(str(entry.get("metric")), unit)
        elif isinstance(data, dict) and step == "PARAMETER":
            self._parameters(line, data)
        elif isinstance(data, dict):
            numbers = step if isinstance(step, list) else [step] if isinstance(step, int) else []
            known = all(isinstance(number, int) for number in numbers)
            if known and (isinstance(step, (list, int)) or step in ("", None)):
                at = _float(entry.get("timestamp")) or seconds(str(entry.get("datetime")))
                self._figures(line, tuple(numbers), at, data)

    def _plain(self, line: Line, stamp: str, rest: str) -> None:
        if rest.startswith("PARAMETER"):
            self._parameters(line, dict(_PAIR.findall(rest)))
            return
        first = _PAIR.search(rest)
        step = rest[: first.start()] if first else ""
        if first is None or "alidation" in step or "Eval" in step or "Test" in step:
            return
        data, matches = {}, list(_PAIR.finditer(rest))
        for match, after in zip(matches, [*matches[1:], None], strict=True):
            unit = rest[match.end() : after.start() if after else None].strip()
            if unit[:1].isdigit():  # The value is a part of a number.
                continue
            data[match[1]] = match[2]
            if unit and match[1] in _RANKS:
                self.run.units.setdefault(match[1], unit)
        numbers = tuple(map(int, re.findall(r"\d+", step)))
        self._figures(line, numbers, seconds(stamp) if len(self.run.implied) < _STEPS_KEPT else None, data)

    def _parameters(self, line: Line, data: dict[str, Any]) -> None:
        run = self.run
        if (run.summary or run.iterations or run.epochs) and line.rank == run.rank:
            self._end()
        for key, value in data.items():
            self.run.parameters.setdefault(key.removeprefix("cfg/"), value)

    def _figures(self, line: Line, step: tuple[int, ...], at: float | None, data: dict[str, Any]) -> None:
        run = self.run
        found = [(key, rate) for key in data if key in _RANKS and (rate := _float(data[key])) is not None and rate > 0]
        consumed = _float(data.get(_CONSUMED))
        if (not found and consumed is None) or len(step) > 2:
            return
        if run.line and line.rank != run.rank:
            return  # another rank's copy
        iterates = bool(found) and (len(step) == 2 or (len(step) == 1 and "Iteration" in line.text))
        if iterates and len(run.recent) == _LAG and step < run.recent[0]:
            units = run.units
            self._end()
            self.anew(self.findings.before, line.number)
            run = self.run
            run.units = units
        if not run.line:
            run.line, run.rank = line.number, line.rank
        if iterates and (not run.recent or step > run.recent[-1]):
            run.recent.append(step)
        for key, rate in found:
            if not step:
                run.summary[key] = rate
            elif iterates:
                run.iterate(key, step, rate)
            else:
                run.epochs.setdefault(key, Windows()).add(1.0, 1 / rate)
        if consumed is not None and at is not None:
            if run.consumed and consumed > run.consumed[0]:
                run.samples.add(consumed - run.consumed[0], at - run.consumed[1])
            run.consumed = consumed, at
            timing = next((took for name in _TIMING if (took := _float(data.get(name))) is not None), None)
            if timing is not None and timing > 0:
                run.timings.add(1.0, timing)
        if len(step) == 2 and at is not None and found:
            if run.before and len(run.implied) < _STEPS_KEPT:
                (epoch, iteration), before = run.before[0], run.before[1]
                count = step[1] - iteration
                if step[0] == epoch and count > 0 and at > before:
                    run.implied.append(found[0][1] * (at - before) / count)
                    run.took.append((at - before) / count)
            run.before = step, at

    def _end(self) -> None:
        run, self.run = self.run, _Run()
        run.finish()
        keys = sorted({*run.summary, *run.iterations, *run.epochs}, key=_RANKS.__getitem__)
        if not keys:
            self._consumed(run)
            return
        # A summary counts before iterations, even if its key comes later in _KEYS.
        key = next((key for key in keys if key in run.summary), keys[0])
        about, gpus = run.parameters, _gpus(run)
        if re.search("infer|eval|predict|test", str(about.get("mode", "train"))):
            self.findings.problem(run.line, f"mode {about['mode']}: not a training")
            return
        figures, name = (run.iterations, "iterations") if run.iterations else (run.epochs, "epochs")
        steady = figures[min(figures, key=_RANKS.__getitem__)].steady() if figures else None
        figure, total = f"{key} of the summary", run.summary.get(key)
        if total is None:
            assert steady is not None
            figure, total = f"{key} of {name}", steady.rate
        implied = statistics.median(run.implied) if run.implied else None
        local, whole = run.stdout.get("Per-GPU Batch Size"), run.stdout.get("Global Batch Size")
        whole = whole or _whole(about, "global_batch_size", "total_batch_size")
        local = local or _whole(about, "local_batch_size", "batch_size_per_gpu", "per_gpu_batch_size")
        checks = []
        if len(run.took) > 3:  # The batch and the time stamps check the rate, if the batch is said and not derived.
            checks = [
                Figure(
                    Kind.STEP,
                    statistics.median(run.took),
                    run.line,
                    "time between iterations",
                    half=0.01,
                    last=self.findings.at,
                )
            ]
        if not local and not whole:
            checks = []
            batch = _whole(about, "batch_size", "train_batch_size")
            times = _whole(about, *_ACCUMULATION) or 1
            local, whole = context.local_and_global(batch, gpus, implied, self.findings.known.gpus, times)
        self.add_run(
            run.line,
            figure,
            total=total,
            figures=checks,
            gpus=gpus,
            nodes=_whole(about, "num_nodes", "nnodes", "n_nodes"),
            local_batch=local,
            global_batch=whole,
            sd=steady.sd if steady else None,
            steady=steady,
            unit=_unit(keys, next((run.units[key] for key in keys if key in run.units), "")),
            device="cpu" if str(about.get("cpu")).lower() == "true" else "gpu",
            model=str(about.get("arch") or about.get("model_name") or about.get("model") or ""),
            precision=_precision(about),
        )

    def _consumed(self, run: _Run) -> None:
        """Add a run of NeMo, whose samples over time count; the step's time, a moving mean, supports them."""
        steady = run.samples.steady()
        if steady is None:
            return
        figures = [Figure(Kind.TOTAL, steady.rate, run.line, "consumed_samples over time", steady=steady)]
        if timing := run.timings.steady():
            figures.append(Figure(Kind.STEP, 1 / timing.rate, run.line, "train_step_timing", alone=False))
        about = run.parameters
        batch = _whole(about, "global_batch_size")
        if timing and batch and not alike(batch * timing.rate, steady.rate):
            told = f"consumed_samples over time ({steady.rate:.4g}/s) holds pauses that train_step_timing leaves out"
            self.findings.problem(0, f"{told} ({batch * timing.rate:.4g}/s)", run.line)
        self.add_run(
            run.line,
            "consumed_samples over time",
            figures=figures,
            gpus=_gpus(run),
            nodes=_whole(about, "num_nodes", "nnodes", "n_nodes"),
            global_batch=batch,
            tokens=_whole(about, "encoder_seq_length", "seq_length"),
            unit="sequences" if "encoder_seq_length" in about else "samples",
            device="gpu",
            precision=_precision(about),
        )

    def close(self) -> None:
        self._end()


def _float(value: object) -> float | None:
    """A finite number, also of a text; else None."""
    try:
        found = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def _whole(about: dict[str, Any], *names: str) -> int | None:
    for name in names:
        value = about.get(name)
        if isinstance(value, (int, str)) and not isinstance(value, bool) and re.fullmatch(r"[1-9]\d*", str(value)):
            return int(value)
    return None


def _gpus(run: _Run) -> int | None:
    if "Num GPUs" in run.stdout:
        return run.stdout["Num GPUs"] or None
    number = _whole(run.parameters, "world_size", "num_gpus", "n_gpus", "n_gpu", "ngpus", "num_gpu", "gpu_count")
    devices = run.parameters.get("gpus")
    if number is None and devices is not None:
        listed = devices if isinstance(devices, list) else re.findall(r"\d+", devices) if "[" in str(devices) else None
        number = len(listed) if listed else _whole(run.parameters, "gpus")
    return number


def _unit(keys: list[str], unit: str) -> str:
    for word in (unit, *keys):
        for begins, name in zip(("im", "seq", "sample", "tok", "frame"), _UNITS, strict=True):
            if re.search(rf"(?:^|[^a-z]){begins}", word.lower()):
                return name
    # In all scripts that log ips it is images per second.
    return "images" if any("ips" in key for key in keys) else "samples"


def _precision(about: dict[str, Any]) -> str:
    if str(about.get("amp", about.get("use_amp"))).lower() == "true":
        return "amp"
    if str(about.get("fp16")).lower() == "true":
        return "float16"
    return str(about.get("dtype") or about.get("precision") or ("float32" if "amp" in about else ""))
