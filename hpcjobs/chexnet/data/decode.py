"""Decodes an X-ray file with OpenCV: the fastest of five libraries that passes no wrong pixel (docs/measured.md)."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from hpcjobs.base.contract import INSTALL_COMPUTE
from hpcjobs.base.errors import InputError

try:
    import cv2
except ImportError as error:
    raise InputError(f"this needs OpenCV ({error}): {INSTALL_COMPUTE}") from None

# The work is spread over processes: a pool of threads in each would compete for the same CPUs.
cv2.setNumThreads(1)
_PNG = b"\x89PNG\r\n\x1a\n"
_LIBPNG = re.compile(r"^libpng error: (.+)$", re.MULTILINE)
_TO_GREY = {3: cv2.COLOR_BGR2GRAY, 4: cv2.COLOR_BGRA2GRAY}


def decode(path: Path, size: int) -> bytes:
    """The PNG image as `size` x `size` grey bytes, row-major; an alpha channel is dropped.

    A pixel is the mean of the area that it covers of a larger image: no aliasing, and no overshoot at
    edges. Raises ValueError, with the reason, if the image cannot be decoded completely, and OSError (ENOMEM
    if there is too little memory). Damage outside the pixels, for example in a comment, is not an error.
    """
    data = path.read_bytes()
    if not data.startswith(_PNG):
        raise ValueError("not a PNG file")
    with _stderr() as output:
        try:
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        except cv2.error as error:
            if error.code == cv2.Error.StsNoMem:
                raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)) from None
            raise ValueError(error.err) from None
        if pixels is None:
            reasons = _LIBPNG.findall(output())
            raise ValueError(reasons[-1] if reasons else "cannot be decoded")
    if pixels.dtype != np.uint8:
        raise ValueError(f"pixels of {8 * pixels.itemsize} bits, not 8")
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, _TO_GREY[pixels.shape[2]])
    return cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA).tobytes()


@contextmanager
def _stderr() -> Iterator[Callable[[], str]]:
    """Captures stderr of this process, the only place where libpng reports damage. Yields a function for its text."""
    file, terminal = os.memfd_create("stderr"), os.dup(2)
    os.dup2(file, 2)
    try:
        yield lambda: os.pread(file, 1 << 16, 0).decode(errors="replace")
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
        os.close(file)
