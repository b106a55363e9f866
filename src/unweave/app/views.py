"""What is shown of runs and latents, read from their tables: the API gives it as JSON, the pages draw it."""

import math
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import numpy as np

from unweave.analyze.related import coactive_latents, similar_latents
from unweave.app.latents import Query, chosen
from unweave.app.notes import Note
from unweave.app.opened import OpenAtlas
from unweave.app.places import contexts, has_places, strip_address
from unweave.app.schema import (
    ArtifactSummary,
    ClassShare,
    Companion,
    Example,
    Histogram,
    LatentDetail,
    LatentPage,
    LatentRow,
    Neighbour,
    RunDetail,
    RunSummary,
)
from unweave.app.shelf import Contents, Entry
from unweave.core.errors import InputError, StoreError, did_you_mean

ORDERS = {
    "value": "Strongest",
    "relative": "Largest share of the row",
    "quantile": "Strongest to weakest, evenly",
    "random": "Random",
}
MOST_AT_ONCE = 500


def run_summary(entry: Entry) -> RunSummary:
    """A run as the list shows it."""
    contents = entry.contents()
    atlases = sorted(contents.roles("atlas"), key=lambda role: "@" in role)
    return RunSummary(
        run=entry.slug,
        title=contents.title,
        state=contents.state,
        problem=contents.problem,
        folder=str(entry.folder),
        atlases=atlases,
    )


def run_detail(entry: Entry) -> RunDetail:
    """A run with its numbers."""
    contents = entry.contents()
    return RunDetail(
        **run_summary(entry).model_dump(),
        findings=list(contents.run.get("findings", [])),
        metrics={name: finite(value) for name, value in contents.metrics.items()},
        config=contents.run.get("config"),
        seed=contents.run.get("seed"),
        artifacts=artifacts(contents),
        broken=dict(contents.broken),
    )


def artifacts(contents: Contents) -> list[ArtifactSummary]:
    """The artifacts of a run."""
    return [
        ArtifactSummary(role=role, kind=m.kind, id=m.id, created=m.created, wall_seconds=m.wall_seconds)
        for role, m in contents.manifests.items()
    ]


def finite(value: float | None) -> float | None:
    """The number, or None where there is none: JSON has no NaN."""
    return None if value is None or not math.isfinite(value) else float(value)


def latent_page(opened: OpenAtlas, query: Query, *, offset: int = 0, limit: int = 50) -> LatentPage:
    """A part of the table of latents.

    Raises:
        InputError: the query or the part makes no sense.
    """
    if offset < 0 or not 1 <= limit <= MOST_AT_ONCE:
        raise InputError(f"offset must not be negative and limit lie from 1 to {MOST_AT_ONCE}")
    found = chosen(opened, query)
    return LatentPage(
        total=len(found), offset=offset, limit=limit, items=latent_rows(opened, found[offset : offset + limit])
    )


def latent_rows(opened: OpenAtlas, latents: Sequence[int] | np.ndarray) -> list[LatentRow]:
    """Some latents as rows of the table."""
    notes = opened.run.notes.all(opened.role)
    return [LatentRow(**_numbers(opened, int(latent), notes.get(int(latent), Note()))) for latent in latents]


def _numbers(opened: OpenAtlas, latent: int, note: Note) -> dict[str, Any]:
    columns = opened.columns
    fires = bool(columns["count"][latent])

    def number(name: str) -> float | None:
        return finite(float(columns[name][latent])) if name in columns else None

    def class_of(name: str) -> str | None:
        return opened.class_names[int(columns[name][latent])] if name in columns and fires else None

    return {
        "latent": latent,
        "name": note.name,
        "status": str(columns["status"][latent]),
        "count": int(columns["count"][latent]),
        "rate": float(columns["rate"][latent]),
        "mean": number("mean") or 0.0,
        "max": number("max") or 0.0,
        "importance": number("importance"),
        "mutual_information": number("mutual_information"),
        "p": number("p"),
        "q": number("q"),
        "top_class": class_of("top_class"),
        "top_class_share": number("top_class_share"),
        "best_class": class_of("best_class"),
        "average_precision": number("average_precision"),
    }


def latent_detail(opened: OpenAtlas, latent: int) -> LatentDetail:
    """Everything that the tables say of one latent.

    Raises:
        InputError: there is no such latent.
    """
    opened.check(latent)
    note = opened.run.notes.of(opened.role, latent)
    card = opened.atlas.card(latent)
    return LatentDetail.model_validate(
        {
            **_numbers(opened, latent, note),
            "note": note.text,
            "classes": _classes(card.class_names, card.class_counts, card.class_totals),
            "histogram": Histogram(counts=[int(count) for count in card.histogram], largest=card.largest),
        }
    )


def _classes(names: Sequence[str] | None, counts: np.ndarray | None, totals: np.ndarray | None) -> list[ClassShare]:
    if names is None or counts is None or totals is None:
        return []
    fired, everything = max(1, int(counts.sum())), max(1, int(totals.sum()))
    return [
        ClassShare(name=name, count=int(count), share=float(count) / fired, prior=float(total) / everything)
        for name, count, total in zip(names, counts, totals, strict=True)
    ]


def examples(opened: OpenAtlas, latent: int, order: str = "value") -> list[Example]:
    """The examples that a latent is shown by.

    Raises:
        InputError: there is no such latent or order.
    """
    opened.check(latent)
    if order not in ORDERS:
        raise InputError(f"there is no order {order!r}: {did_you_mean(order, ORDERS)}")
    table = opened.atlas.examples_of(latent, order).to_pydict()
    told = contexts(opened, latent, order) or [[] for _ in table["example"]]
    placed = has_places(opened)
    return [
        Example(
            example=example,
            position=position,
            value=value,
            label=opened.label_of_example(example),
            image=image_address(opened, example),
            places=strip_address(opened, latent, example) if placed else None,
            context=context,
        )
        for example, position, value, context in zip(
            table["example"], table["position"], table["value"], told, strict=True
        )
    ]


def image_address(opened: OpenAtlas, example: int) -> str:
    """Where an example's picture is served; the atlas's id makes it safe to keep."""
    run, role = quote(opened.run.entry.slug), quote(opened.role, safe="")
    return f"/api/runs/{run}/images/{example}.png?of={role}&v={opened.atlas.manifest.id}"


def latent_picture(opened: OpenAtlas, latent: int | str) -> str:
    """Where a latent's strongest image is served; "" where it never fires or there are no pictures."""
    if opened.atlas.thumbnails is None or (isinstance(latent, int) and not opened.columns["count"][latent]):
        return ""
    run, role = quote(opened.run.entry.slug), quote(opened.role, safe="")
    return f"/api/runs/{run}/latents/{latent}.png?of={role}&v={opened.atlas.manifest.id}"


def neighbours(opened: OpenAtlas, latent: int, most: int = 12) -> list[Neighbour]:
    """The latents whose decoder directions are closest.

    Raises:
        InputError: there is no such latent, or the dictionary is not in the run.
    """
    notes = opened.run.notes.all(opened.role)
    found = similar_latents(opened.directions, latent, most=most)
    return [
        Neighbour(latent=other, name=notes.get(other, Note()).name, cosine=cosine, chance=finite(found.chance))
        for other, cosine in zip(found.latent.tolist(), found.cosine.tolist(), strict=True)
    ]


def companions(opened: OpenAtlas, latent: int, most: int = 12) -> list[Companion]:
    """The latents that fire on the same rows, those first that share the largest part of their rows.

    Raises:
        InputError: there is no such latent.
    """
    notes = opened.run.notes.all(opened.role)
    found = coactive_latents(opened.atlas, latent, most=most)
    columns = (found.latent, found.beside.shared, found.beside.expected, found.beside.lift, found.beside.z)
    return [
        Companion(
            latent=int(other),
            name=notes.get(int(other), Note()).name,
            both=int(both),
            expected=float(expected),
            lift=finite(lift),
            z=finite(z),
        )
        for other, both, expected, lift, z in zip(*columns, strict=True)
    ]


def said_of(error: Exception) -> str:
    """An error for a page."""
    return str(error) if isinstance(error, (InputError, StoreError)) else f"{type(error).__name__}: {error}"
