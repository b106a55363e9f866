"""The stage: candidates → a study, ready to be rated."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unweave.core.config import to_json
from unweave.core.errors import InputError
from unweave.core.seeds import derive_seed
from unweave.store.artifact import Identity, existing, write_json, writing
from unweave.study.drawing import Candidates, draw
from unweave.study.folder import GRIDS, KEY, KIND, PLAN, Study
from unweave.study.grids import grids
from unweave.study.order import showings
from unweave.study.plan import QUESTION, Plan
from unweave.study.ratings import HIGHEST, LOWEST
from unweave.study.seal import seal


@dataclass(frozen=True, kw_only=True)
class Studying:
    """How a study is made."""

    latents: int = 16
    "latents of each condition"
    images: int = 16
    "pictures in a grid: a latent's strongest examples"
    raters: int = 3
    "people who rate"
    repeats: int = 4
    "grids that each rater gets a second time, hidden, to see how well they agree with themselves"
    skip: int = 16
    "latents with a lower index are left out: people have seen those"
    question: str = QUESTION
    "what is asked about each grid"
    low: str = "not at all"
    "what 1 means"
    middle: str = "moderately"
    "what 4 means"
    high: str = "perfectly"
    "what 7 means"
    enough: int | None = None
    "ratings that must be in before the key is opened; all by default"

    def __post_init__(self) -> None:
        for name in ("latents", "images", "raters"):
            if (value := getattr(self, name)) < 1:
                raise InputError(f"--{name} must be at least 1, got {value}")
        if self.skip < 0:
            raise InputError(f"--skip must be at least 0, got {self.skip}")
        if not self.question.strip():
            raise InputError("--question is empty: raters need one")

    @property
    def anchors(self) -> dict[str, str]:
        """Words at numbers of the scale; those that are empty are not shown."""
        words = {LOWEST: self.low, (LOWEST + HIGHEST) // 2: self.middle, HIGHEST: self.high}
        return {str(value): word.strip() for value, word in words.items() if word.strip()}


def make_study(
    conditions: Sequence[Candidates], studying: Studying | None = None, *, seed: int = 0, out: str | Path
) -> Study:
    """Draw latents, make their grids, seal which is which. The same arguments find the same study again.

    Args:
        conditions: what is compared; the first with each of the others.
        studying: sizes and wording.
        seed: decides the drawing and every order.
        out: folder of the study.

    Raises:
        InputError: a condition has too few latents, the settings do not fit together, or `out` holds something else.
    """
    studying, out = studying or Studying(), Path(out)
    identity = study_identity({one.condition: one.source for one in conditions}, studying, seed)
    if existing(out, identity):
        return Study(out)
    drawing = draw(conditions, latents=studying.latents, images=studying.images, skip=studying.skip, seed=seed)
    entries = drawing.entries(seed)
    pictures = {one.condition: one.pictures for one in conditions}
    sealed, commitment = seal(entries, f"{identity.id}/{seed}".encode())
    raters = [f"rater-{number}" for number in range(1, studying.raters + 1)]
    items = [entry.item for entry in entries]
    planned = len(raters) * (len(items) + studying.repeats)
    plan = Plan(
        study=identity.id,
        question=studying.question.strip(),
        anchors=studying.anchors,
        conditions=list(drawing.drawn),
        latents=studying.latents,
        images=studying.images,
        items=items,
        raters=raters,
        repeats=studying.repeats,
        order_seed=derive_seed(seed, "order of showing"),
        enough=_enough(studying.enough, planned),
        rule=drawing.rule,
        matches=drawing.matches,
        warnings=drawing.warnings,
        commitment=commitment,
    )
    showings(items, plan.repeats, seed=plan.order_seed, rater=raters[0])  # repeats that do not fit are named here
    with writing(out, identity) as draft:
        (draft.folder / GRIDS).mkdir()
        shown = {entry.item: pictures[entry.condition](entry.latent)[: studying.images] for entry in entries}
        for item, png in grids(shown).items():
            (draft.folder / GRIDS / f"{item}.png").write_bytes(png)
        (draft.folder / KEY).write_bytes(sealed)
        write_json(draft.folder / PLAN, to_json(plan))
    return Study(out)


def study_identity(sources: dict[str, str], studying: Studying, seed: int) -> Identity:
    """What a study is: conditions in their order, with the fingerprints of their sources, and how it is made."""
    config: dict[str, Any] = {"conditions": list(sources), **to_json(studying)}
    return Identity(kind=KIND, config=config, inputs=sources, seed=seed)


def _enough(asked: int | None, planned: int) -> int:
    if asked is not None and not 1 <= asked <= planned:
        raise InputError(f"--enough must be between 1 and the {planned} ratings that are planned, got {asked}")
    return planned if asked is None else asked
