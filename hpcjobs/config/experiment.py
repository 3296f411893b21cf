"""The keys that every experiment has, whatever its trainer. The trainers add their own (`hpcjobs.trainers`)."""

from __future__ import annotations

from typing import Annotated

from hpcjobs.config.words import Name, NonNegativeInt, PositiveInt, Section, doc


class Experiment(Section, frozen=True, kw_only=True):
    """One training, at any number of GPUs."""

    name: Annotated[Name, doc("Reports show it; the name of a sweep's folder begins with it.")]
    trainer: Annotated[Name, doc("What a run executes; it decides which other keys there are.")]
    repeats: Annotated[PositiveInt, doc("Runs of each point of the study; --repeats overrides it.")] = 3
    seed: Annotated[NonNegativeInt, doc("Seed of repeat 1; repeat r has seed + r - 1.")] = 1
    description: Annotated[str, doc("Free text.")] = ""
