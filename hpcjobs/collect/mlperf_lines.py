"""One line of an MLPerf training log, as a benchmark of anyone's or hpcjobs' own trainer writes it.

    :::MLPv0.5.0 resnet 1541660665.439851284 (in_memory_eval.py:262) eval_accuracy: {"epoch": 0, "value": 0.056}
    :::MLL 1560881734.720 epoch_start: {"value": null, "metadata": {"epoch_num": 1}}
    :::MLLOG {"namespace": "", "time_ms": 1592671423172, "event_type": "INTERVAL_START", "key": "epoch_start", ...}

The forms are those of v0.5, of v0.6, and of v0.7 on. The keys of v0.5 are named as the later ones; its train_epoch
begins an epoch. Some logs give time_s for time_ms, or times as strings.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from typing import Any, NamedTuple

import msgspec

_json = msgspec.json.Decoder()
# Every line of both forms contains it.
MARK = b":::MLL"
# Every line of v0.5 contains it.
MARK_05 = b":::MLPv0"
_OLD = re.compile(r":::MLPv0\.5\.\d (\w+) (\d+(?:\.\d+)?) \([^)]*\) (\w+)(?:: (.*\S))?")
_NAMES_05 = {
    "train_epoch": "epoch_start",
    "preproc_num_train_examples": "train_samples",
    "input_size": "train_samples",
    "input_batch_size": "batch_size_05",
}
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
        old = _OLD.search(text)
        return _old(old) if old else None
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


def _old(match: re.Match[str]) -> Event | None:
    """An event of v0.5: its value is JSON, of which a dictionary gives the value and the rest as metadata."""
    value: Any = match[4]
    with contextlib.suppress(ValueError, RecursionError):
        value = _decoded(match[4]) if match[4] else None
    key = match[3]
    about: dict[str, Any] = {}
    if isinstance(value, dict):
        about = {name: each for name, each in value.items() if name != "value"}
        value = value.get("value")
    if key == "train_epoch" and isinstance(value, (int, float)):
        about = {"epoch_num": value}
    if key == "run_stop":
        about = {"status": "success" if str(about.get("success")).lower() == "true" else "aborted"}
    return Event(_NAMES_05.get(key, key), float(match[2]), value, {"benchmark": match[1], **about})


def _decoded(text: str) -> Any:
    try:
        return _json.decode(text)
    except msgspec.DecodeError:  # Slower, but it takes NaN and Infinity, which are not JSON and which Python writes.
        return json.loads(text)
