"""The trainers by name, and the experiment in a YAML document, whose key `trainer` says which keys it may have."""

from __future__ import annotations

from collections.abc import Mapping

from hpcjobs.base.errors import InputError, nearest
from hpcjobs.config import Document, Experiment, convert
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
        raise InputError(f"{document.where(('trainer',))}: key 'trainer': no trainer {name!r}: {nearest(str(name), TRAINERS)}")
    return TRAINERS[name]


def experiment_in(document: Document) -> Experiment:
    """The experiment in a document. Raises InputError for the first mistake."""
    return convert(document, trainer_in(document).keys)
