"""What the meter must find in a run of tests/meter_program.py, and how far off it may be."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).parent / "meter_program.py"
PARTS = ("input_wait_ms", "allreduce_ms", "skew_ms", "compute_ms")

# In ms: what is not planted and yet there. A sum of eight ranks over sockets takes 0.5 ms where the cores are free. All
# that is planted is 20 times as long.
ALLOWANCE_MS = 0.5
# A 95 % interval misses once in twenty, and a machine with other work widens it without making that rarer. So one part
# alone may lie outside by chance: by this many half-widths only once in some thousand (Student, 5 passes or more) ...
FARTHEST = 4.0
# ... and of all parts together most must lie inside.
SHARE_INSIDE = 0.85


def planted(plant: str, ranks: int, *, compute_ms: float = 15.0, link_ms: float = 0.0) -> dict[str, float]:
    """The parts in ms of a step that tests/meter_program.py makes with this `--plant`, on that many ranks.

    skew is the slowest rank less the mean of all: one of N ranks that is L ms late makes it L x (N - 1) / N, and the
    mean of all ranks' computing L / N longer.
    """
    each = [word.partition("=") for word in plant.split("+") if word != "none"]
    times = {name: float(number) for name, _, number in each}
    late = times.get("late", 0.0)
    return {
        "input_wait_ms": times.get("loader", 0.0),
        "allreduce_ms": times.get("hook", 0.0) + link_ms,
        "skew_ms": late * (ranks - 1) / ranks,
        "compute_ms": compute_ms + late / ranks,
    }


@dataclasses.dataclass(frozen=True)
class Finding:
    """A part that a run told, beside what was planted. In ms; `half_width` is of the 95 % interval.

    `allowed` is what the machine itself may have added.
    """

    run: str
    part: str
    planted: float
    found: float
    half_width: float
    allowed: float = ALLOWANCE_MS

    def inside(self, widths: float = 1.0) -> bool:
        """Whether it is right: within a tenth of the planted time, or that many half-widths where these are larger."""
        return abs(self.found - self.planted) <= max(self.planted / 10, widths * self.half_width) + self.allowed

    def __str__(self) -> str:
        found = f"{self.found:.2f} +- {self.half_width:.2f}"
        return f"{self.run}: {self.part} {found}, planted {self.planted:.2f}, allowed {self.allowed:.2f}"


def allowed(attempt: Path) -> float:
    """ms that the machine may add to a part: ALLOWANCE_MS, and by how much the last rank of a step overslept (mean).

    The ranks' own clocks say the latter, not the meter: 0.1 ms on a machine with free cores, and some ms on a busy
    one, where that much skew is real.
    """
    own = [json.loads(path.read_text())["overslept_ms"] for path in sorted(attempt.glob("own-r*.json"))]
    return ALLOWANCE_MS + statistics.fmean(max(step) for step in zip(*own, strict=False))


def control(attempt: Path) -> dict[str, Any]:
    """The value of the line hpcjobs_control in an attempt's train.log."""
    value: dict[str, Any] = value_of(attempt, "hpcjobs_control")
    return value


def value_of(attempt: Path, key: str) -> Any:
    """The last value of a key in train.log."""
    return [line["value"] for line in events(attempt) if line["key"] == key][-1]


def events(attempt: Path) -> list[dict[str, Any]]:
    """All lines of train.log."""
    text = (attempt / "train.log").read_text()
    assert text.endswith("\n"), "the last line is not whole"
    return [json.loads(line.removeprefix(":::MLLOG ")) for line in text.splitlines()]


def findings(run: str, attempt: Path, truth: Mapping[str, float], parts: Iterable[str] = PARTS) -> list[Finding]:
    """Each of these parts that is claimed. A part that is named in `not_told_apart` is not."""
    told, more = control(attempt), allowed(attempt)
    return [
        Finding(run, part, truth[part], told[part], told["half_widths"][part], more)
        for part in parts
        if told[part] is not None and part not in told["not_told_apart"]
    ]


def judge(found: Iterable[Finding]) -> None:
    """Each is near its truth, and most lie within their 95 % interval."""
    found = list(found)
    far = [str(each) for each in found if not each.inside(FARTHEST)]
    assert far == []
    outside = [str(each) for each in found if not each.inside()]
    assert len(outside) <= max(1, (1 - SHARE_INSIDE) * len(found)), outside
