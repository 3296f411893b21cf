"""Types of values that several sections share, and how a key gets its description."""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec

# What a regular expression of a type asks for, in words for messages.
PLAINLY: dict[str, str] = {}


def matching(pattern: str, plainly: str) -> msgspec.Meta:
    """Texts that match a regular expression; `plainly` says in messages what it asks for."""
    PLAINLY[pattern] = plainly
    return msgspec.Meta(pattern=pattern)


# In these patterns \Z is the end of the text: $ would allow a line break after it.
PositiveInt = Annotated[int, msgspec.Meta(ge=1)]
NonNegativeInt = Annotated[int, msgspec.Meta(ge=0)]
PositiveFloat = Annotated[float, msgspec.Meta(gt=0)]
Fraction = Annotated[float, msgspec.Meta(gt=0, lt=1)]
Name = Annotated[
    str,
    matching(
        r"^[A-Za-z0-9][A-Za-z0-9_-]{0,39}\Z",
        "a name of up to 40 letters (A to z), digits, - and _, the first a letter or a digit",
    ),
]
OneLine = Annotated[str, matching(r"^[^\x00-\x1f\x7f]*\Z", "text without line breaks and control characters")]
"""A string that may reach a script as one word: no control characters."""
VariableName = Annotated[
    str, matching(r"^[A-Za-z_][A-Za-z0-9_]*\Z", "the name of a variable: letters (A to z), digits and _")
]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A YAML mapping that refuses unknown keys.

    Each key's type carries its description: `steps: Annotated[PositiveInt, doc("Steps per window.")] = 5`. A key that
    is itself a section is described by the docstring of that section. `hpcjobs.config.keys` reads both. EXCLUSIVE names
    two keys of which a file gives one at most. ADVICE ends the error of a key that is unknown and like no known one.
    """

    EXCLUSIVE: ClassVar[tuple[str, str] | None] = None
    ADVICE: ClassVar[str] = ""


def doc(description: str) -> msgspec.Meta:
    """The description of a key, for `Annotated`: shown by `hpcjobs init`, the JSON schema, completion and the docs."""
    return msgspec.Meta(description=description)


def path_doc(
    description: str, *, folder: bool = False, words: tuple[str, ...] = (), here: bool = False
) -> msgspec.Meta:
    """The description of a key whose value is a path, or one of `words`.

    A relative path starts at the folder of the YAML file, or at the working folder if `--set` gives it. `folder`: only
    a folder makes sense. `here`: an absent path is the working folder.
    """
    extra = {"path": "folder" if folder else "file", "words": words, "here": here}
    return msgspec.Meta(description=description, extra=extra)


def verbatim_doc(description: str) -> msgspec.Meta:
    """The description of a key whose texts are taken as they are written: 3e-4 stays 3e-4, and yes stays yes."""
    return msgspec.Meta(description=description, extra={"verbatim": True})
