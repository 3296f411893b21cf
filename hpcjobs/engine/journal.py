"""The journal of a sweep, which only the holder of the sweep's lock may write."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Iterator
from typing import Any

from hpcjobs.base.lock import Hold, held
from hpcjobs.base.sweepdir import SweepDir, read_journal


@dataclasses.dataclass(frozen=True)
class Journal:
    """The journal of the sweep in `where`, under the lock `hold`."""

    where: SweepDir
    hold: Hold

    def read(self) -> list[dict[str, Any]]:
        """All whole events, oldest first."""
        return read_journal(self.where)

    def append(self, event: str, **fields: object) -> None:
        """Add one line, which is on disk before this returns.

        Raises OSError (a full disk, say) with the journal as it was, lock.Locked if another process has taken the lock
        over.
        """
        self.hold.check()
        line = json.dumps({"time": round(time.time(), 3), "event": event, **fields}, ensure_ascii=False) + "\n"
        # O_NOFOLLOW: whoever can write to the folder must not choose, by a symbolic link, which file grows.
        descriptor = os.open(self.where.journal, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                line = "\n" + line  # a crash cut the previous line short
            data = line.encode("utf-8")
            try:
                while data:
                    data = data[os.write(descriptor, data) :]
                os.fsync(descriptor)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def locked(where: SweepDir) -> Iterator[Journal]:
    """Hold the sweep's lock, and give its journal. Raises lock.Locked, which names the holder."""
    with held(where.lock_file, where.root) as hold:
        yield Journal(where, hold)
