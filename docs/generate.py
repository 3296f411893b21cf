"""Writes docs/reference/ from the code: every key, column, flag and class of failure, in the code's own words.

The pages are kept in git, so that they can be read beside the code. A test fails if they are out of date.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec
import yaml

from hpcjobs.base import columns
from hpcjobs.base.metrics import Run, ScalingRow
from hpcjobs.base.tabular import Metric, metrics_of
from hpcjobs.chexnet.classes import AUC_MEANINGS
from hpcjobs.cli import hpcjobs
from hpcjobs.collect import failure_classes
from hpcjobs.config import Cluster
from hpcjobs.config.cluster import OWNED_SBATCH, RETRYABLE
from hpcjobs.config.keys import keys_of
from hpcjobs.config.words import Section
from hpcjobs.trainers.registry import TRAINERS

REFERENCE = Path(__file__).parent / "reference"
MADE = "<!-- Written by docs/generate.py (`make docs`) from {source}: change it there. -->\n"


def pages() -> dict[str, str]:
    """Text of each page of docs/reference by its file's name."""
    return {
        "experiment.md": _experiment(),
        "profile.md": _profile(),
        "columns.md": _columns(),
        "failures.md": _failures(),
        "commands.md": _commands(),
    }


def _experiment() -> str:
    keys = {name: _sections(trainer.keys, level=3) for name, trainer in TRAINERS.items()}
    return (
        f"{MADE.format(source='hpcjobs/trainers')}# Keys of an experiment\n\n"
        "A YAML file in `experiments/`, or any path given to `--experiment`. `hpcjobs init` writes one with all keys;\n"
        "`--set KEY=VALUE` overrides a key, two or more values make it a parameter of the study. A key whose default\n"
        "is `absent` may be left out or be `null`. An unknown key is an error that names the nearest known one.\n"
        "The key `trainer` says which keys there are.\n\n"
        "## A training command: `trainer: command`\n\n"
        "What the keys are for: [A training of your own](../own-training.md). The key `trainer` must be given.\n\n"
        f"{keys['command']}\n"
        "## The trainer that comes with hpcjobs: `trainer: chexnet`\n\n"
        "A file without `trainer` has these keys. [chexnet.yaml](../../experiments/chexnet.yaml) has the article's\n"
        "values, with their sources.\n\n"
        f"{keys['chexnet']}"
    )


def _profile() -> str:
    owned: dict[str, list[str]] = {}
    for option, key in OWNED_SBATCH.items():
        owned.setdefault(key, []).append(option)
    rows = [
        (f"`{key}`" if key else "none: hpcjobs needs it for itself", ", ".join(f"`{option}`" for option in options))
        for key, options in sorted(owned.items())
    ]
    return (
        f"{MADE.format(source='hpcjobs/config/cluster.py')}# Keys of a cluster profile\n\n"
        "A YAML file in `clusters/`, or any path given to `--cluster`. `hpcjobs cluster detect` writes one,\n"
        "`hpcjobs cluster show NAME` prints one with every default. How profiles are found, and which keys need each\n"
        "other: [Describing a cluster](../clusters.md).\n\n"
        f"{_sections(Cluster)}\n"
        "## Options of sbatch that `sbatch` refuses\n\n"
        "hpcjobs sets these options itself. The error names the profile's key to use instead.\n\n"
        f"{_table(('key', 'options'), rows)}"
    )


def _sections(kind: type[Section], above: str = "", level: int = 2) -> str:
    """A table of the keys with plain values, then a chapter, with a heading of that level, for each section."""
    fields = {field.encode_name: field for field in msgspec.inspect.type_info(kind).fields}
    rows: list[tuple[str, ...]] = []
    chapters = []
    for key in keys_of(kind):
        name = f"{above}{key.name}"
        if key.section is None or key.optional:
            rows.append((f"`{name}`", _type(fields[key.name].type), _default(fields[key.name]), key.description))
        if key.section is not None:
            inner = _sections(key.section, f"{name}.", level)
            chapters.append(f"{'#' * level} {name}\n\n{key.description}\n\n{inner}")
    return "\n".join([_table(("key", "value", "default", "meaning"), rows), *chapters])


def _type(kind: msgspec.inspect.Type) -> str:
    """A type in the words of YAML."""
    inspect = msgspec.inspect
    if isinstance(kind, inspect.Metadata):
        return _type(kind.type)
    if isinstance(kind, inspect.StructType):
        return "section"
    if isinstance(kind, inspect.UnionType):
        return " or ".join(_type(each) for each in kind.types if not isinstance(each, inspect.NoneType))
    if isinstance(kind, inspect.LiteralType):
        return ", ".join(f"`{value}`" for value in kind.values)
    if isinstance(kind, (inspect.IntType, inspect.FloatType)):
        bounds = [
            f"{sign} {limit:g}"
            for sign, limit in ((">=", kind.ge), (">", kind.gt), ("<=", kind.le), ("<", kind.lt))
            if limit is not None
        ]
        word = "whole number" if isinstance(kind, inspect.IntType) else "number"
        return " ".join([word, " and ".join(bounds)]).strip()
    if isinstance(kind, inspect.BoolType):
        return "`true`, `false`"
    if isinstance(kind, inspect.VarTupleType):
        return f"list of {_type(kind.item_type)}"
    if isinstance(kind, inspect.DictType):
        return f"mapping to {_type(kind.value_type)}"
    if isinstance(kind, inspect.StrType):
        return "text"
    raise TypeError(f"no words for {kind}")


def _default(field: msgspec.inspect.Field) -> str:
    if field.required:
        return "must be given"
    value: Any = field.default_factory() if field.default_factory is not msgspec.NODEFAULT else field.default
    if value is None:
        return "absent"
    text = yaml.safe_dump(msgspec.to_builtins(value), default_flow_style=True, width=1000)
    return f"`{text.removesuffix('...' + chr(10)).strip()}`"


def _columns() -> str:
    rows, runs = metrics_of(ScalingRow), metrics_of(Run)
    combined = [(*_column(name, about), about.combine.value if about.combine else "") for name, about in rows.items()]
    alone = [_column(name, about) for name, about in runs.items() if name not in rows]
    return (
        f"{MADE.format(source='hpcjobs/base/metrics.py')}# Columns and flags\n\n"
        "How each figure is computed, and how sure it is: [numbers.md](../numbers.md).\n\n"
        "## scaling-report.csv\n\n"
        "One row per GPU count, batch and parameter set; pandas reads it without options. An empty field is not known.\n"
        "`over runs` says how the runs of a row combine, those without a measurement left out unless it says otherwise;\n"
        "where it is empty the table computes the column. After `flags` comes one column `param.KEY` per swept key.\n\n"
        f"{_table(('column', 'unit', 'holds', 'over runs'), combined)}\n"
        "## runs.csv\n\n"
        "One row per run. Most columns are those above that a single run can have. These belong to runs alone:\n\n"
        f"{_table(('column', 'unit', 'holds'), alone)}\n"
        "All columns of runs.csv in their order: "
        f"{', '.join(f'`{name}`' for name in runs)}.\n\n"
        "`hpcjobs report --runs FILE` makes the table of any such file; `gpus` and `throughput` are enough.\n"
        "A file without the column `unit` counts images, and the names of version 0.1 are read too: `images_per_sec`,\n"
        "`images_per_sec_low`, `images_per_sec_high`, `images_per_sec_per_gpu` and `predicted_images_per_sec` are\n"
        "`throughput` and so on, `mean_auc` is `score`, and `auc_split` is a part of `score_name`.\n\n"
        "## auc.csv\n\n"
        "One row per run, split and finding: `run`, `experiment`, `params`, `gpus` as above, then\n\n"
        f"{_meanings('column', AUC_MEANINGS)}\n"
        "## Flags\n\n"
        "What to know before trusting a row, in its column `flags`; some are raised by a run, and stand in runs.csv.\n\n"
        f"{_meanings('flag', columns.FLAGS)}"
    )


def _column(name: str, about: Metric) -> tuple[str, str, str]:
    since = f" (since {about.since})" if about.since else ""
    return f"`{name}`", about.unit, f"{about.meaning}{since}"


def _meanings(what: str, known: Mapping[str, str]) -> str:
    return _table(
        (what, "holds" if what == "column" else "says"), [(f"`{name}`", text) for name, text in known.items()]
    )


def _failures() -> str:
    own = TRAINERS["command"].hints()
    rows = [
        (f"`{kind}`", about.meaning, about.hint, own.get(kind, ""), "yes" if kind in RETRYABLE else "")
        for kind, about in sorted(failure_classes.FAILURE_CLASSES.items())
    ]
    return (
        f"{MADE.format(source='hpcjobs/collect/failure_classes.py')}# Classes of failure\n\n"
        "`hpcjobs status`, `runs.csv` and the page show the class of each failed run, the line of the log that says why,\n"
        "and what to do. If several lines report a failure, Slurm's come first, then those of the rank that gave up, then\n"
        "other causes, and last what only follows from the end of another rank. Of lines of one kind the first in time\n"
        "counts: by their times where they have some, by torchrun's summary where it names the rank that failed first.\n"
        "Of two exceptions that Python chains, the first counts where the program names it as the cause (`raise ... from`);\n"
        "where the second was raised while the first was handled, it ended the program and counts, unless it only says that\n"
        "this rank lost another one. One with a class of its own counts before others of its chain. Of a DataLoader's\n"
        "worker and of a spawned process, the exception counts that it raised itself.\n"
        "A line that several ranks print is told once, with their number if the lines name their ranks. A line that calls\n"
        "itself a warning names no class, and neither does one after which the program printed 20 lines of progress, but\n"
        "for an exception if nothing else is found. If the end of a log, 256 KiB, tells only of lost ranks, 8 MiB are read.\n"
        "Of a container, enroot's or Apptainer's own line counts, and of Open MPI's messages a whole sentence. `may be\n"
        "retried`: the profile's `retry` can name the class, see [Submitting](../submitting.md). `hpcjobs resume` runs all other failed runs again, once\n"
        "you have removed the cause. Some remedies name keys of the built-in trainer, such as data.cache; a command of your\n"
        "own has another remedy there.\n\n"
        f"{_table(('class', 'means', 'what to do', 'what to do with a command of your own', 'may be retried'), rows)}"
    )


def _commands() -> str:
    def helps(command: click.Command, words: str, parent: click.Context | None) -> Iterator[str]:
        context = click.Context(
            command, parent, info_name=words.split()[-1], terminal_width=100, **command.context_settings
        )
        yield f"## {words}\n\n```text\n{command.get_help(context)}\n```\n"
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                inner = command.get_command(context, name)
                assert inner is not None
                yield from helps(inner, f"{words} {name}", context)

    return (
        f"{MADE.format(source='the commands of hpcjobs/cli')}# Commands\n\n"
        "What `--help` prints. Exit codes: 0 done, 1 a run failed (or data are bad, or a cluster is unfit), 2 wrong input\n"
        "(one line says what and where; nothing is written) or refused by the scheduler, 3 the scheduler is out of reach,\n"
        "130 interrupted. Results go to stdout, talk goes to stderr.\n\n" + "\n".join(helps(hpcjobs, "hpcjobs", None))
    )


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    def lines() -> Iterator[str]:
        yield " | ".join(head)
        yield " | ".join("---" for _ in head)
        for row in rows:
            # A bar would end the cell, an empty line the table.
            yield " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in row)

    return "".join(f"| {line} |\n" for line in lines())


def main() -> None:
    REFERENCE.mkdir(exist_ok=True)
    for name, text in pages().items():
        (REFERENCE / name).write_text(text)


if __name__ == "__main__":
    main()
