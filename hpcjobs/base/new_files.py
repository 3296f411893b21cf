"""Several new files, all of them or none."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from hpcjobs.base.errors import InputError
from hpcjobs.base.files import beside, link_once, write_new


def write_all(files: Mapping[Path, str], force: bool) -> dict[Path, str]:
    """Write all files or none; returns those that were written.

    A file that holds the same text already stays, so that an interrupted command can be run again. Makes missing
    folders. Raises InputError if a file exists and `force` does not allow replacing it, or if one cannot be written.
    """
    staged: dict[Path, Path] = {}
    made: list[Path] = []
    placed: list[Path] = []
    try:
        data = {path: _encoded(path, text) for path, text in files.items()}
        files = {path: text for path, text in files.items() if not _holds(path, data[path])}
        for path in files:
            if path.is_dir():
                raise InputError(f"{path}: is a folder; move it away, or work in another folder")
            if os.path.lexists(path) and not force:
                raise _exists_already(path)
        staged = {path: beside(path) for path in files}
        for folder in {path.parent for path in files}:
            if not folder.is_dir():
                folder.mkdir()
                made.append(folder)
        write_new({staged[path]: text for path, text in files.items()})
        for path, temporary in staged.items():
            if force:
                os.replace(temporary, path)
            else:
                _place(temporary, path)
                placed.append(path)
        return dict(files)
    except BaseException as error:
        for path in placed:
            _undo(path.unlink)
        for path, temporary in staged.items():
            if isinstance(error, OSError) and error.filename == str(temporary):
                error.filename = str(path)
            _undo(temporary.unlink)
        for folder in made:
            _undo(folder.rmdir)
        if isinstance(error, OSError):
            raise InputError(f"{error.filename or Path.cwd()}: cannot be written: {error.strerror}") from None
        raise


def _undo(step: Callable[[], None]) -> None:
    with contextlib.suppress(OSError):
        step()


def _exists_already(path: Path) -> InputError:
    return InputError(f"{path}: exists already; --force replaces it, and another folder leaves it as it is")


def _encoded(path: Path, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        line = text.split("\n")[text.count("\n", 0, error.start)].strip()
        raise InputError(f"{path}: cannot be written: {line!a} is not UTF-8; choose another name") from None


def _holds(path: Path, data: bytes) -> bool:
    """Whether the file holds exactly this. A file that cannot be read does not."""
    try:
        return path.is_file() and path.read_bytes() == data
    except OSError:
        return False


def _place(temporary: Path, path: Path) -> None:
    """Give the file its name. Raises InputError if the name exists meanwhile: a rename would replace it."""
    try:
        placed = link_once(temporary, path)
    except OSError:  # a file system without links: another process may still make the file after this check
        placed = not os.path.lexists(path)
        if placed:
            os.replace(temporary, path)
    if not placed:
        raise _exists_already(path)
    temporary.unlink(missing_ok=True)
