"""The table of latents: filtered, sorted and cut into pages on the server."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Int64

from unweave.app.notes import Note
from unweave.app.opened import OpenAtlas
from unweave.core.errors import InputError, did_you_mean

Colouring = Literal["class", "frequency", "information", "importance"]
COLOURINGS: tuple[Colouring, ...] = get_args(Colouring)
_COLUMN: Mapping[Colouring, str] = {
    "class": "top_class",
    "frequency": "rate",
    "information": "mutual_information",
    "importance": "importance",
}


@dataclass(frozen=True, kw_only=True)
class Query:
    """Which latents, in which order.

    Attributes:
        sort: a column of the table; by default what firing tells of the class, or how often it fires.
        descending: largest first.
        status: live, dense, rare or dead; "" for any; `firing` for all that fire at all.
        of_class: the class of most of its firing examples; "" for any.
        least_rate: smallest share of rows on which it fires.
        most_rate: largest.
        text: a latent's number, or a part of the name or note that somebody gave it.
    """

    sort: str = ""
    descending: bool = True
    status: str = ""
    of_class: str = ""
    least_rate: float = 0.0
    most_rate: float = 1.0
    text: str = ""


def sortable(opened: OpenAtlas) -> list[str]:
    """Columns that the table can be sorted by."""
    return list(opened.columns)


def colourings(opened: OpenAtlas) -> list[Colouring]:
    """What the map can be coloured by: what the atlas's table has a column for."""
    return [name for name in COLOURINGS if _COLUMN[name] in opened.columns]


def colour_values(opened: OpenAtlas, colouring: Colouring) -> np.ndarray:
    """The number behind each latent's colour.

    Raises:
        InputError: the atlas has no such column.
    """
    if colouring not in colourings(opened):
        raise InputError(
            f"{opened.role} cannot be coloured by {colouring!r}: {did_you_mean(colouring, colourings(opened))}"
        )
    return opened.columns[_COLUMN[colouring]]


def chosen(opened: OpenAtlas, query: Query) -> Int64[np.ndarray, " m"]:
    """The latents that a query means, in its order; equal ones by number.

    Raises:
        InputError: there is no such column, status or class.
    """
    columns = opened.columns
    sort = query.sort or ("mutual_information" if "mutual_information" in columns else "rate")
    if sort not in columns:
        raise InputError(f"the table has no column {sort!r}: {did_you_mean(sort, columns)}")
    keep = (columns["rate"] >= query.least_rate) & (columns["rate"] <= query.most_rate)
    keep &= _of_status(columns["status"], query.status)
    if query.of_class:
        if query.of_class not in opened.class_names:
            raise InputError(
                f"there is no class {query.of_class!r}: {did_you_mean(query.of_class, opened.class_names)}"
            )
        keep &= (columns["top_class"] == opened.class_names.index(query.of_class)) & (columns["count"] > 0)
    if query.text.strip():
        keep &= _named(opened, query.text.strip().casefold())
    found = np.flatnonzero(keep)
    values = columns[sort][found]
    if values.dtype.kind in "OU":
        values = np.unique(values.astype(str), return_inverse=True)[1]
    values = np.nan_to_num(values.astype(np.float64), nan=-np.inf)
    return found[np.argsort(-values if query.descending else values, kind="stable")]


def _of_status(status: np.ndarray, wanted: str) -> np.ndarray:
    if not wanted:
        return np.ones(len(status), bool)
    if wanted == "firing":
        return np.asarray(status != "dead")
    known = sorted({*np.unique(status.astype(str)), "live", "dense", "dead", "rare"})
    if wanted not in known:
        raise InputError(f"there is no status {wanted!r}: {did_you_mean(wanted, [*known, 'firing'])}")
    return np.asarray(status == wanted)


def _named(opened: OpenAtlas, text: str) -> np.ndarray:
    notes: dict[int, Note] = opened.run.notes.all(opened.role)
    keep = np.zeros(opened.atlas.d_sae, bool)
    if text.isdigit() and int(text) < len(keep):
        keep[int(text)] = True
    for latent, note in notes.items():
        if latent < len(keep) and (text in note.name.casefold() or text in note.text.casefold()):
            keep[latent] = True
    return keep
