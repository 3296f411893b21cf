"""One line of an MLPerf training log, as a benchmark of anyone's or hpcjobs' own trainer writes it.

    :::MLL 1560881734.720 epoch_start: {"value": null, "metadata": {"epoch_num": 1}}
    :::MLLOG {"namespace": "", "time_ms": 1592671423172, "event_type": "INTERVAL_START", "key": "epoch_start", ...}

The first form is that of v0.6, the second that of v0.7 on. Some logs give time_s for time_ms, or times as strings.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NamedTuple

import msgspec

_json = msgspec.json.Decoder()
# Every line of both forms contains it.
MARK = b":::MLL"
_LINE = re.compile(r":::MLL(?:OG| (\d+(?:\.\d+)?) (\w+):) (\{.*\})")


class Event(NamedTuple):
    """What one line says. `at` is seconds since the epoch; `value` and `metadata` are None and {} if absent."""

    key: str
    at: float
    value: Any
    metadata: dict[str, Any]


def event(text: str) -> Event | None:
    """The event on a line, whatever stands before or after it; None if the line has none or it is damaged."""
    match = _LINE.search(text)
    if match is None:
        return None
    try:
        entry = _decoded(match[3])
        if match[1]:
            key, at = match[2], float(match[1])
        else:
            key, ms = str(entry["key"]), entry.get("time_ms")
            at = float(ms) / 1000 if ms is not None else float(entry["time_s"])
        value, metadata = entry.get("value"), entry.get("metadata")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        return None
    return Event(key, at, value, metadata if isinstance(metadata, dict) else {}) if math.isfinite(at) else None


def _decoded(text: str) -> Any:
    try:
        return _json.decode(text)
    except msgspec.DecodeError:  # Slower, but it takes NaN and Infinity, which are not JSON and which Python writes.
        return json.loads(text)
