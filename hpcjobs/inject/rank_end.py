"""A rank that ends by an uncaught exception leaves an abort-rNNN.json, as hpcjobs' base/contract.py says.

So the evidence of a failure names which rank failed first, and with what, whatever the launcher makes of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
from typing import Any

# These say that another process failed, which left its own record: torchrun's and torch.multiprocessing's.
_OF_OTHERS = ("ChildFailedError", "ProcessRaisedException", "ProcessExitedException", "SignalException")
# The process that is the rank, for the programs that it starts.
_OF_RANK = "HPCJOBS_RANK_PID"
# The longest message that abort-rNNN.json holds, in characters.
_MESSAGE_LENGTH = 2000


def _rank() -> int | None:
    """This process's rank, or None where it is no rank, as torchrun itself."""
    told = os.environ.get("RANK", "")
    if told.isdigit():
        return int(told)
    distributed = getattr(sys.modules.get("torch"), "distributed", None)
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_rank())
    return None


def watch() -> None:
    """Chain an excepthook that writes why a rank ends."""
    pid, previous = os.getpid(), sys.excepthook
    # A program that a rank starts inherits its RANK, and is not that rank.
    if "RANK" in os.environ and os.environ.setdefault(_OF_RANK, str(pid)) != str(pid):
        return
    again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if again.isdigit() and int(again) > 0:
        # torchrun starts its ranks again: then only the last start counts.
        with contextlib.suppress(OSError, ValueError):
            os.unlink(_abort_path(int(os.environ.get("RANK", ""))))

    def excepthook(kind: Any, error: Any, trace: Any) -> None:
        if os.getpid() == pid and issubclass(kind, Exception) and kind.__name__ not in _OF_OTHERS:
            with contextlib.suppress(Exception):
                _write_abort(kind, error)
        previous(kind, error, trace)

    sys.excepthook = excepthook


def _abort_path(rank: int) -> str:
    return os.path.join(os.environ["HPCJOBS_METRICS"], f"abort-r{rank:03d}.json")


def _write_abort(kind: Any, error: Any) -> None:
    """abort-rNNN.json with the exception's last line, as hpcjobs' base/contract.py says."""
    rank = _rank()
    if rank is None:
        return
    path = _abort_path(rank)
    module = "" if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}."
    text = " ".join(f"{module}{kind.__qualname__}: {error}".split())[:_MESSAGE_LENGTH]
    value = {
        **{"code": "unexpected", "message": text, "nodes": []},
        **{"rank": rank, "host": socket.gethostname(), "time": time.time()},
    }
    with open(f"{path}.{os.getpid()}", "w", encoding="utf-8") as file:
        json.dump(value, file)
    os.replace(f"{path}.{os.getpid()}", path)
