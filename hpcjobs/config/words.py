"""Types of values that several sections share."""

from __future__ import annotations

from typing import Annotated

import msgspec

# In patterns \Z is the end: $ would let a line's end follow.
PositiveInt = Annotated[int, msgspec.Meta(ge=1)]
NonNegativeInt = Annotated[int, msgspec.Meta(ge=0)]
PositiveFloat = Annotated[float, msgspec.Meta(gt=0)]
Fraction = Annotated[float, msgspec.Meta(gt=0, lt=1)]
Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,39}\Z")]
OneLine = Annotated[str, msgspec.Meta(pattern=r"^[^\x00-\x1f\x7f]*\Z")]
"""A string that may reach a script as one word: no control characters."""
VariableName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*\Z")]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A YAML mapping whose keys are all known."""
