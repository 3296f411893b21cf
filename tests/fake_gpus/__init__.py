"""Fakes of what drives GPUs, and a fake of the Python that a sampler runs in, which finds them."""

from __future__ import annotations

import sys
from pathlib import Path

_SAMPLE = (
    "import sys, runpy; sys.path.insert(0, sys.argv.pop(1)); runpy.run_module(sys.argv.pop(1), run_name='__main__')"
)


def write_python(folder: Path) -> Path:
    """A script that takes the words of `python -E -m MODULE ...` and runs the module where pynvml is the fake one."""
    path = folder / "fake_python"
    path.write_text(f'#!/bin/sh\nshift 2\nexec "{sys.executable}" -E -c "{_SAMPLE}" "{Path(__file__).parent}" "$@"\n')
    path.chmod(0o755)
    return path
