"""What a recipe puts on its page: sections of text, figures and tables, in the order in which it tells them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from unweave.core.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A figure of the run's folder `figures/`, by name, and what it shows."""

    figure: str
    caption: str


@dataclass(frozen=True, kw_only=True)
class Table:
    """Cells in words below their headings; the column `main` is the one that the eye should find."""

    headings: list[str]
    rows: list[list[str]]
    note: str = ""
    main: int | None = None


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading, what it is about, and the figures and tables below it."""

    title: str
    text: str = ""
    figures: list[Shown] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, note: str = "", main: int | None = None) -> Table:
    """A table of as many columns as it has headings.

    Raises:
        InputError: a row has more or fewer cells.
    """
    for row in rows:
        if len(row) != len(headings):
            raise InputError(f"a table of {len(headings)} columns has a row of {len(row)} cells: {list(row)}")
    return Table(headings=list(headings), rows=[list(row) for row in rows], note=note, main=main)
