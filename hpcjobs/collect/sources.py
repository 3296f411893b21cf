"""Reads a log file as blocks of whole lines: decompressed, as UTF-8, without terminal escapes, in flat memory."""

from __future__ import annotations

import codecs
import functools
import gzip
import os
import re
import stat
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from hpcjobs.collect.measurements import Problem

_BLOCK = 1 << 17

# A longer line is not a log line. It is skipped, so that memory stays flat.
_LONGEST = 1 << 20

# Separates texts of one line of which a terminal shows the second in place of the first.
SPLIT = b"\x1e"

_ESCAPE = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b\n]*(?:\x07|\x1b\\)?|[@-Z\\^_])")
_BACK = re.compile(rb"[\b\r\x00]+")
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_GZIP = b"\x1f\x8b"


class Source:
    """One log. After reading, `problems` says what could not be read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[Problem] = []
        self.size = 0  # bytes after decompression
        self.zeros = 0  # bytes of it that are zero
        self.head = b""  # its first bytes
        self.ended = True  # whether the last line has an end

    def problem(self, line: int, reason: str) -> None:
        self.problems.append(Problem(str(self.path), line, reason))

    def binary(self) -> bool:
        """Whether more than a tenth of its first bytes are not text, or more than a tenth of all bytes are zero."""
        odd = len(self.head.translate(None, _TEXT))
        return odd * 10 > len(self.head) or self.zeros * 10 > self.size

    def blocks(self) -> Iterator[tuple[int, bytes]]:
        """Blocks of whole lines, each with the number of its first line; the last line may lack its end.

        A carriage return, backspaces and zero bytes inside a line become SPLIT; line numbers count line feeds.
        """
        number, rest, dropping, block = 1, b"", False, b""
        for data in self._data():
            if not self.size:
                self.head = data[:4096]
            self.size += len(data)
            cut = data.rfind(b"\n") + 1
            if not cut:
                rest = b"" if dropping else rest + data
                if len(rest) > _LONGEST:
                    number, block = number + block.count(b"\n"), b""
                    self.problem(number, f"longer than {_LONGEST} bytes: not a line of a log, skipped")
                    rest, dropping = b"", True
                continue
            if dropping:  # The end of the long line is skipped too.
                data, cut, number = data[(first := data.find(b"\n") + 1) :], cut - first, number + 1
                dropping = False
            number += feeds(block)
            block = rest + data[:cut] if rest else data[:cut]
            rest = data[cut:]
            yield number, self._clean(block)
        self.ended = not rest
        if rest:
            yield number + block.count(b"\n"), self._clean(rest)
        if not self.size and not self.problems:
            self.problem(0, "empty")

    def _clean(self, block: bytes) -> bytes:
        if b"\x00" in block:
            self.zeros += block.count(b"\x00")
        return cleaned(block)

    def _data(self) -> Iterator[bytes]:
        try:
            # O_NONBLOCK: opening a named pipe that nobody writes to must not block.
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            self.problem(0, f"cannot be read: {error.strerror or error}")
            return
        try:
            about = os.fstat(descriptor)
            if not stat.S_ISREG(about.st_mode):
                self.problem(0, "a folder, not a log" if stat.S_ISDIR(about.st_mode) else "not a regular file")
                return
            # A small file gets a buffer of its size: to allocate a large one takes longer than to read the file.
            first = os.read(descriptor, min(about.st_size, _BLOCK) or _BLOCK)
            if first.startswith(_GZIP):
                os.lseek(descriptor, 0, os.SEEK_SET)
                with os.fdopen(descriptor, "rb", closefd=False) as raw, gzip.open(raw, "rb") as unpacked:
                    yield from _decoded(unpacked.read(_BLOCK), unpacked.read)
            else:
                yield from _decoded(first, functools.partial(os.read, descriptor))
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            self.problem(0, f"the compressed data is damaged or cut off ({error}); the part before that is read")
        except OSError as error:
            self.problem(0, f"cannot be read: {error.strerror or error}")
        finally:
            os.close(descriptor)


def feeds(block: bytes) -> int:
    """The line feeds of a block. In a long one, bytes.count takes three times as long."""
    return len(block) - len(block.replace(b"\n", b""))


def cleaned(block: bytes) -> bytes:
    """A block without terminal escapes; a carriage return, backspaces and zero bytes inside a line become SPLIT."""
    if b"\x1b" in block:
        block = _ESCAPE.sub(b"", block)
    back = b"\x00" in block or b"\b" in block
    if b"\r" in block:  # To look for two of them takes long.
        block = block.replace(b"\r\n", b"\n")
        if not back and b"\r\r" not in block:
            return block.replace(b"\r", SPLIT)
        back = True
    return _BACK.sub(SPLIT, block) if back else block


def _decoded(first: bytes, more: Callable[[int], bytes]) -> Iterator[bytes]:
    """The bytes as they are; UTF-16 becomes UTF-8."""
    bom, encoding = next((pair for pair in _BOMS if first.startswith(pair[0])), (b"", ""))
    if not bom:
        encoding = _utf16(first)
    data = first[len(bom) :]
    decoder = codecs.getincrementaldecoder(encoding)("replace") if encoding.startswith("utf-16") else None
    while data:
        yield decoder.decode(data).encode("utf-8", "replace") if decoder else data
        data = more(_BLOCK)


_TEXT = bytes([*b"\t\n\r\b\x1b\f\a", *range(0x20, 0x7F), *range(0x80, 0x100)])


def _utf16(first: bytes) -> str:
    """The encoding of UTF-16 without a byte order mark, in which nearly every second byte of ASCII is zero; else ""."""
    head = first[:512]
    if len(head) < 8 or b"\x00" not in head:
        return ""
    for encoding, zero, text in (("utf-16-le", head[1::2], head[::2]), ("utf-16-be", head[::2], head[1::2])):
        if zero.count(0) > 0.9 * len(zero) and text.count(0) < 0.1 * len(text):
            return encoding
    return ""
