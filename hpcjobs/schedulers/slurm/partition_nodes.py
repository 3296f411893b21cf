"""The nodes of a partition: their GPUs, and which of them run no job now. Reads what sinfo prints. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

from hpcjobs.base.records import NodeKind
from hpcjobs.schedulers.slurm.gres import gpus

# The columns that `kinds` and `away` read. The reason comes last, because an administrator may write anything.
COLUMNS = "--format=%D|%T|%N|%G|%E"
# How sinfo's long states (%T) begin for nodes that start no job. A node with * behind its state does not respond.
_AWAY = ("down", "drain", "fail", "inval", "maint", "unk")
# Reasons of squeue for a job that waits for such nodes; some versions write spaces, others underscores.
_WAITS = re.compile(r"ReqNodeNotAvail|DOWN,.DRAINED", re.IGNORECASE)
# So many groups of nodes are named.
_MOST = 5


def waits(reason: str) -> bool:
    """Whether squeue's reason says that a job waits for nodes which are down, drained or reserved."""
    return _WAITS.search(reason) is not None


def kinds(text: str) -> tuple[NodeKind, ...]:
    """The nodes by their GPUs, the most numerous first, from lines in the form of COLUMNS."""
    rows: dict[tuple[str, ...], list[list[str]]] = {}
    for fields in _rows(text):
        types = tuple(each.type or "" for each in gpus(fields[3]))
        rows.setdefault(types, []).append(fields)
    found = [
        NodeKind(
            gpu_types=types,
            count=sum(int(fields[0]) for fields in those),
            usable=sum(int(fields[0]) for fields in those if not _is_away(fields[1])),
            away=_away(those),
        )
        for types, those in rows.items()
    ]
    return tuple(sorted(found, key=lambda kind: -kind.count))


def away(text: str) -> str:
    """Such as `c4140-2 is drained (bad DIMM)`, from lines in the form of COLUMNS; empty if no node is away."""
    return _away(_rows(text))


def _rows(text: str) -> list[list[str]]:
    rows = [line.strip().split("|", 4) for line in text.splitlines()]
    return [fields for fields in rows if len(fields) == 5 and fields[0].isdigit()]


def _is_away(state: str) -> bool:
    return state.startswith(_AWAY) or state.endswith("*")


def _away(rows: Iterable[list[str]]) -> str:
    found = []
    for count, state, names, _, reason in rows:
        if _is_away(state):
            state = f"{state.rstrip('*~#!%$@^-')}{', does not respond' if state.endswith('*') else ''}"
            why = f" ({reason})" if reason not in ("none", "") else ""
            found.append(f"{names} {'is' if count == '1' else 'are'} {state}{why}")
    return "; ".join([*found[:_MOST], *(["and others"] if len(found) > _MOST else [])])
