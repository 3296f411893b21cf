"""Anyone's logs, given as files and folders, become runs and measurements of collectives."""

from __future__ import annotations

import dataclasses
import errno
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from hpcjobs.base.errors import InputError
from hpcjobs.base.metrics import Run
from hpcjobs.collect import anylogs, reading
from hpcjobs.collect.claims import Sizes
from hpcjobs.collect.measurements import Bandwidth, LogResult, Problem
from hpcjobs.collect.pattern import Pattern
from hpcjobs.collect.pattern_log import PatternRead, read_pattern
from hpcjobs.collect.world import OF_OPTION, Known


@dataclasses.dataclass(frozen=True)
class LogsFound:
    """What logs hold: runs of trainings, measurements of collectives, problems; and `results`, each log by itself."""

    runs: list[Run]
    collectives: list[Bandwidth]
    problems: list[Problem]
    results: Sequence[LogResult] = ()


def read_logs(
    paths: Sequence[Path], format_: str | None = None, gpus_from: str | None = None, gpus: int | None = None
) -> LogsFound:
    """Read logs, and all files below folders.

    `format_` is one of reading.FORMATS, or None to detect it. For logs that do not say their number of GPUs, `gpus` is
    it, or `gpus_from` is a regular expression whose only group finds it in a path. Raises InputError.
    """
    if not paths:
        raise InputError("--logs: give the paths of logs, or of folders that hold them")
    if format_ is not None and format_ not in reading.FORMATS:
        raise InputError(f"--format {format_}: known: {', '.join(reading.FORMATS)}")
    finds, known = _finds(gpus, gpus_from), Known(gpus, source=OF_OPTION)
    results = [reading.read_log(path, format_, finds, known) for path in _files(paths)]
    runs, problems = anylogs.runs(results)
    collectives = [one for result in results for one in result.measurements if isinstance(one, Bandwidth)]
    return LogsFound(runs, collectives, problems, [anylogs.completed(result) for result in results])


def try_pattern(
    paths: Sequence[Path],
    pattern: Pattern,
    gpus_from: str | None = None,
    gpus: int | None = None,
    global_batch: int | None = None,
) -> tuple[list[PatternRead], LogsFound]:
    """Read logs by a pattern: each log with its matches, and all as runs.

    The number of GPUs is `gpus`, or that which `gpus_from` finds in a log's path, or the log's own. Raises InputError.
    """
    if not paths:
        raise InputError("--logs: give the paths of logs, or of folders that hold them")
    finds = _finds(gpus, gpus_from)
    reads: list[PatternRead] = []
    for path in _files(paths):
        number, problems = (gpus, []) if finds is None else reading.gpus_in(path, finds)
        read = read_pattern(path, pattern, Sizes(gpus=number, global_batch=global_batch))
        result = dataclasses.replace(read.result, problems=(*problems, *read.result.problems))
        reads.append(dataclasses.replace(read, result=result))
    runs, problems = anylogs.runs([read.result for read in reads])
    return reads, LogsFound(runs, [], problems)


def _finds(gpus: int | None, text: str | None) -> re.Pattern[str] | None:
    """The expression of --gpus-from."""
    if text is None:
        return None
    if gpus is not None:
        raise InputError("--gpus and --gpus-from exclude each other: give one of them")
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise InputError(f"--gpus-from {text}: not a regular expression: {error}") from None
    if pattern.groups != 1:
        raise InputError(f"--gpus-from {text}: give one group, around the number of GPUs, such as '([0-9]+)gpu'")
    return pattern


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        try:
            if not path.is_dir():
                path.stat()
        except OSError as error:
            missing = isinstance(error, FileNotFoundError) or error.errno == errno.ELOOP
            why = "no such file" if missing else f"cannot be read: {error.strerror}"
            raise InputError(f"--logs {path}: {why}") from None
        found = list(_below(path)) if path.is_dir() else [path]
        if not found:
            raise InputError(f"--logs {path}: no file lies below this folder")
        yield from sorted(found)


def _below(folder: Path) -> Iterator[Path]:
    """All regular files below a folder, and the folders that cannot be read, so that it is said of them, too."""
    closed: list[Path] = []
    for inner, _, names in os.walk(folder, onerror=lambda error: closed.append(Path(error.filename))):
        yield from (path for name in names if (path := Path(inner, name)).is_file())
    yield from closed
