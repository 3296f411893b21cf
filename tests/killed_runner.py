"""The local scheduler's runner, killed with SIGKILL at a line: `python tests/killed_runner.py FOLDER LINE COUNT`.

Lines of the runner, its queue, its processes, files and locks count, as they are executed. A runner that ends before
that writes their number to the file COUNT.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from hpcjobs.base import files, lock
from hpcjobs.schedulers.local import localqueue, processes, runner

COUNTED = {module.__file__ for module in (files, lock, localqueue, processes, runner)}


def main(folder: Path, line: int, count: Path) -> None:
    """Run until the end, or that line."""
    lines = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal lines
        if frame.f_code.co_filename not in COUNTED:
            return None
        if event == "line":
            lines += 1
            if lines == line:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    runner.run(folder)
    sys.settrace(None)
    count.write_text(str(lines))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
