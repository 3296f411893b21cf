"""Reads anyone's log, of a given or a detected format, into measurements and problems."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import math
import re
from pathlib import Path

from hpcjobs.base.errors import InputError, nearest
from hpcjobs.collect.formats.reader import Findings, FormatReader
from hpcjobs.collect.lines import after
from hpcjobs.collect.measurements import LogResult, Problem
from hpcjobs.collect.signs import Signs, detect, last_sign
from hpcjobs.collect.sources import Source
from hpcjobs.collect.wordings import Wordings
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

# Tables, which are no trainings.
_COLLECTIVES = ("nccl-tests", "osu")
_SUMS = ("huggingface", "hpcjobs", "mlperf", *_COLLECTIVES)
_MOST_FORMATS = 4
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
    result = _read(path, format, known)[0] if format is not None else _all(path, known)
    return dataclasses.replace(result, problems=(*problems, *result.problems)) if problems else result


def _all(path: Path, known: Known) -> LogResult:
    """Read a log in each format that it has.

    The first format with a figure counts. Tables of collectives beside trainings count too, and so do trainings of
    another format that begin after the first one's last line. A training that two formats print counts once.
    """
    signs = Signs()
    early = _read(path, None, known, signs=signs)
    if not early[0].format:
        return early[0]
    if not any(map(_counts, early[0].measurements)):
        signs = _signs(path)  # What its reader took may be of another format.
    elif early[0].format == "hpcjobs":
        return early[0]  # Its readers know every line.
    results: list[tuple[LogResult, int]] = []
    skip: frozenset[str] = frozenset()
    for late in _LAST:
        if any(_counts(measured) for each, _ in results for measured in each.measurements) or (results and not late):
            break
        while len(results) < _MOST_FORMATS and (format := signs.first(skip | late)):
            apart = next((last for each, last in results if each.format in _COLLECTIVES), 0)
            again = format != early[0].format or apart
            results.append(_read(path, format, known, apart) if again else early)
            skip |= {"hpcjobs", "mlperf"} if format in ("hpcjobs", "mlperf") else {format}
    first = results[0][0]
    given = [(each, last) for each, last in results if any(map(_counts, each.measurements))]
    if not given:
        return first
    main, _ = given[0]
    end = _last_line(path, *given[0]) if given[1:] else 0
    problems = list(main.problems)
    if main is not first:
        problems.append(Problem(str(path), 0, f"read as {main.format}: as {first.format} it has no figure"))
    if before := _ended_before(path, main, known, signs):  # What lines say of these is not of it.
        main, _ = _read(path, main.format, known, start=before)
        problems = [*(one for one in problems if one not in given[0][0].problems), *main.problems]
    measured = list(main.measurements)
    for other, last in given[1:]:
        apart = (other.format in _COLLECTIVES) != (main.format in _COLLECTIVES)
        if not apart and any(one.line > end for one in other.measurements):
            # Another training. What lines say of the one is not of the other: each is read from its own lines.
            if measured == list(main.measurements):
                main, _ = _read(path, main.format, known, until=end)
                measured, problems = list(main.measurements), list(main.problems)
            other, last = _read(path, other.format, known, start=end)
        added = [one for one in other.measurements if apart or one.line > end]
        if added:
            measured += added
            begun = min(one.line for one in added)
            problems += [one for one in other.problems if apart or (one.line or one.run) >= begun]
            end = max(end, _last_line(path, other, last))
    return dataclasses.replace(main, measurements=tuple(measured), problems=tuple(problems))


def _ended_before(path: Path, main: LogResult, known: Known, signs: Signs) -> int:
    """The last line of trainings of other formats that end before a log's main one begins, 0 if there is none.

    What sums up a training stands behind its lines of other formats: of huggingface there is none.
    """
    begun, end = min(getattr(one, "line", 0) for one in main.measurements), 0
    for format, (_, line) in signs.found.items():
        if format not in (main.format, *_COLLECTIVES) and line < begun and main.format not in _SUMS:
            other, last = _read(path, format, known, until=begun - 1)
            stop = _last_line(path, other, last)
            if stop < begun and any(map(_counts, other.measurements)):
                end = max(end, stop)
    return end


def _last_line(path: Path, result: LogResult, last: int) -> int:
    """The last line that only the format of a result has: its reader may have looked at more, up to `last`."""
    return max((last_sign(number, block, result.format) for number, block in Source(path).blocks()), default=0) or last


def _counts(measured: object) -> bool:
    return getattr(measured, "throughput", 1.0) is not None or getattr(measured, "step_ms", None) is not None


def read_tail(path: Path, block: bytes, known: Known) -> LogResult:
    """Read the last lines of a log alone, in the format that they show."""
    format, at = detect(block)
    findings = Findings(str(path), known)
    if format:
        reader = _reader(format)(findings)
        reader.rest(block, Wordings(block))
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


def _signs(path: Path) -> Signs:
    """The formats of all lines of a log."""
    signs = Signs()
    for number, block in Source(path).blocks():
        signs.feed(number, block, Wordings(block))
    return signs


def _read(
    path: Path,
    format: str | None,
    known: Known,
    apart: int = 0,
    start: int = 0,
    until: float = math.inf,
    signs: Signs | None = None,
) -> tuple[LogResult, int]:
    """Read a log once, in a given format or that of its first sign, and the last line that its reader took.

    What lines up to `apart`, or after `until`, say of GPUs is of what another reader reads. Lines up to `start` are not
    read. `signs` are given what the reader does not take for its steps.
    """
    findings, source = Findings(str(path), known), Source(path)
    findings.world.apart, findings.world.until = max(apart, start), until
    reader = _reader(format)(findings) if format else None
    for place, (number, block) in enumerate(source.blocks(), 1):
        if number <= start:
            number, block = start + 1, after(block, start + 1 - number)
        at, wordings = 0, Wordings(block)
        if reader is None:
            format, at = _format(block, wordings)
            if not format:
                continue
            if signs is not None:
                signs.say(format, place, number + block.count(b"\n", 0, at))
            if number > 1:  # Earlier blocks may say which GPUs and batch the run has.
                return _read(path, format, known, signs=signs)
            reader = _reader(format)(findings)
        if format != "hpcjobs":  # which says its GPUs itself
            rest, wordings = reader.rest(block, wordings)
            findings.world.feed(number, rest, wordings)
            if signs is not None:
                signs.feed(number, rest, wordings)
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


def _format(block: bytes, wordings: Wordings) -> tuple[str, int]:
    """The format of the first sign of a block, and where its line begins; one that is left out at first comes last."""
    format, at = detect(block, wordings=wordings)
    for late in _LAST[:2]:
        if format in late and (other := detect(block, late, wordings))[0]:
            return other
    return format, at


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
