"""What large logs of ended runs said, kept in the user's cache folder, so that no command reads gigabytes twice.

An entry counts for a log as it was: for its path, size and time, and for the way it was read. A cache that cannot be
read or written is no error: then the log is read.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import platformdirs

from hpcjobs.base.files import write_atomic
from hpcjobs.base.version import __version__
from hpcjobs.collect.command_logs import CommandLog

# Smaller logs, in bytes, are read in about a second.
_LEAST = 16 << 20


def kept(log: Path, how: object, read: Callable[[], CommandLog]) -> CommandLog:
    """What `read` says of a log, or said of it before. `how` stands for everything but the log that this depends on."""
    try:
        about = log.stat()
    except OSError:
        return read()
    if about.st_size < _LEAST:
        return read()
    key = repr((str(log.resolve()), about.st_size, about.st_mtime_ns, how, __version__))
    entry = (
        Path(platformdirs.user_cache_dir("hpcjobs")) / "readings" / f"{hashlib.sha256(key.encode()).hexdigest()}.json"
    )
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode(entry.read_bytes(), type=CommandLog)
    found = read()
    with contextlib.suppress(OSError):
        entry.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(entry, msgspec.json.encode(found).decode())
    return found
