"""How far a run's rating studies are; what an item is stays sealed."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from unweave.app.opened import OpenRun
from unweave.core.errors import InputError, StoreError
from unweave.store.artifact import MANIFEST
from unweave.study.folder import RATINGS, Study

STUDIES = "studies"
SCORE = "score"


@dataclass(frozen=True)
class StudyState:
    """A study as its page shows it.

    Attributes:
        name: of its folder.
        question: what raters are asked.
        design: how large it is, in words.
        rule: how its latents were drawn.
        each: grids that each rater is shown.
        progress: ratings of each rater so far.
        said: what can be done now.
        paragraph: the result in words, once it was scored.
        figures: file names of the result's figures.
        problem: why it cannot be shown; "" where it can.
    """

    name: str
    question: str = ""
    design: str = ""
    rule: str = ""
    each: int = 0
    progress: list[tuple[str, int]] = field(default_factory=list)
    said: str = ""
    paragraph: str = ""
    figures: list[str] = field(default_factory=list)
    problem: str = ""


def studies(opened: OpenRun) -> list[StudyState]:
    """The studies in a run's folder."""
    place = opened.entry.folder / STUDIES
    folders = sorted(path.parent for path in place.glob(f"*/{MANIFEST}")) if place.is_dir() else []
    return [_state(folder) for folder in folders if not folder.name.startswith(".")]


def study_figure(opened: OpenRun, study: str, name: str) -> Path | None:
    """Where a figure of a study's result lies; None where there is none of that name."""
    for state in studies(opened):
        if state.name == study and name in state.figures:
            return opened.entry.folder / STUDIES / study / SCORE / name
    return None


def _state(folder: Path) -> StudyState:
    try:
        study = Study(folder)
        ratings = study.ratings() if (folder / RATINGS).is_file() else []
    except (InputError, StoreError) as error:
        return StudyState(folder.name, problem=str(error))
    plan, done = study.plan, Counter(rating.rater for rating in ratings)
    design = (
        f"{len(plan.conditions)} conditions ({', '.join(plan.conditions)}) with {plan.latents} latents each, "
        f"{plan.images} images a grid, {plan.repeats} hidden repeats, {len(plan.raters)} raters."
    )
    missing = plan.enough - len(ratings)
    score = folder / SCORE
    paragraph = score / "paragraph.txt"
    if paragraph.is_file():
        said = "Scored; the key is open."
    elif not (folder / RATINGS).is_file():
        said = "No rating is in this folder yet; a study that is rated into a database elsewhere is followed there."
    elif missing > 0:
        said = f"{missing:,} more ratings until the key may be opened without its being recorded as early."
    else:
        said = "Enough ratings are in: `unweave study score` opens the key."
    return StudyState(
        name=folder.name,
        question=plan.question,
        design=design,
        rule=" ".join(plan.rule),
        each=plan.showings,
        progress=[(rater, done[rater]) for rater in plan.raters],
        said=said,
        paragraph=paragraph.read_text() if paragraph.is_file() else "",
        figures=sorted(path.name for path in score.glob("*.png")) if score.is_dir() else [],
    )
