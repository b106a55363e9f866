"""Sections that a recipe has written, with their figures as the page takes them."""

from dataclasses import dataclass
from pathlib import Path

from unweave.core.config import from_json
from unweave.core.errors import StoreError
from unweave.recipes.base import FIGURES
from unweave.recipes.sections import Section, Shown, Table
from unweave.report.contents import Contents
from unweave.report.drawings import Drawing, inline


@dataclass(frozen=True)
class Told:
    """A section as the page shows it."""

    title: str
    text: str
    tables: list[Table]
    drawings: list[Drawing]


def sections(contents: Contents) -> list[Told]:
    """What the run's recipe has to tell; nothing where it leaves that to its artifacts.

    Raises:
        StoreError: a figure is missing.
    """
    read = [from_json(Section, one, where="run.json: sections") for one in contents.run.get("sections", [])]
    place = contents.folder / FIGURES
    return [Told(one.title, one.text, one.tables, [_drawing(place, shown) for shown in one.figures]) for one in read]


def _drawing(place: Path, shown: Shown) -> Drawing:
    path = place / f"{shown.figure}.svg"
    if not path.is_file():
        raise StoreError(f"{path} is missing; start the same run again to draw it")
    return Drawing(shown.figure, shown.caption, inline(path.read_text(), shown.figure))
