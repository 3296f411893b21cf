"""What is shown of a study with more runs than anybody reads: counts by size and state, each way to fail, some runs."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

from hpcjobs.base.metrics import Run
from hpcjobs.base.records import RunState
from hpcjobs.engine.state import RunStatus
from hpcjobs.report.contents import cause_of
from hpcjobs.report.tables import Cells

# Of up to so many runs each has its row, in a terminal and on the page.
EACH = 200
# Of more, so many are shown at most: of those that ended without a result, some of each class.
SOME = 20
_WHY_LENGTH = 120


@dataclasses.dataclass(frozen=True)
class Brief:
    """What counts of a run here.

    `cause` is the class of its failure, empty of one that has none; `why` shows it, or what a run waits for that has
    not ended. `clock`: how the clock of its first node contradicts this host's.
    """

    name: str
    gpus: int
    state: RunState
    cause: str = ""
    why: str = ""
    clock: str = ""

    @property
    def is_lost(self) -> bool:
        """Whether it ended without a result."""
        return self.state.final and self.state is not RunState.DONE

    @property
    def kind(self) -> str:
        """The class of its failure, or its state if that says as much."""
        return self.cause or str(self.state)


def of_statuses(runs: Sequence[RunStatus]) -> list[Brief]:
    """Runs as `status` has them."""
    found = []
    for run in runs:
        cause = (run.failure.kind, run.failure.evidence) if run.failure else ("", "" if run.state.final else run.said)
        found.append(Brief(run.run, run.gpus, run.state, *cause, run.clock))
    return found


def of_runs(runs: Sequence[Run]) -> list[Brief]:
    """Runs as a report has them."""
    return [Brief(run.run, run.gpus, run.state, *cause_of(run)) for run in runs]


def by_size(runs: Sequence[Brief]) -> Cells:
    """A row for each size: how many of its runs are in each state."""
    counts: dict[int, Counter[RunState]] = {}
    for run in runs:
        counts.setdefault(run.gpus, Counter())[run.state] += 1
    states = [state for state in RunState if any(state in each for each in counts.values())]
    rows = [(f"{gpus:,}", *(f"{counts[gpus][state]:,}" if counts[gpus][state] else "" for state in states))
            for gpus in sorted(counts)]  # fmt: skip
    return Cells(("GPUs", *map(str, states)), tuple(rows))


def by_cause(runs: Sequence[Brief]) -> Cells:
    """A row for each way in which runs ended without a result, the most frequent first, with one of the runs."""
    kinds = sorted(_of_kind(runs).items(), key=lambda item: -len(item[1]))
    rows = [_row(kind, runs[those[0]].why, [runs[number] for number in those]) for kind, those in kinds]
    return Cells(("class", "such as", "why", "runs", "sizes"), tuple(rows), left=3)


def by_reason(runs: Sequence[Brief]) -> Cells:
    """A row for each reason why runs have not ended, the most frequent SOME first; and one for clocks that differ."""
    said: dict[tuple[RunState, str], list[Brief]] = {}
    for run in runs:
        if run.why and not run.is_lost:
            said.setdefault((run.state, run.why), []).append(run)
    most = sorted(said.items(), key=lambda item: -len(item[1]))
    rows = [_row(str(state), why, those) for (state, why), those in most[:SOME]]
    if rest := [run for _, those in most[SOME:] for run in those]:
        rows.append(_row("others", f"{len(most) - SOME:,} more reasons, such as: {rest[0].why}", rest))
    if differ := [run for run in runs if run.clock]:
        rows.append(_row("clocks", differ[0].clock, differ))
    return Cells(("state", "such as", "why", "runs", "sizes"), tuple(rows), left=3)


def _row(kind: str, why: str, those: Sequence[Brief]) -> tuple[str, ...]:
    why = why if len(why) <= _WHY_LENGTH else f"{why[: _WHY_LENGTH - 4]} ..."
    gpus = sorted({run.gpus for run in those})
    spread = f"{gpus[0]:,}" if len(gpus) == 1 else f"{len(gpus):,}, {gpus[0]:,} to {gpus[-1]:,}"
    return kind, those[0].name, why, f"{len(those):,}", spread


def shown(runs: Sequence[Brief]) -> list[int]:
    """The numbers of the runs that are shown one by one: all of EACH, of more SOME that ended without a result.

    Each class has one before any has a second.
    """
    if len(runs) <= EACH:
        return list(range(len(runs)))
    kinds = list(_of_kind(runs).values())
    turns = [number for turn in range(SOME) for those in kinds for number in those[turn : turn + 1]]
    return sorted(turns[:SOME])


def left_out(runs: Sequence[Brief], where: str) -> str:
    """What a line says of the runs that are not shown; `where` has them all."""
    lost, few = sum(run.is_lost for run in runs), len(shown(runs))
    some = "" if not lost else f"{few:,} of the {lost:,} runs that ended without a result are shown, each class first; "
    return f"{some}{where} has all {len(runs):,}"


def _of_kind(runs: Sequence[Brief]) -> dict[str, list[int]]:
    """The numbers of the runs that ended without a result, by why."""
    found: dict[str, list[int]] = {}
    for number, run in enumerate(runs):
        if run.is_lost:
            found.setdefault(run.kind, []).append(number)
    return found
