"""Reads the error files of PyTorch's torchrun: what the `@record` around a script's main function caught.

    {"message": {"message": "ValueError: boom",
                 "extraInfo": {"py_callstack": "Traceback ...", "timestamp": "1795993846"}}}

torchrun gives each process one, and copies that of the first failure to TORCHELASTIC_ERROR_FILE, which rank.sh sets to
`torch-error-HOST.json` in the attempt folder. A process that was killed writes none. A torchrun that is ended by a
signal, as those of the other nodes are after a failure, writes a SignalException there: that is no cause.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpcjobs.base.files import read_json


def read_error(path: Path) -> Mapping[str, Any] | None:
    """One error file in the form of an abort-rNNN.json (code, message, time), or None if it is none.

    `time` is in seconds since the epoch, 0 if the file has none.
    """
    data = read_json(path)
    told = data.get("message") if data else None
    if isinstance(told, str) and data is not None:  # the form of PyTorch 1.9
        told = {"message": told, "extraInfo": {"timestamp": data.get("timestamp")}}
    if not isinstance(told, dict) or not isinstance(told.get("message"), str):
        return None
    if told["message"].startswith("SignalException: "):
        return None
    extra = told.get("extraInfo")
    stamp = extra.get("timestamp") if isinstance(extra, dict) else None
    return {"code": "unexpected", "message": " ".join(told["message"].split()), "time": _seconds(stamp)}


def read_errors(attempt: Path) -> list[Mapping[str, Any]]:
    """Those of all nodes' error files in an attempt folder, the earliest first."""
    found = [error for path in sorted(attempt.glob("torch-error-*.json")) if (error := read_error(path))]
    return sorted(found, key=lambda error: float(error["time"]))


def _seconds(stamp: object) -> float:
    try:
        return float(stamp) if isinstance(stamp, (str, int, float)) else 0.0
    except ValueError:
        return 0.0
