"""Types of values that several sections share, and how a key gets its description."""

from __future__ import annotations

from typing import Annotated

import msgspec

# In these patterns \Z is the end of the text: $ would allow a line break after it.
PositiveInt = Annotated[int, msgspec.Meta(ge=1)]
NonNegativeInt = Annotated[int, msgspec.Meta(ge=0)]
PositiveFloat = Annotated[float, msgspec.Meta(gt=0)]
Fraction = Annotated[float, msgspec.Meta(gt=0, lt=1)]
Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,39}\Z")]
OneLine = Annotated[str, msgspec.Meta(pattern=r"^[^\x00-\x1f\x7f]*\Z")]
"""A string that may reach a script as one word: no control characters."""
VariableName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*\Z")]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A YAML mapping that refuses unknown keys.

    Each key's type carries its description: `steps: Annotated[PositiveInt, doc("Steps per window.")] = 5`. A key that
    is itself a section is described by the docstring of that section. `hpcjobs.config.keys` reads both.
    """


def doc(description: str) -> msgspec.Meta:
    """The description of a key, for `Annotated`: shown by `hpcjobs init`, the JSON schema, completion and the docs."""
    return msgspec.Meta(description=description)
