"""What the runs of one script execute: their commands, each an arm of a `case`, quoted already."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence

from hpcjobs.base.errors import InputError
from hpcjobs.config import Cluster
from hpcjobs.jobs.group import Group, PlannedRun
from hpcjobs.jobs.quoting import quote_any
from hpcjobs.trainers import Launch, Variable, Word
from hpcjobs.trainers.registry import trainer_of

# The most bytes of one argument of a process (MAX_ARG_STRLEN of Linux, less the zero byte at its end).
LONGEST_WORD = 131_071
# Characters that need no quoting, also within double quotes.
_PLAIN = re.compile(r"[\w./:=@%+,-]*", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Arm:
    """The array indices, as a pattern of `case`, of runs that execute the same."""

    pattern: str
    launch: Launch


@dataclasses.dataclass(frozen=True)
class Counter:
    """The array indices, as a pattern of `case`, of runs with the same repeat and seed."""

    pattern: str
    repeat: int
    seed: int


@dataclasses.dataclass(frozen=True)
class Told:
    """The array indices, as a pattern of `case`, of runs whose meters are told the same but for the run's name.

    measure: the word that HPCJOBS_MEASURE is. metered: a meter is put into the processes.
    """

    pattern: str
    measure: Word
    metered: bool


def launch_of(run: PlannedRun, cluster: Cluster) -> Launch:
    """What a run executes."""
    experiment = run.variant.experiment
    return trainer_of(experiment).launch(experiment, run.size, cluster)


def shown_command(run: PlannedRun, cluster: Cluster) -> str:
    """The command of a run as it stands in its script, quoted; variables of the script hold what the node knows."""
    return " ".join(map(word, launch_of(run, cluster).words))


def arms(group: Group, cluster: Cluster) -> list[Arm]:
    """The commands of the group's runs, each once, in the order of its first run."""
    launches = {run.variant.params: launch_of(run, cluster) for run in group.runs}
    found: dict[tuple[object, ...], tuple[Launch, list[int]]] = {}
    for index, run in enumerate(group.runs):
        launch = launches[run.variant.params]
        key = launch.words, tuple(launch.environment.items())
        found.setdefault(key, (launch, []))[1].append(index)
    return [Arm(_pattern(indices), launch) for launch, indices in found.values()]


def counters(group: Group) -> list[Counter]:
    """The repeats and seeds of the group's runs, each pair once."""
    found: dict[tuple[int, int], list[int]] = {}
    for index, run in enumerate(group.runs):
        found.setdefault((run.repeat, run.variant.experiment.seed + run.repeat - 1), []).append(index)
    return [Counter(_pattern(indices), *key) for key, indices in found.items()]


def told(group: Group, cluster: Cluster, sweep: str) -> list[Told]:
    """What the meters of the group's runs are told, each once, in the order of its first run."""
    launches = {run.variant.params: launch_of(run, cluster) for run in group.runs}
    found: dict[tuple[str, bool], list[int]] = {}
    for index, run in enumerate(group.runs):
        launch = launches[run.variant.params]
        about = {**launch.measure, "params": run.variant.params, "sweep": sweep, "device": cluster.device}
        found.setdefault((json.dumps(about), launch.metered), []).append(index)
    return [
        # The names of runs are letters, digits and hyphens.
        Told(_pattern(indices), (f'{text[:-1]}, "run": "', Variable("run"), '"}'), metered)
        for (text, metered), indices in found.items()
    ]


def word(parts: Word) -> str:
    """A word of a job script: its texts quoted, its variables expanded to exactly their value.

    Raises InputError for a text that no script can hold.
    """
    texts = [part for part in parts if isinstance(part, str)]
    length = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    if length > LONGEST_WORD:
        raise InputError(f"a word of {length} bytes: Linux gives a process at most {LONGEST_WORD} bytes in one")
    if len(texts) < len(parts) and all(_PLAIN.fullmatch(text) for text in texts):
        return (
            '"' + "".join(part if isinstance(part, str) else _inside(parts, at) for at, part in enumerate(parts)) + '"'
        )
    return "".join(quote_any(part) if isinstance(part, str) else f'"${part.name}"' for part in parts)


def _inside(parts: Word, at: int) -> str:
    """A variable within double quotes: in braces if the text after it would be read as a part of its name."""
    variable, after = parts[at], parts[at + 1] if at + 1 < len(parts) else ""
    assert isinstance(variable, Variable)
    is_longer = isinstance(after, str) and re.match(r"\w", after)
    return f"${{{variable.name}}}" if is_longer else f"${variable.name}"


def _pattern(indices: Sequence[int]) -> str:
    return "|".join(map(str, indices))
