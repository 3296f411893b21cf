"""Keys of `measure` that a timed loop has, whoever trains: each with its meaning, said once."""

from __future__ import annotations

from typing import Annotated

import msgspec

from hpcjobs.config.words import Fraction, NonNegativeInt, PositiveInt, doc

WindowSteps = Annotated[PositiveInt, doc("Steps per timed window.")]
Precision = Annotated[
    Fraction,
    doc(
        "mode benchmark: timing ends when the 95 % half-width of the mean step time, as a fraction of that mean, is at "
        "most this."
    ),
]
MaxSteps = Annotated[
    int,
    msgspec.Meta(ge=20),
    doc("mode benchmark: timing ends after this many timed steps, also if measure.precision is not reached."),
]
ControlRepeats = Annotated[
    NonNegativeInt,
    doc(
        "mode benchmark: number of repeats, from repeat 1 on, that also run control blocks, which take the step apart "
        "into input, all-reduce and skew."
    ),
]
ControlPasses = Annotated[
    PositiveInt,
    doc("mode benchmark: at most so many passes through the control blocks, in forward and in reverse order by turns."),
]
ControlSteps = Annotated[int, msgspec.Meta(ge=2), doc("mode benchmark: timed steps of each control block in one pass.")]
PartsPrecision = Annotated[
    Fraction,
    doc(
        "mode benchmark: the control blocks end when the 95 % half-width of every part, as a fraction of a step, is at "
        "most this; they are looked at after 6, 8, 11, 14, ... passes."
    ),
]
