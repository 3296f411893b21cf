"""Keeps freed memory in the process, where the next batch takes it again."""

from __future__ import annotations

import ctypes

_MIB = 1 << 20
# glibc's mallopt(3): parameter numbers of <malloc.h>, and values in bytes.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_SETTINGS = {
    _M_MMAP_THRESHOLD: 32 * _MIB,  # the largest that all versions of glibc accept
    _M_TRIM_THRESHOLD: 512 * _MIB,
    _M_TOP_PAD: 64 * _MIB,  # the size of a thread's heap, which else is given back whole
}


def keep_freed_memory() -> None:
    """Tell glibc not to give the system back what it will ask for again; no effect on other C libraries.

    By default it returns each freed batch of some MiB, and every page of the next one faults anew:
    half of the input pipeline's time on one core (docs/measured.md has the figures). What is kept is at
    most what was in use at once.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    for parameter, value in _SETTINGS.items():
        mallopt(parameter, value)
