"""The plan of a sweep: nodes and processes of each size, the grid of swept keys, the names of all runs. Pure."""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hpcjobs.base.errors import InputError
from hpcjobs.base.sizes import Size
from hpcjobs.base.tabular import param_column
from hpcjobs.config import Cluster, Document, Experiment
from hpcjobs.config.keys import Key, exclusive, keys_of, leaves
from hpcjobs.jobs.group import ALLOCATION, Group, PlannedRun, Variant
from hpcjobs.trainers import Start
from hpcjobs.trainers.registry import experiment_in, trainer_in, trainer_of


@dataclasses.dataclass(frozen=True)
class Terms:
    """How a sweep's runs are submitted.

    `throttle`: the most tasks of one array that run at a time; None is no limit. `max_array`: the most tasks that
    one array may have; None is no limit. `one_allocation`: one job of the largest size runs everything, one run
    after another.
    """

    throttle: int | None = None
    max_array: int | None = None
    one_allocation: bool = False


@dataclasses.dataclass(frozen=True)
class Plan:
    """All runs of a sweep, grouped by script.

    `allocation`, if there is one, holds all runs in the order in which its job runs them.
    """

    cluster: Cluster
    variants: tuple[Variant, ...]
    groups: tuple[Group, ...]
    repeats: int
    terms: Terms = Terms()
    allocation: Group | None = None

    @property
    def runs(self) -> list[PlannedRun]:
        """All runs, smallest size first."""
        return [run for group in self.groups for run in group.runs]

    @property
    def submitted(self) -> tuple[Group, ...]:
        """The groups that are submitted: one or more for each size, or the one allocation."""
        return self.groups if self.allocation is None else (self.allocation,)

    @functools.cached_property
    def run_names(self) -> dict[str, list[str]]:
        """Names of the runs of each submitted group, by array index."""
        return {group.name: [run.name for run in group.runs] for group in self.submitted}


# numpy.random.seed refuses a larger one, and tf.keras.utils.set_random_seed with it.
LARGEST_SEED = 2**32 - 1

# Slurm holds 10,000 jobs by default (MaxJobCount). A damaged or mistyped number of repeats must not fill the memory.
MOST_RUNS = 1_000_000

# Keys that --set does not take, and what is right instead.
NEVER_SET = {
    "trainer": "the trainer decides which other keys there are: give another experiment",
    "command": "give the command after --, or in the experiment's file",
}


def parse_gpus(text: str) -> list[int]:
    """GPU counts of a text such as `1,2,4`, sorted. Raises InputError for anything else, and for repeated counts."""
    counts: list[int] = []
    for part in text.split(","):
        word = part.strip()
        if not (word.isascii() and word.isdigit() and int(word) > 0):
            raise InputError(f"--gpus {text}: '{word}' is not a GPU count: give a list such as 1,2,4,8,16")
        if int(word) in counts:
            raise InputError(f"--gpus {text}: {int(word)} is given twice")
        counts.append(int(word))
    return sorted(counts)


def size_of(gpus: int, cluster: Cluster, start: Start = "rank") -> Size:
    """Nodes and processes for a GPU count. Raises InputError if the profile has no such size.

    With `start` once, the job has as many tasks as with rank, so that the command may use them.
    """
    per_node = cluster.gpus_per_node
    nodes = 1 if per_node is None else -(-gpus // per_node)
    if cluster.nodes is not None and nodes > cluster.nodes:
        most = f"at most {cluster.nodes * per_node} GPUs" if per_node else f"at most {cluster.nodes} nodes"
        raise InputError(
            f"--gpus: {gpus} GPUs need {nodes} nodes; cluster '{cluster.name}' has {cluster.nodes} ({most})"
        )
    if per_node is not None and nodes > 1 and gpus % per_node and not cluster.uneven_nodes:
        whole = gpus // per_node * per_node
        raise InputError(
            f"--gpus: {gpus} GPUs do not fill nodes of {per_node} evenly: on cluster '{cluster.name}' give "
            f"1 to {per_node}, or a multiple of {per_node} (next: {whole}, {whole + per_node}), "
            "or set uneven_nodes: true in its profile"
        )
    if cluster.launcher == "fork" and nodes > 1:
        raise InputError(
            f"--gpus: {gpus} GPUs need {nodes} nodes, and launcher fork of cluster '{cluster.name}' starts processes "
            "on one: give smaller sizes, or launcher srun or mpirun"
        )
    on_fullest = -(-gpus // nodes)
    return Size(gpus, nodes, on_fullest, *((1, nodes) if start == "node" else (on_fullest, gpus)))


def parameter_grid(document: Document, settings: Sequence[str]) -> list[Variant]:
    """The experiment with every combination of the values of `--set KEY=V1,V2`.

    A path is made absolute: relative to the working folder if a setting gave it, else to the folder of the experiment's
    file. Raises InputError for a malformed setting or a value that the key does not accept.
    """
    kind = trainer_in(document).keys
    known = {key.name: key for key in leaves(kind)}
    sections = {key.name: key.section for key in keys_of(kind)}
    choices: dict[str, list[str]] = {}
    for setting in settings:
        key, equals, values = setting.partition("=")
        key = key.strip()
        if not equals or not key:
            raise InputError(f"--set {setting}: expected KEY=VALUE or KEY=V1,V2")
        if key in NEVER_SET:
            raise InputError(f"--set {setting}: {NEVER_SET[key]}")
        if (section := sections.get(key)) is not None and values.strip() != "null":
            inner = [each.name for each in keys_of(section)]
            raise InputError(
                f"--set {setting}: {key} is a section with the keys {', '.join(inner)}: did you mean "
                f"{key}.{inner[0]}={values}?"
            )
        if key in choices:
            raise InputError(f"--set {setting}: '{key}' is set twice; give its values in one --set {key}=V1,V2")
        # A text that is taken as it is written may hold commas, and a list is written with them.
        is_list = key in known and known[key].is_list
        whole = key in known and (known[key].verbatim or is_list)
        words = [values] if whole else [value.strip() for value in values.split(",")]
        if "" in words or len(set(words)) < len(words) or (is_list and "" in map(str.strip, values.split(","))):
            raise InputError(f"--set {setting}: an empty or a repeated value")
        if key in ("name", "repeats") and len(words) > 1:
            raise InputError(f"--set {setting}: takes one value, which is that of the whole sweep")
        choices[key] = words
    # null is no value: it makes room for the other key.
    _refuse_exclusive((key for key, values in choices.items() if values != ["null"]), exclusive(kind))
    swept = sorted(key for key, values in choices.items() if len(values) > 1)
    _refuse_shared_columns(swept)
    for key in swept:
        _refuse_ambiguous(key, choices[key])
    variants = []
    for combination in itertools.product(*choices.values()):
        chosen = dict(zip(choices, combination, strict=True))
        point = copy.deepcopy(document)
        for key, word in chosen.items():
            point.set(key, word, kind)
        for about in known.values():
            if about.path:
                _locate(point, about, about.name in chosen)
        params = ";".join(f"{key}={chosen[key]}" for key in swept)
        variants.append(Variant(params, experiment_in(point)))
    return variants


# What would end a value in `k=v;k=v`, or a line of a table.
_AMBIGUOUS = re.compile(r"[\x00-\x1f\x7f]|;.*=", re.DOTALL)


def _refuse_ambiguous(key: str, values: Iterable[str]) -> None:
    """Raises InputError for a value with which `params` would not tell the variants, or their columns, apart."""
    for value in values:
        if _AMBIGUOUS.search(value):
            raise InputError(
                f"--set {key}: {value!r} holds a line break, another control character, or an equals sign after a "
                "semicolon: tables name runs by their swept values: sweep short names that the command looks up"
            )


def _refuse_shared_columns(swept: Iterable[str]) -> None:
    """Raises InputError if the table would have one column for two of the keys."""
    keys: dict[str, str] = {}
    for key in swept:
        column = param_column(key)
        if column in keys:
            raise InputError(f"--set: {keys[column]} and {key} cannot both be swept, because both are column {column}")
        keys[column] = key


def _refuse_exclusive(keys: Iterable[str], others: Mapping[tuple[str, ...], tuple[str, ...]]) -> None:
    """Raises InputError if two of the keys exclude each other."""
    set_ = {tuple(key.split("."))[:2]: key for key in sorted(keys)}
    for path, key in set_.items():
        other = set_.get(others.get(path, ()))
        if other is not None:
            raise InputError(f"--set: give one of {key} and {other}, not both")


def _locate(document: Document, key: Key, by_setting: bool) -> None:
    """Make a path absolute, because the runs have another working folder."""
    inside: Any = document.data
    *sections, name = key.name.split(".")
    for section in sections:
        inside = inside.get(section) if isinstance(inside, dict) else None
    if not isinstance(inside, dict):
        return
    path = inside.get(name)
    if path is None and key.here:
        inside[name] = str(Path.cwd())
    elif isinstance(path, str) and path and path not in key.words:
        base = Path.cwd() if by_setting else Path(document.source).parent
        inside[name] = str((base / Path(path).expanduser()).resolve())


def check_seeds(experiments: Iterable[Experiment], repeats: int) -> None:
    """Raises InputError if the seed of a repeat is more than NumPy takes: the run would end when it has begun."""
    for each in experiments:
        if each.seed + repeats - 1 > LARGEST_SEED:
            last = f" (that of repeat {repeats} is {each.seed + repeats - 1})" if repeats > 1 else ""
            raise InputError(
                f"expected at most {LARGEST_SEED}, the most that NumPy takes, got {each.seed}{last}", ("seed",)
            )


def make_plan(
    gpus: Sequence[int], variants: Sequence[Variant], cluster: Cluster, repeats: int, terms: Terms | None = None
) -> Plan:
    """All runs of a sweep, each with its name.

    The index order within a script is repeat by repeat, so that an interrupted sweep has whole repeats.
    A size with more runs than `max_array` gets several scripts. Raises InputError if a size or a global
    batch does not fit, or if there are more than MOST_RUNS runs.
    """
    terms = terms or Terms()
    count = len(gpus) * len(variants) * repeats
    if count > MOST_RUNS:
        raise InputError(f"a sweep has at most {MOST_RUNS:,} runs: give fewer sizes, values or repeats")
    groups = []
    trainer, first = trainer_of(variants[0].experiment), variants[0].experiment
    for size in (size_of(count, cluster, trainer.start(first)) for count in gpus):
        for variant in variants:
            trainer.check_size(variant.experiment, size)
        name = f"g{size.gpus:04d}"
        runs = []
        for repeat in range(1, repeats + 1):
            for number, variant in enumerate(variants, 1):
                point = f"-p{number:02d}" if len(variants) > 1 else ""
                runs.append(PlannedRun(f"{name}{point}-r{repeat:02d}", size, variant, repeat))
        length = terms.max_array or len(runs)
        for chunk, start in enumerate(range(0, len(runs), length), 1):
            part = f"-c{chunk:02d}" if chunk > 1 else ""
            groups.append(Group(f"{name}{part}", size, tuple(runs[start : start + length])))
    allocation = Group(ALLOCATION, groups[-1].size, _interleaved(groups)) if terms.one_allocation else None
    return Plan(cluster, tuple(variants), tuple(groups), repeats, terms, allocation)


def _interleaved(groups: Sequence[Group]) -> tuple[PlannedRun, ...]:
    """Repeat by repeat, with the sizes in ascending and descending order in turn.

    A steady drift of the nodes then adds the same to every size over two repeats.
    """
    runs = [run for group in groups for run in group.runs]
    return tuple(
        sorted(runs, key=lambda run: (run.repeat, run.size.gpus if run.repeat % 2 else -run.size.gpus, run.name))
    )
