"""Writes and reads files safely. A file is written whole or not at all. Every room may import this.

Other users may be able to write to a sweep's folder. So a write never follows a symbolic link there, and a read never
waits for a pipe or a device.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

# An integer of JSON with more digits counts as damage: the largest that is written has 20.
_DIGITS = 300
# What open(2) says where there is no file, and `open_plain` of what is none.
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.ELOOP, errno.ENXIO)
# What link(2) says on a file system without hard links; FUSE says the last.
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)


def write_atomic(path: Path, text: str | bytes, *, durable: bool = True) -> None:
    """Write a file under a temporary name, then rename it. A symbolic link at `path` is replaced. Honours the umask.

    After a loss of power the file is whole, too, and if `durable` it is the new one. Of many files it is enough to make
    the last one `durable`: journaling file systems keep the order of renames. Raises OSError, for example on a full
    disk: then the old file, if any, is still in place.
    """
    temporary = beside(path)
    try:
        _write(temporary, text)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):  # of the two errors the first one says why
            temporary.unlink(missing_ok=True)
        raise
    if durable:
        _sync_folder(path.parent)


def claim_link(path: Path, data: str | bytes) -> bool:
    """Make the file `path`, whole, unless that name exists already. Returns whether it was made. Raises OSError.

    Of many processes, on many hosts, that claim the same path exactly one gets True. A loss of power does not undo it.
    The file is written under a temporary name, then link()ed: NFS makes a link atomically, while its O_EXCL and its
    flock are not to be trusted.
    """
    temporary = beside(path)
    try:
        _write(temporary, data)
        if not link_once(temporary, path):
            return False
    finally:
        # Whether the claim is made does not depend on whether this can be removed.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)
    return True


def link_once(temporary: Path, path: Path) -> bool:
    """Give the file `temporary` the name `path`, too, unless that exists already. Returns whether it has it.

    Raises OSError, which says so on a file system without hard links.
    """
    try:
        os.link(temporary, path)
    except OSError as error:
        # NFS repeats a call whose answer was lost, and then finds the link that the first call made (open(2)). A file
        # server that is busy may make a link and report a failure.
        with temporary.open("rb") as file:  # opening makes NFS ask for the number of links again
            if os.fstat(file.fileno()).st_nlink > 1:
                return True
        if error.errno == errno.EEXIST:
            return False
        if error.errno in _NO_LINKS:
            raise OSError(error.errno, "its file system makes no hard links", str(path)) from None
        raise
    return True


def beside(path: Path) -> Path:
    """A new hidden name in the same folder, for a temporary file that will become `path`."""
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}")


def _write(temporary: Path, text: str | bytes) -> None:
    """Write a file that does not exist yet, and wait until its content is on disk."""
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    with os.fdopen(descriptor, "wb") as file:
        file.write(text.encode("utf-8") if isinstance(text, str) else text)
        file.flush()
        os.fsync(file.fileno())


def write_new(files: Mapping[Path, str]) -> None:
    """Write files that do not exist yet, into a folder that is used only when all of them are there. Raises OSError.

    They are as durable as if each were written with `write_atomic`, and it takes a fraction of the time.
    """
    for path, text in files.items():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode("utf-8"))
    for path in files:  # the first fsync writes most of the other files' data, too
        with path.open("rb") as file:
            os.fsync(file.fileno())


def write_json(path: Path, value: Any) -> None:
    """`write_atomic` of `to_json`."""
    write_atomic(path, to_json(value))


def to_json(value: Any) -> bytes:
    """Indented JSON with a final newline. Bytes of a command line that are not UTF-8 are escaped."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    return text.encode("utf-8", "backslashreplace")


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file. None if the file is missing or damaged, or holds something else."""
    try:
        return read_evidence(path)
    except OSError:
        return None


def read_evidence(path: Path) -> dict[str, Any] | None:
    """`read_json` for what decides about a run: raises OSError if the file is there and cannot be read now.

    A run whose result a file server does not give for a moment must not count as a run without one.
    """
    try:
        with open_plain(path, follow=True) as file:
            data = parse_json(file.read().decode("utf-8", errors="replace"))
    except OSError as error:
        if not is_absent(error):
            raise
        return None
    except ValueError:
        return None
    return data if isinstance(data, dict) else None


def is_absent(error: OSError) -> bool:
    """Whether there is no such file, or something else of that name; else it may be read by another, or later."""
    return error.errno in _ABSENT


def parse_json(text: str) -> Any:
    """The value of a JSON text; a number beyond a float's range, and NaN, is None: it is not known.

    Raises ValueError for what is not JSON, or is nested too deep to be read.
    """
    try:
        return json.loads(text, parse_float=_finite, parse_int=_within_float, parse_constant=lambda word: None)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def _within_float(text: str) -> int | None:
    # float() and str() of a longer one raise OverflowError and ValueError where nobody expects them.
    return int(text) if len(text) < _DIGITS else None


def open_plain(path: Path, *, follow: bool = False) -> BinaryIO:
    """Open a file for reading. Raises OSError for a pipe or a device, and for a symbolic link unless `follow`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a file", str(path))
    return cast(BinaryIO, os.fdopen(descriptor, "rb"))


def make_folder(path: Path) -> None:
    """Make a folder unless it exists. Raises FileExistsError if `path` is something else, such as a symbolic link."""
    try:
        path.mkdir()
    except FileExistsError:
        if not stat.S_ISDIR(path.lstat().st_mode):
            raise FileExistsError(errno.EEXIST, "is not a folder, or is a symbolic link", str(path)) from None


def _sync_folder(folder: Path) -> None:
    """Flush a folder to disk, which makes new names in it durable. Some file systems cannot do that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def shown(path: Path) -> str:
    """The path relative to the working folder, if it is inside. Absolute if that is `/`, as in the collector job."""
    here = Path.cwd()
    return str(path.relative_to(here) if here != Path("/") and path.is_relative_to(here) else path)
