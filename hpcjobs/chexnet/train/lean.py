"""Keeps out of a rank's memory what it has no use for."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_pandas() -> Iterator[None]:
    """Keras and scikit-learn load pandas where they find it, and do as well without.

    A rank saves 28 MB and a tenth of its start-up.
    """
    if "pandas" in sys.modules:
        yield
        return
    sys.modules["pandas"] = None  # type: ignore[assignment]  # makes an import of it fail
    try:
        yield
    finally:
        del sys.modules["pandas"]
