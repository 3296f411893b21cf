"""Which formats a log has: lines that only one format has decide."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection

from hpcjobs.collect.wordings import Needles, Spoken, Wordings, without_digits

# Lines that only one format has. Each contains a needle, which is searched first because it is found much faster.
_SIGNS: tuple[tuple[tuple[bytes, ...], tuple[tuple[str, re.Pattern[bytes]], ...]], ...] = (
    (
        (b"images/sec: ",),
        (("tf_cnn_benchmarks", re.compile(rb"images/sec: \d[\d.]* \+/- |total images/sec: \d")),),
    ),
    (
        (b"mg/sec per ", b" img/sec", b"mg/sec on "),
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
        (b"completed step: ", b"tps: ", b"wps: ", b"throughput/", b"step_avg:"),
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
_MLPERF = b":::MLL"
# Rare words. They are searched only after their rare first letter was found. Of our own logs the first line has the
# first letter, so that no other word is searched for in the rest of the block.
_RARE: tuple[tuple[bytes, tuple[tuple[bytes, str, re.Pattern[bytes]], ...]], ...] = (
    (
        b"{",
        (
            (_MLPERF, "mlperf", re.compile(rb":::MLL(?:OG \{| \d)")),
            (b'"type": "LOG"', "dllogger", re.compile(rb'"step": .*"data": ?\{')),
        ),
    ),
    (b":::MLPv0", ((b":::MLPv0", "mlperf", re.compile(rb":::MLPv0\.5\.\d ")),)),
    (
        b"#",
        (
            (b"busbw", "nccl-tests", re.compile(rb"#\s+(?:size|bytes)\s.*busbw")),
            (b"# OSU ", "osu", re.compile(rb"# OSU .* Test\b")),
        ),
    ),
)
_OWN = b'"hpcjobs_run"'
# A window of our own log, which may have lost its begin: MLPerf's readers do not know what it marks as warm-up.
_WINDOW = re.compile(rb'"key": "tracked_stats", "value": \{"throughput": [^,]+, "step_ms": ')
# The figures of these count even if DLLogger or Keras prints its progress before them.
_FIRST = ("horovod", "tf_cnn_benchmarks")
_FEW = 4096
_IMAGES = 3  # how many of _SIGNS, the first ones, are of rates of images


class Signs:
    """The formats of a log, each by its first line. It is fed blocks in order."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[int, int]] = {}  # of each format: the block and the line of its first sign
        self.blocks = 0
        self.own = False  # whether the lines that look like MLPerf's are of hpcjobs
        self._spoken = Spoken(_needles(frozenset()))

    def feed(self, first: int, block: bytes, wordings: Wordings) -> None:
        """Read a block of whole lines; `first` is the log's number of the first one."""
        self.blocks += 1
        known, lines = "mlperf" in self.found, []

        def take(number: int, raw: bytes) -> bool:
            lines.append((number, raw))
            return False  # The first line of a wording says it all.

        self._spoken.look(first, block, wordings, take)
        text = b"".join(b"\n" + raw for _, raw in lines)
        while lines and (found := detect(text, self.found))[0]:
            self.say(found[0], self.blocks, lines[text.count(b"\n", 0, found[1]) - 1][0])
        if not known and "mlperf" in self.found:
            self.own = _is_own(block)

    def say(self, format: str, place: int, line: int) -> None:
        """Take the first sign of a format, which `detect` found in a block, by its place, and a line."""
        self.own = self.own or format == "hpcjobs"
        self.found["mlperf" if format == "hpcjobs" else format] = place, line
        self._spoken = Spoken(_needles(frozenset(self.found)))

    def first(self, skip: Collection[str] = ()) -> str:
        """The format of the first line that only one format has, "" if there is none, as `detect` says of a block.

        Formats in `skip` are not considered.
        """
        found = [(*where, _ORDER.index(name), name) for name, where in self.found.items() if name not in skip]
        if not found:
            return ""
        here = [one for one in found if one[0] == min(found)[0]]
        name = min(here)[3]
        of_images = [one for one in here if one[2] < _OTHERS]
        if of_images and min(of_images)[3] in _FIRST:
            name = min(of_images)[3]
        return "hpcjobs" if name == "mlperf" and self.own else name


def detect(block: bytes, skip: Collection[str] = (), wordings: Wordings | None = None) -> tuple[str, int]:
    """The format of the first line that only one format has, "" if there is none, and where the line begins.

    Formats in `skip` are not considered. `wordings` are those of the block, if they are known: what none of them has is
    not looked for in all lines.
    """
    found, end = "", len(block)
    unsaid: frozenset[bytes] = frozenset()
    if wordings is not None and _MLPERF not in block[:_FEW]:  # Before that sign there is little to look for.
        said = b"\n".join(_needles(frozenset()).having(wordings.all))
        unsaid = frozenset(needle for needle, word in _WORDS if word not in said)
    for letter, words in _RARE:
        rare = block.find(letter, 0, end)
        if rare < 0:
            continue
        start = block.rfind(b"\n", 0, rare) + 1
        for word, name, sign in words:
            at = block.find(word, start, end) if name not in skip and word not in unsaid else -1
            while at >= 0:
                begin, stop = _bounds(block, at)
                if sign.search(block, begin, stop):
                    found, end = name, begin
                    break
                at = block.find(word, stop, end)
    for number, (needles, signs) in enumerate(_SIGNS):
        if skip and all(name in skip for name, _ in signs):
            continue
        # The earliest line of those of images counts, and then no other format is looked for.
        if number >= _IMAGES and found in _FIRST:
            break
        for needle in needles:
            at = block.find(needle, 0, end) if needle not in unsaid else -1
            while at >= 0:
                begin, stop = _bounds(block, at)
                name = next((name for name, sign in signs if name not in skip and sign.search(block, begin, stop)), "")
                if name:
                    found, end = name, begin
                    break
                at = block.find(needle, stop, end)
    return "hpcjobs" if found == "mlperf" and _is_own(block) else found, end


def last_sign(first: int, block: bytes, format: str) -> int:
    """The number of the last line of a block that only this format has, 0 without one; `first` is that of its first."""
    found = 0
    for needle, sign in _of(format):
        at = block.rfind(needle)
        while at >= 0:
            begin, stop = _bounds(block, at)
            if sign.search(block, begin, stop):
                found = max(found, first + block.count(b"\n", 0, at))
                break
            at = block.rfind(needle, 0, begin)
    return found


def _of(format: str) -> list[tuple[bytes, re.Pattern[bytes]]]:
    """The needles and signs of a format."""
    signs = [
        (needle, sign) for needles, group in _SIGNS for name, sign in group if name == format for needle in needles
    ]
    return signs + [(needle, sign) for _, group in _RARE for needle, name, sign in group if name == format]


def _is_own(block: bytes) -> bool:
    return _OWN in block or _WINDOW.search(block) is not None


def _bounds(block: bytes, at: int) -> tuple[int, int]:
    """Begin and end of the line that contains a position."""
    end = block.find(b"\n", at)
    return block.rfind(b"\n", 0, at) + 1, end if end >= 0 else len(block)


# What is looked for, with what it is in a wording.
_WORDS = tuple(
    (needle, without_digits(needle))
    for needles in (*([word for word, _, _ in words] for _, words in _RARE), *(needles for needles, _ in _SIGNS))
    for needle in needles
)


@functools.cache
def _needles(skip: frozenset[str]) -> Needles:
    """What lines have that only one format has, but those of the formats in `skip`."""
    return Needles(
        (
            *(word for _, words in _RARE for word, name, _ in words if name not in skip),
            *(needle for needles, signs in _SIGNS if any(name not in skip for name, _ in signs) for needle in needles),
        )
    )


# The formats in the order in which `detect` looks for them, and the place of the first that is not of images.
_ORDER = list(dict.fromkeys(("mlperf", "nccl-tests", "osu", *(name for _, signs in _SIGNS for name, _ in signs))))
_OTHERS = _ORDER.index("megatron")
