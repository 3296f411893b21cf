"""Cells and tables of the page: a rounded number is shown, and the exact one is there for whoever copies it. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from hpcjobs.report import tables

DASH = "\N{EN DASH}"
# A table of the page has at most so many rows; few people read as many.
MOST_ROWS = 500


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of a table. If `text` is rounded, `value` is the number of the CSV. `note` is its interval or share."""

    text: str
    value: str = ""
    note: str = ""
    href: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of the page. The column number `head` names each row. The columns `words` hold text, not numbers."""

    name: str
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    head: int = 0
    words: tuple[str, ...] = ()


def plain(name: str, caption: str, cells: tables.Cells) -> Table:
    """A table as text: that of a terminal, on the page."""
    rows = [[Cell(text) for text in row] for row in cells.rows]
    return Table(name, caption, cells.header, rows, cells.left, cells.header[: cells.left])


def cut(table: Table) -> Table:
    """At most MOST_ROWS rows of a table: the page stays small enough for a phone."""
    if len(table.rows) <= MOST_ROWS:
        return table
    caption = f"{table.caption}. The first {MOST_ROWS:,} of {len(table.rows):,} rows; the CSV beside this page has all"
    return dataclasses.replace(table, rows=table.rows[:MOST_ROWS], caption=caption)


def numeric(value: float | None, form: str = "") -> Cell:
    """A rounded number, with the exact number of the CSV."""
    if value is None:
        return Cell(DASH)
    exact = f"{value:.6g}" if isinstance(value, float) else str(value)
    text = format(value, form) if form else rounded(value)
    return Cell(signed(text), exact)


def signed(text: str) -> str:
    """The text with a minus sign in place of each hyphen."""
    return text.replace("-", "\N{MINUS SIGN}")


def rounded(value: float | None) -> str:
    """The number with about three digits, a dash for None."""
    if value is None:
        return DASH
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"
