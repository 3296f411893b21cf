"""How far a running command has come, by the end of its log: at most 256 KiB are read, however long the log is."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from hpcjobs.base.errors import InputError
from hpcjobs.base.files import open_plain
from hpcjobs.base.records import Progress
from hpcjobs.collect.claims import Sizes
from hpcjobs.collect.measurements import Throughput
from hpcjobs.collect.pattern import Pattern
from hpcjobs.collect.pattern_log import counts_batch, match, texts
from hpcjobs.collect.pattern_numbers import Found
from hpcjobs.collect.reading import read_tail
from hpcjobs.collect.sources import cleaned

TAIL_BYTES = 256 * 1024
# CPU seconds that the search for the newest match may take.
_MOST_S = 2.0


def tail_progress(path: Path, pattern: Pattern | None, known: Sizes) -> Progress:
    """The newest rate and step, and how long ago the log was written. A log that is missing has none of them.

    With a pattern the newest match counts; its figure is over all ranks as `known` has them. Without one the format
    that the last lines show is read, and its rate is that of all these lines. A line that is still being written does
    not count. A pattern that is too slow gives no rate: the status of a run must not fail with it.
    """
    try:
        with open_plain(path) as file:
            about = os.fstat(file.fileno())
            begin = max(0, about.st_size - TAIL_BYTES)
            file.seek(begin)
            data = file.read(TAIL_BYTES)
    except OSError:
        return Progress()
    ago_s = max(0.0, time.time() - about.st_mtime)
    # Whole lines only, unless the log begins here.
    data = data[data.find(b"\n") + 1 if begin else 0 : data.rfind(b"\n") + 1]
    block = cleaned(data)
    if pattern is None:
        rates = [one for one in read_tail(path, block, known.known()).measurements if isinstance(one, Throughput)]
        if not rates or rates[-1].throughput is None:
            return Progress(ago_s=ago_s)
        return Progress(throughput=rates[-1].throughput, unit=rates[-1].unit, ago_s=ago_s)
    found = _newest(block, pattern)
    if found is None:
        return Progress(ago_s=ago_s)
    rate = _rate(found, pattern, known.whole())
    return Progress(step=found.step or 0, throughput=rate, unit=pattern.unit if rate else "", ago_s=ago_s)


def ago_s(*paths: Path) -> float | None:
    """Seconds since one of the files was last written; None if there is none of them."""
    times = []
    for path in paths:
        with contextlib.suppress(OSError):
            times.append(path.stat().st_mtime)
    return max(0.0, time.time() - max(times)) if times else None


def _newest(block: bytes, pattern: Pattern) -> Found | None:
    """The figures of the newest match that has a rate."""
    begun = time.process_time()
    try:
        # From the last line on: one match is enough.
        for raw in reversed(block.split(b"\n")):
            for each, whole in reversed(list(texts(raw, 0, needle=pattern.needle))):
                matched = match(pattern, each, whole)
                if matched is not None and matched[0].is_rate:
                    return matched[0]
                if time.process_time() - begun > _MOST_S:
                    return None
    except InputError:
        return None
    return None


def _rate(found: Found, pattern: Pattern, known: Sizes) -> float | None:
    """The rate of one match over all ranks, or None if the number of ranks or the batch is not known."""
    step_s = found.step_ms / 1000 if found.step_ms else None
    each = found.throughput or (found.samples / step_s if found.samples and step_s else None)
    if each is not None:
        return each if pattern.of == "all" else each * known.gpus if known.gpus else None
    if step_s is None:
        return None
    if pattern.unit == "steps":
        return 1 / step_s
    return known.global_batch / step_s if known.global_batch and counts_batch(pattern.unit) else None
