"""Of exceptions that Python prints in a chain, leaves the one that counts. Pure.

`raise ... from` names the cause of an exception: then the first of the two counts. An exception that is raised while
another is handled ended the program: then the second counts, unless it only says that this rank lost another one. A
DataLoader's worker, a process that torch.multiprocessing spawned and a task of Ray print theirs below the exception
that reports it.

Only exceptions without a class of their own are left out: that of a full GPU stays, wherever it stands in the chain.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from hpcjobs.collect import causes, causes_program, own_lines

_THE_FIRST_COUNTS = "The above exception was the direct cause of the following exception"
_THE_SECOND_COUNTS = (
    "During handling of the above exception, another exception occurred",
    "Original Traceback (most recent call last)",
    "terminated with the following error",
)
# Ray tells of a task's exception in a line of its own, above the task's traceback.
_OF_A_TASK = re.compile(r"\bRayTaskError\(")
_LINK = re.compile("|".join(map(re.escape, (_THE_FIRST_COUNTS, *_THE_SECOND_COUNTS))))
_TRACEBACK = "Traceback (most recent call last)"
# With the bars of an exception group before it.
_RAISED = re.compile(rf"(?:[ |]*\| )?(?:{causes_program.EXCEPTION}|\w[\w.]*(?:Error|Exception)\b)(?=:|$|\(\w+\): )")
# The classes of exceptions that no other list has.
_WITHOUT_CLASS = {"traceback", "import_error"}


@dataclasses.dataclass
class _Chain:
    """What one rank prints: the number of its line with the exception that counts so far, and the link after it."""

    counts: int
    link: str = ""


def without_superseded(lines: Sequence[str]) -> list[str]:
    """The lines of a log without the exceptions that another one of their chain stands for."""
    if not any(_LINK.search(line) or _OF_A_TASK.search(line) for line in lines):
        return list(lines)
    chains: dict[int | None, _Chain] = {}
    left_out: set[int] = set()
    for number, line in enumerate(lines):
        rank = causes.label(line)
        chain = chains.get(rank)
        link = _LINK.search(line)
        if link:
            if chain:
                chain.link = link[0]
        elif _TRACEBACK in line:
            if chain and not chain.link:
                del chains[rank]
        elif _RAISED.match(own_lines.bare(line)):
            if chain and chain.link:
                first = chain.counts
                chain.counts, out = _of_two(lines, first, number, chain.link)
                left_out.update(out)
                chain.link = ""
            elif chain is None:
                chain = chains[rank] = _Chain(number)
            if _OF_A_TASK.search(line):
                chain.link = _THE_SECOND_COUNTS[0]
    return [line for number, line in enumerate(lines) if number not in left_out]


def _of_two(lines: Sequence[str], first: int, second: int, link: str) -> tuple[int, set[int]]:
    """The numbers of the line that counts of these two exceptions, and of those that are left out."""
    kinds = {number: causes.class_of(lines[number]) for number in (first, second)}
    may_go = {number for number, kind in kinds.items() if kind in _WITHOUT_CLASS}
    follows = causes.may_follow(kinds[second]) or causes.is_lost_connection(own_lines.bare(lines[second]))
    ended = "CalledProcessError: " in lines[first]  # it says only that a process failed: ninja's, of an extension
    if (link == _THE_FIRST_COUNTS and not ended) or follows or causes.may_follow(kinds[first]):
        return first, may_go & {second}
    return second, may_go & {first}
