"""Reads anyone's log, of a given or a detected format, into measurements and problems."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import math
import re
from collections.abc import Collection
from pathlib import Path

from hpcjobs.base.errors import InputError, nearest
from hpcjobs.collect.formats.reader import Findings, FormatReader
from hpcjobs.collect.lines import after
from hpcjobs.collect.measurements import LogResult, Problem
from hpcjobs.collect.sources import Source
from hpcjobs.collect.world import NOTHING, OF_PATH, Known

# The values of --format.
FORMATS: dict[str, str] = {
    "hpcjobs": "hpcjobs' own train.log",
    "mlperf": "MLPerf training and HPC logs: :::MLPv0.5.0, :::MLL (v0.6), :::MLLOG (v0.7 on)",
    "horovod": "Horovod's synthetic benchmarks: Img/sec per GPU, Total img/sec on N GPU(s)",
    "tf_cnn_benchmarks": "TensorFlow's tf_cnn_benchmarks: total images/sec",
    "dllogger": "NVIDIA's DLLogger: DLLL {json}, and its lines on standard output",
    "mxnet": "MXNet: Speed: N samples/sec",
    "keras": "Keras' progress: 4096/4096 - 749s - loss: ...",
    "megatron": "Megatron-LM and Megatron-DeepSpeed: elapsed time per iteration (ms)",
    "nemo": "NeMo: train_step_timing in s",
    "huggingface": "Hugging Face Trainer: train_samples_per_second",
    "deepspeed": "DeepSpeed: SamplesPerSec, and its pipeline engine's samples/sec",
    "imagenet": "PyTorch's ImageNet example: Epoch: [0][10/626] Time 0.3 (0.4)",
    "timm": "timm: Train: 0 [50/1251 (4%)] ... Time: 0.4s, 2500.1/s",
    "torchvision": "torchvision's references, and others with its MetricLogger: time: ... data: ...",
    "swin": "Swin Transformer: Train: [0/300][10/1251] eta ... time 0.4 (0.5)",
    "mmengine": "OpenMMLab, mmcv and mmengine: time: 0.4, data_time: 0.01",
    "paddle": "PaddlePaddle's toolkits: batch_cost and ips",
    "maxtext": "MaxText: completed step: ..., Tokens/s/device",
    "torchtitan": "torchtitan: tps, tokens a second of one GPU",
    "composer": "MosaicML's Composer: throughput/samples_per_sec",
    "step_avg": "modded-nanogpt and kin: step_avg:143.95ms",
    "epochs": "NERSC's tutorials: Time taken for epoch N is N sec, avg N samples/sec",
    "progress": "progress bars of trainings, such as PyTorch Lightning's: it/s, s/it",
    "nccl-tests": "nccl-tests and rccl-tests: tables of algbw and busbw",
    "osu": "OSU micro-benchmarks: tables of latency or bandwidth",
}

# What begins the problem of a log that none of them is.
UNKNOWN = "no line of a known format"

_READERS = {
    "hpcjobs": ("own", "OwnReader"),
    "mlperf": ("mlperf", "MlperfReader"),
    "horovod": ("horovod", "HorovodReader"),
    "tf_cnn_benchmarks": ("tf_cnn", "TfCnnReader"),
    "dllogger": ("dllogger", "DlloggerReader"),
    "mxnet": ("mxnet", "MxnetReader"),
    "keras": ("keras", "KerasReader"),
    "megatron": ("megatron", "MegatronReader"),
    "nemo": ("nemo", "NemoReader"),
    "huggingface": ("huggingface", "HuggingfaceReader"),
    "deepspeed": ("deepspeed", "DeepspeedReader"),
    "imagenet": ("imagenet", "ImagenetReader"),
    "timm": ("timm", "TimmReader"),
    "torchvision": ("torchvision", "TorchvisionReader"),
    "swin": ("swin", "SwinReader"),
    "mmengine": ("mmengine", "MmengineReader"),
    "paddle": ("paddle", "PaddleReader"),
    "maxtext": ("maxtext", "MaxtextReader"),
    "torchtitan": ("torchtitan", "TorchtitanReader"),
    "composer": ("composer", "ComposerReader"),
    "step_avg": ("step_avg", "StepAvgReader"),
    "epochs": ("epochs", "EpochsReader"),
    "progress": ("progress", "ProgressReader"),
    "nccl-tests": ("nccl", "NcclReader"),
    "osu": ("osu", "OsuReader"),
}

# Lines that only one format has. Each contains a needle, which is searched first because it is found much faster.
_SIGNS: tuple[tuple[tuple[bytes, ...], tuple[tuple[str, re.Pattern[bytes]], ...]], ...] = (
    (
        (b"images/sec: ",),
        (("tf_cnn_benchmarks", re.compile(rb"images/sec: \d[\d.]* \+/- |total images/sec: \d")),),
    ),
    (
        (b"mg/sec",),
        (("horovod", re.compile(rb"\b[Ii]mg/sec per \w+: *\d|Iter #\d+: [\d.]+ img/sec|Total [Ii]mg/sec on \d")),),
    ),
    ((b"samples/sec",), (("mxnet", re.compile(rb"\b[Ss]peed: \d[\d.e+]* samples/sec")),)),
    (
        (b"elapsed time per iter",),
        (("megatron", re.compile(rb"iteration +\d+/ *\d+ \|.* elapsed time per iteration \(m?s\): +\d")),),
    ),
    (
        (b"train_step_timing", b"train_samples_per", b"Total train batch"),
        (
            ("nemo", re.compile(rb"global_step[:=] ?\d.*train_step_timing in s[:=] ?\d")),
            ("huggingface", re.compile(rb"'train_samples_per_second': '?\d|^ *train_samples_per_second += +\d")),
            ("huggingface", re.compile(rb"Total train batch size \(w\. parallel, distributed.*\) = \d")),
        ),
    ),
    (
        (b"SamplesPerSec=", b"iter time (s): "),
        (("deepspeed", re.compile(rb"[=/]\d+, (?:RunningAvg)?SamplesPerSec=\d|steps: \d+ loss: .* samples/sec: \d")),),
    ),
    (
        (b"poch: [", b"Train: "),
        (
            ("imagenet", re.compile(rb"Epoch: \[\d+\]\[ *\d+/\d+\]\s+(?:\| )?Time +\d[\d.]* +\( *\d")),
            ("timm", re.compile(rb"Train: \d+ \[ *\d+/\d+ \( *\d+%\)\].*Time: +[\d.]+s, +[\d.]+/s +\(")),
            ("swin", re.compile(rb"Train: \[\d+/\d+\]\[ *\d+/\d+\]\s+eta .*\btime +[\d.]+ +\(")),
            ("torchvision", re.compile(rb"poch: \[\d+(?:/\d+)?\] +\[ *\d+/\d+\] +eta: .* time: [\d.]+ +data: \d")),
        ),
    ),
    (
        (b"data_time: ", b"batch_cost"),
        (
            ("mmengine", re.compile(rb"(?:Epoch|Iter)(?:\(train\))? *(?:\[ *\d+\])?\[ *\d+/\d+\].*(?<![\w.])time: \d")),
            ("paddle", re.compile(rb"batch_cost:? \d.*[ _]ips:? \d")),
        ),
    ),
    (
        (b"completed step: ", b"ps: ", b"throughput/", b"step_avg:"),
        (
            ("maxtext", re.compile(rb"completed step: \d+, seconds: .*Tokens/s/device: \d")),
            ("torchtitan", re.compile(rb"step: +\d+ +loss: .* memory: .* [tw]ps: \d")),
            ("composer", re.compile(rb"\bthroughput/(?:device/)?(?:samples|tokens)_per_sec: \d")),
            ("step_avg", re.compile(rb"step:\d+/\d+ .*train_time:[\d.]+ms step_avg:\d")),
        ),
    ),
    (
        (b"Time taken for epoch ",),
        (("epochs", re.compile(rb"Time taken for epoch \d+ is \d[\d.]* sec, avg \d[\d.]* samples/sec")),),
    ),
    ((b"DLL",), (("dllogger", re.compile(rb"\bDLLL? (?:\d{4}-\d\d-\d\d |\{)")),)),
    (
        (b"it/s", b"s/it"),
        (
            (
                "progress",
                re.compile(
                    rb"(?i)\b(?:epochs?|train|training|steps?)\b[^|%]{0,60}\d%\|[^|]*\| \d+/\d+ \[.*\d(?:it/s|s/it)"
                ),
            ),
        ),
    ),
    ((b"- loss: ",), (("keras", re.compile(rb"(?:\d+/\d+|^\s?-).* -? ?\d+m?s.*- loss: (?:\d|nan)")),)),
)
# Rare words. They are searched only after their rare first letter was found.
_RARE: tuple[tuple[bytes, tuple[tuple[bytes, str, re.Pattern[bytes]], ...]], ...] = (
    (b":::MLPv0", ((b":::MLPv0", "mlperf", re.compile(rb":::MLPv0\.5\.\d ")),)),
    (
        b"#",
        (
            (b"busbw", "nccl-tests", re.compile(rb"#\s+(?:size|bytes)\s.*busbw")),
            (b"# OSU ", "osu", re.compile(rb"# OSU .* Test\b")),
        ),
    ),
    (
        b"{",
        (
            (b":::MLL", "mlperf", re.compile(rb":::MLL(?:OG \{| \d)")),
            (b'"type": "LOG"', "dllogger", re.compile(rb'"step": .*"data": ?\{')),
        ),
    ),
)
_OWN = b'"hpcjobs_run"'
# A window of our own log, which may have lost its begin: MLPerf's readers do not know what it marks as warm-up.
_WINDOW = re.compile(rb'"key": "tracked_stats", "value": \{"throughput": [^,]+, "step_ms": ')
# Tables, which are no trainings.
_COLLECTIVES = ("nccl-tests", "osu")
_MOST_FORMATS = 4
# The figures of these count even if DLLogger or Keras prints its progress before them.
_FIRST = ("horovod", "tf_cnn_benchmarks")
_IMAGES = 3  # how many of _SIGNS, the first ones, are of rates of images
# These are left out at first: what times a part of a step (DeepSpeed), and bars, which many trainings show. DeepSpeed
# counts where no other format has a figure, bars in a log of no other format.
_LAST: tuple[frozenset[str], ...] = (frozenset({"deepspeed", "progress"}), frozenset({"progress"}), frozenset())


def read_log(
    path: Path, format: str | None = None, gpus_from: re.Pattern[str] | None = None, known: Known | None = None
) -> LogResult:
    """Read one log. Whatever is wrong with it becomes a problem and raises no error.

    `format` is one of FORMATS; if it is None, lines that only one format has decide, and a log may have several.
    `gpus_from` has one group, which is the number of GPUs if the expression is found in the path; `known` is what is
    known of the run without that. What the log says of its GPUs counts before both.

    Raises InputError if the format is not one of FORMATS, or `gpus_from` does not have exactly one group.
    """
    if format is not None and format not in FORMATS:
        raise InputError(f"--format {format}: no such format; {nearest(format, FORMATS)}")
    known = known or NOTHING
    problems: list[Problem] = []
    if gpus_from is not None:
        number, problems = gpus_in(path, gpus_from)
        known = Known(number, source=OF_PATH)
    result = _read(path, format, known) if format is not None else _all(path, known)
    return dataclasses.replace(result, problems=(*problems, *result.problems)) if problems else result


def _all(path: Path, known: Known) -> LogResult:
    """Read a log in each format that it has.

    The first format with a figure counts. Tables of collectives beside trainings count too, and so do trainings of
    another format that begin after the first one's last line. A training that two formats print counts once.
    """
    results: list[tuple[LogResult, int]] = []
    skip: frozenset[str] = frozenset()
    for late in _LAST:
        if any(_counts(measured) for each, _ in results for measured in each.measurements) or (results and not late):
            break
        while len(results) < _MOST_FORMATS:
            apart = next((last for each, last in results if each.format in _COLLECTIVES), 0)
            one, last = _read_to(path, None, known, skip | late, apart)
            if not one.format:
                break
            results.append((one, last))
            skip |= {"hpcjobs", "mlperf"} if one.format in ("hpcjobs", "mlperf") else {one.format}
            if one.format == "hpcjobs" and any(map(_counts, one.measurements)):
                break  # Its readers know every line.
    if not results:
        return one
    first = results[0][0]
    given = [(each, last) for each, last in results if any(map(_counts, each.measurements))]
    if not given:
        return first
    main, _ = given[0]
    end = _last_line(path, *given[0]) if given[1:] else 0
    problems = list(main.problems)
    if main is not first:
        problems.append(Problem(str(path), 0, f"read as {main.format}: as {first.format} it has no figure"))
    measured = list(main.measurements)
    for other, last in given[1:]:
        apart = (other.format in _COLLECTIVES) != (main.format in _COLLECTIVES)
        if not apart and any(one.line > end for one in other.measurements):
            # Another training. What lines say of the one is not of the other: each is read from its own lines.
            if measured == list(main.measurements):
                main, _ = _read_to(path, main.format, known, until=end)
                measured, problems = list(main.measurements), list(main.problems)
            other, last = _read_to(path, other.format, known, start=end)
        added = [one for one in other.measurements if apart or one.line > end]
        if added:
            measured += added
            begun = min(one.line for one in added)
            problems += [one for one in other.problems if apart or (one.line or one.run) >= begun]
            end = max(end, _last_line(path, other, last))
    return dataclasses.replace(main, measurements=tuple(measured), problems=tuple(problems))


def _last_line(path: Path, result: LogResult, last: int) -> int:
    """The last line that only the format of a result has: its reader may have looked at more, up to `last`."""
    signs = [
        (needle, sign)
        for needles, group in _SIGNS
        for name, sign in group
        if name == result.format
        for needle in needles
    ] + [(needle, sign) for _, group in _RARE for needle, name, sign in group if name == result.format]
    found = 0
    for number, block in Source(path).blocks():
        for needle, sign in signs:
            at = block.rfind(needle)
            while at >= 0:
                begin, stop = _bounds(block, at)
                if sign.search(block, begin, stop):
                    found = max(found, number + block.count(b"\n", 0, at))
                    break
                at = block.rfind(needle, 0, begin)
    return found or last


def _counts(measured: object) -> bool:
    return getattr(measured, "throughput", 1.0) is not None or getattr(measured, "step_ms", None) is not None


def read_tail(path: Path, block: bytes, known: Known) -> LogResult:
    """Read the last lines of a log alone, in the format that they show."""
    format, at = detect(block)
    findings = Findings(str(path), known)
    if format:
        reader = _reader(format)(findings)
        reader.feed(1, block, at)
        reader.close()
    return LogResult(str(path), format, tuple(findings.measurements), tuple(findings.problems))


def gpus_in(path: Path, gpus_from: re.Pattern[str]) -> tuple[int | None, list[Problem]]:
    """The number of GPUs that the group of an expression finds in a path, and what is wrong with it."""
    if gpus_from.groups != 1:
        raise InputError(
            f"--gpus-from {gpus_from.pattern}: it has {gpus_from.groups} groups, but needs one, like gpu([0-9]+)"
        )
    match = gpus_from.search(str(path))
    if match and re.fullmatch(r"\d{1,9}", match[1] or "") and int(match[1]):
        return int(match[1]), []
    return None, [Problem(str(path), 0, f"--gpus-from {gpus_from.pattern} finds no number of GPUs in the path")]


def _read(path: Path, format: str | None, known: Known) -> LogResult:
    return _read_to(path, format, known)[0]


def _read_to(
    path: Path,
    format: str | None,
    known: Known,
    skip: Collection[str] = (),
    apart: int = 0,
    start: int = 0,
    until: float = math.inf,
) -> tuple[LogResult, int]:
    """Read a log once, and the last line that its reader took.

    Formats in `skip` are not detected. What lines up to `apart`, or after `until`, say of GPUs is of what another
    reader reads. Lines up to `start` are not read.
    """
    findings, source = Findings(str(path), known), Source(path)
    findings.world.apart, findings.world.until = max(apart, start), until
    reader = _reader(format)(findings) if format else None
    for number, block in source.blocks():
        if number <= start:
            number, block = start + 1, after(block, start + 1 - number)
        at = 0
        if reader is None:
            format, at = detect(block, skip)
            if not format:
                continue
            if number > 1:  # Earlier blocks may say which GPUs and batch the run has.
                return _read_to(path, format, known, apart=apart)
            reader = _reader(format)(findings)
        if format != "hpcjobs":  # which says its GPUs itself
            findings.world.feed(number, block)
        reader.feed(number, block, at)
    if reader is not None:
        findings.ended = True
        reader.close()
    problems = [*source.problems, *findings.problems]
    if not findings.measurements and not problems:
        problems.append(Problem(str(path), 0, _nothing(source, format)))
    elif source.zeros:
        problems.append(
            Problem(str(path), 0, f"{source.zeros} of its bytes are zero, as after a crash or on a full disk")
        )
    return LogResult(str(path), format or "", tuple(findings.measurements), tuple(problems)), findings.at


def _nothing(source: Source, format: str | None) -> str:
    if source.binary():
        return "binary: not a text file"
    if format:
        return f"no line of the format {format} that gives a figure"
    return f"{UNKNOWN}: " + ", ".join(FORMATS)


@functools.cache
def _reader(format: str) -> type[FormatReader]:
    module, name = _READERS[format]
    reader: type[FormatReader] = getattr(importlib.import_module(f"hpcjobs.collect.formats.{module}"), name)
    return reader


def detect(block: bytes, skip: Collection[str] = ()) -> tuple[str, int]:
    """The format of the first line that only one format has, "" if there is none, and where the line begins.

    Formats in `skip` are not considered.
    """
    found, end = "", len(block)
    for letter, words in _RARE:
        rare = block.find(letter, 0, end)
        if rare < 0:
            continue
        start = block.rfind(b"\n", 0, rare) + 1
        for word, name, sign in words:
            at = block.find(word, start, end) if name not in skip else -1
            while at >= 0:
                begin, stop = _bounds(block, at)
                if sign.search(block, begin, stop):
                    found, end = name, begin
                    break
                at = block.find(word, stop, end)
    for number, (needles, signs) in enumerate(_SIGNS):
        if all(name in skip for name, _ in signs):
            continue
        # The earliest line of those of images counts, and then no other format is looked for.
        if number >= _IMAGES and found in _FIRST:
            break
        for needle in needles:
            at = block.find(needle, 0, end)
            while at >= 0:
                begin, stop = _bounds(block, at)
                name = next((name for name, sign in signs if name not in skip and sign.search(block, begin, stop)), "")
                if name:
                    found, end = name, begin
                    break
                at = block.find(needle, stop, end)
    return "hpcjobs" if found == "mlperf" and (_OWN in block or _WINDOW.search(block)) else found, end


def _bounds(block: bytes, at: int) -> tuple[int, int]:
    """Begin and end of the line that contains a position."""
    end = block.find(b"\n", at)
    return block.rfind(b"\n", 0, at) + 1, end if end >= 0 else len(block)
