"""The trainers by name, and the experiment in a YAML document, whose key `trainer` says which keys it may have."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpcjobs.base.contract import RunConfig
from hpcjobs.base.errors import InputError, nearest
from hpcjobs.base.records import ExitRecord
from hpcjobs.collect.attempts import Reading
from hpcjobs.config import Document, Experiment, convert
from hpcjobs.config.document import known_keys
from hpcjobs.trainers import Trainer
from hpcjobs.trainers.chexnet import ChexnetTrainer
from hpcjobs.trainers.command import CommandTrainer

TRAINERS: Mapping[str, Trainer] = {"chexnet": ChexnetTrainer(), "command": CommandTrainer()}
# The trainer of an experiment that names none: version 0.1 had no other.
DEFAULT = "chexnet"


def trainer_of(experiment: Experiment) -> Trainer:
    """The trainer of an experiment."""
    return TRAINERS[experiment.trainer]


def trainer_in(document: Document) -> Trainer:
    """The trainer that a document names. Raises InputError if there is no such trainer."""
    name = document.data.get("trainer", DEFAULT)
    if not isinstance(name, str) or name not in TRAINERS:
        raise InputError(
            f"{document.where(('trainer',))}: key 'trainer': no trainer {name!r}: {nearest(str(name), TRAINERS)}"
        )
    return TRAINERS[name]


def experiment_in(document: Document) -> Experiment:
    """The experiment in a document. Raises InputError for the first mistake."""
    trainer = trainer_in(document)
    known = known_keys(trainer.keys)
    for key in document.data:
        others = [name for name, each in TRAINERS.items() if key in known_keys(each.keys)]
        if key not in known and others and "trainer" not in document.data:
            where = document.where((str(key),))
            raise InputError(f"{where}: key '{key}' is one of trainer {others[0]}: give `trainer: {others[0]}`, too")
    return convert(document, trainer.keys)


def upgraded(experiment: dict[str, Any], version: int) -> dict[str, Any]:
    """The experiment of a sweep.yaml of that version, as this version writes it.

    Version 1 had one trainer, and no data.synth: its experiment called demo made up these images without data.dir.
    """
    if version == 1 and experiment["name"] == "demo" and experiment["data"]["dir"] is None:
        experiment["data"].setdefault("synth", {"images": 512, "size": 64})
    return experiment


def check_run(run: RunConfig) -> None:
    """Raises InputError if the experiment of a run.yaml is damaged."""
    experiment_in(Document("experiment", copy.deepcopy(dict(run.experiment)), {}))


def read_ended(run: RunConfig, attempt: Path, exit: ExitRecord | None) -> Reading:
    """What the files of an attempt say, whose exit.json the caller has read, or has not found; see Trainer.read."""
    trainer = TRAINERS[run.experiment.get("trainer", DEFAULT)]
    return trainer.read(run, attempt, exit)
