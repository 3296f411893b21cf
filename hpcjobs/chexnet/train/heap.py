"""Keeps freed memory in the process, so that the next batch can reuse it."""

from __future__ import annotations

import ctypes

_MIB = 1 << 20
# glibc's mallopt(3): parameter numbers of <malloc.h>, and values in bytes.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_SETTINGS = {
    _M_MMAP_THRESHOLD: 32 * _MIB,  # the largest that all versions of glibc accept
    _M_TRIM_THRESHOLD: 512 * _MIB,
    _M_TOP_PAD: 64 * _MIB,  # the size of a thread's heap, which would otherwise be returned to the system
}


def keep_freed_memory() -> None:
    """Make glibc keep freed memory instead of returning it to the system. No effect on other C libraries.

    By default glibc returns each freed batch of some MiB, and every page of the next batch causes a page fault:
    half of the input pipeline's time on one core (docs/measured.md has the figures). The process keeps at
    most as much as was in use at one time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    for parameter, value in _SETTINGS.items():
        mallopt(parameter, value)
