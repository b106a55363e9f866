"""A scored study on disk: numbers, figure, tables and the paragraph, in one artifact beside the ratings."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from unweave.core.config import fingerprint, to_json
from unweave.figures.files import write
from unweave.figures.study import Effect, RatedCondition, ratings_by_condition
from unweave.stats.bootstrap import Interval
from unweave.store.artifact import Identity, write_json, writing
from unweave.store.files import save_table
from unweave.study.folder import KIND as STUDY
from unweave.study.prose import paragraph
from unweave.study.result import Score
from unweave.study.score_tables import markdown, tables

KIND = "rating_score"
NUMBERS, WORDS, PAPER, LATENTS, FIGURE = "score.json", "paragraph.txt", "score.md", "latents.parquet", "ratings"


def write_score(score: Score, folder: Path, *, study: str = "") -> Path:
    """Write a score: `score.json`, `paragraph.txt`, `score.md`, `latents.parquet`, `ratings.png` and `.svg`.

    An earlier score in the folder is replaced: it is made from the ratings that there are, whenever it is asked for.

    Args:
        score: the result.
        folder: where, `score` in the study's folder as a rule.
        study: fingerprint of the study.

    Returns:
        The folder.

    Raises:
        InputError: something that is no artifact stands there.
    """
    numbers = to_json(score)
    inputs = {"study": study, "numbers": fingerprint(numbers)}
    identity = Identity(kind=KIND, config={}, inputs=inputs, part_of=STUDY)
    with writing(folder, identity, overwrite=True) as draft:
        write_json(draft.folder / NUMBERS, numbers)
        (draft.folder / WORDS).write_text(paragraph(score) + "\n", encoding="utf-8")
        (draft.folder / PAPER).write_text(page(score), encoding="utf-8")
        save_table(draft.folder / LATENTS, _latents(score))
        write(figure(score), draft.folder, FIGURE)
    return folder


def page(score: Score) -> str:
    """The score in Markdown: the paragraph, the figure with its caption, every table."""
    parts = ["# Blind ratings", paragraph(score), f"![Ratings by condition]({FIGURE}.png)", caption(score)]
    return "\n\n".join([*parts, *(markdown(table) for table in tables(score))])


def caption(score: Score) -> str:
    """What the figure shows, on what, against what."""
    people = "one person" if len(score.raters) == 1 else f"{len(score.raters)} people"
    said = (
        f"Ratings from 1 to 7 by {people}, blind to the condition. Left: shares of all first ratings. Middle: each "
        "latent's mean over raters (dots), their mean with its 95 % bootstrap interval over latents (diamond)."
    )
    if score.comparisons:
        many = ", corrected by Holm" if len(score.comparisons) > 1 else ""
        said += (
            " Right: effect sizes with 95 % bootstrap intervals over latents; p of Welch's t-test of latents"
            f"{many}; grey where it is over 0.05."
        )
    return said


def figure(score: Score) -> Figure:
    """Ratings by condition beside the effects."""
    rows = [
        RatedCondition(
            name=one.condition,
            histogram=np.array(one.histogram, np.int64),
            means=np.array([latent.mean for latent in score.latents if latent.condition == one.condition], np.float64),
            ends=_ends(one.interval),
        )
        for one in score.conditions
    ]
    effects = [
        Effect(
            name=f"{one.first} − {one.second}",
            d=one.cohens_d,
            d_ends=_ends(one.d_interval),
            delta=one.cliffs_delta,
            delta_ends=_ends(one.delta_interval),
            p=one.p_holm,
        )
        for one in score.comparisons
    ]
    return ratings_by_condition(rows, effects)


def _ends(interval: Interval | None) -> tuple[float, float] | None:
    return None if interval is None else (interval.low, interval.high)


def _latents(score: Score) -> dict[str, list[object]]:
    """One row a latent; a column of ratings for each rater, empty where there is none."""
    columns: dict[str, list[object]] = {
        name: [getattr(one, name) for one in score.latents] for name in ("item", "condition", "latent", "rate", "mean")
    }
    for rater in (one.rater for one in score.raters):
        columns[f"rating_{rater}"] = [one.ratings.get(rater) for one in score.latents]
    return columns
