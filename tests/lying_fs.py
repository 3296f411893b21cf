"""A named fake: a file system (FUSE) that passes everything through to a folder, and lies as NFS, Lustre and others do.

    python tests/lying_fs.py BACK MOUNT LIES

LIES is a JSON file, read again before each call, with the keys

- `links`: "none" (there are no hard links, as on some object stores), or "failed" (a link is made and reported as
  failed, once, as of a busy server whose answer was lost)
- `fail`: [{"call": "read", "name": "exit.json", "errno": "EIO", "times": 1}, ...]: the next calls of that kind on files
  whose names begin so fail; `times` absent: all
- `stale_s`: this mount shows attributes and listings as old as that; another mount of the same folder is another node

Two mounts of one folder are two nodes: the kernel keeps what one has seen.
"""

from __future__ import annotations

import ctypes.util
import errno
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_ATTRIBUTES = ("st_gid", "st_ino", "st_mode", "st_nlink", "st_size", "st_uid")


def serve(back: Path, mount: Path, lies: Path) -> None:
    """Mount, and answer until it is unmounted."""
    import mfusepy

    class Lying(mfusepy.Operations):  # type: ignore[misc]
        """Paths are relative to the mount, with a slash at the beginning."""

        use_ns = True  # times are in nanoseconds

        def __init__(self) -> None:
            self.rules: dict[str, Any] = {}
            self.failed: Counter[str] = Counter()
            self.listed: dict[str, tuple[float, list[str]]] = {}

        def meet(self, call: str, path: str) -> None:
            """Read the lies anew; raise the error that this call is to fail with."""
            self.rules = json.loads(lies.read_text())
            for number, rule in enumerate(self.rules.get("fail", ())):
                name = f"{number} {rule}"
                if rule["call"] == call and Path(path).name.lstrip(".").startswith(rule.get("name", "")):
                    self.failed[name] += 1
                    if self.failed[name] <= rule.get("times", 1 << 60):
                        raise mfusepy.FuseOSError(getattr(errno, rule["errno"]))

        def at(self, path: str) -> str:
            return f"{back}{path}"

        def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
            found = os.lstat(self.at(path))
            times = {name: getattr(found, f"{name}_ns") for name in ("st_atime", "st_ctime", "st_mtime")}
            return {name: getattr(found, name) for name in _ATTRIBUTES} | times

        def readdir(self, path: str, fh: int) -> list[str]:
            at, names = self.listed.get(path, (0.0, []))
            if time.monotonic() - at > self.rules.get("stale_s", 0):
                names = [".", "..", *os.listdir(self.at(path))]
                self.listed[path] = time.monotonic(), names
            return names

        def link(self, target: str, source: str) -> int:
            how = self.rules.get("links", "")
            if how == "none":
                raise mfusepy.FuseOSError(errno.EPERM)
            os.link(self.at(source), self.at(target), follow_symlinks=False)
            self.failed["link"] += 1
            if how == "failed" and self.failed["link"] % 2:
                raise mfusepy.FuseOSError(errno.EIO)
            return 0

        def open(self, path: str, flags: int) -> int:
            return os.open(self.at(path), flags)

        def create(self, path: str, mode: int, fi: Any = None) -> int:
            return os.open(self.at(path), os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)

        def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
            return os.pread(fh, size, offset)

        def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
            # The kernel says where; O_APPEND of the other side would put it elsewhere.
            return os.pwrite(fh, data, offset)

        def truncate(self, path: str, length: int, fh: int | None = None) -> int:
            os.truncate(self.at(path), length)
            return 0

        def fsync(self, path: str, datasync: int, fh: int) -> int:
            return 0

        def release(self, path: str, fh: int) -> int:
            os.close(fh)
            return 0

        def rename(self, old: str, new: str) -> int:
            os.rename(self.at(old), self.at(new))
            return 0

        def symlink(self, target: str, source: str) -> int:
            os.symlink(source, self.at(target))
            return 0

        def readlink(self, path: str) -> str:
            return os.readlink(self.at(path))

        def mkdir(self, path: str, mode: int) -> int:
            os.mkdir(self.at(path), mode)
            return 0

        def rmdir(self, path: str) -> int:
            os.rmdir(self.at(path))
            return 0

        def unlink(self, path: str) -> int:
            os.unlink(self.at(path))
            return 0

        def chmod(self, path: str, mode: int) -> int:
            os.chmod(self.at(path), mode)
            return 0

        def chown(self, path: str, uid: int, gid: int) -> int:
            os.chown(self.at(path), uid, gid, follow_symlinks=False)
            return 0

        def utimens(self, path: str, times: Any = None) -> int:
            os.utime(self.at(path), ns=times)
            return 0

        def statfs(self, path: str) -> dict[str, Any]:
            found = os.statvfs(self.at(path))
            return {name: getattr(found, name) for name in ("f_bavail", "f_blocks", "f_bsize", "f_files", "f_frsize")}

    for name in ("getattr", "readdir", "open", "create", "read", "write", "link", "rename", "unlink", "mkdir", "fsync"):
        setattr(Lying, name, _lied(name, getattr(Lying, name)))
    stale = json.loads(lies.read_text()).get("stale_s", 0)
    keep = {f"{what}_timeout": stale for what in ("attr", "entry", "negative")}
    mfusepy.FUSE(Lying(), str(mount), foreground=True, nothreads=True, raw_fi=False, hard_remove=True, **keep)


def _lied(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def called(self: Any, path: str, *args: Any) -> Any:
        self.meet(name, path)
        return call(self, path, *args)

    return called


class LyingFS:
    """A mounted one: `folder` is what programs see, `back` what is behind it."""

    def __init__(self, back: Path, folder: Path, lies: Path) -> None:
        self.back, self.folder, self._lies = back, folder, lies

    def lies(self, **rules: Any) -> None:
        """From now on it lies so."""
        temporary = self._lies.with_suffix(".new")
        temporary.write_text(json.dumps(rules))
        temporary.rename(self._lies)


@contextmanager
def lying(back: Path, folder: Path, **rules: Any) -> Iterator[LyingFS]:
    """Mount one over `folder`. Skips the test where it cannot be: no root, /dev/fuse, libfuse or mfusepy."""
    if os.getuid() or not os.access("/dev/fuse", os.W_OK) or not _has_library():
        pytest.skip("needs root, /dev/fuse, libfuse and mfusepy (make setup-test)")
    for path in (back, folder):
        path.mkdir(parents=True, exist_ok=True)
    found = LyingFS(back, folder, folder.with_name(f"{folder.name}.lies"))
    found.lies(**rules)
    with (folder.with_name(f"{folder.name}.log")).open("w") as log:
        words = [sys.executable, __file__, str(back), str(folder), str(found._lies)]
        server = subprocess.Popen(words, stdout=log, stderr=log)
    try:
        until = time.monotonic() + 60
        while not os.path.ismount(folder):
            if server.poll() is not None or time.monotonic() > until:
                raise AssertionError(Path(log.name).read_text())
            time.sleep(0.02)
        yield found
    finally:
        subprocess.run(["umount", "--lazy", folder], check=False, capture_output=True)
        server.kill()
        server.wait()


def _has_library() -> bool:
    try:
        import mfusepy
    except (ImportError, OSError, AttributeError):
        return False
    return bool(mfusepy) and bool(
        os.environ.get("FUSE_LIBRARY_PATH") or ctypes.util.find_library("fuse3") or ctypes.util.find_library("fuse")
    )


if __name__ == "__main__":
    serve(*map(Path, sys.argv[1:4]))
