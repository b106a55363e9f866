"""Comparisons that a run holds, and two of its dictionaries matched latent by latent."""

from dataclasses import dataclass

import numpy as np

from unweave.analyze.atlas import KIND as ATLAS
from unweave.app.opened import OpenRun
from unweave.compare import read_comparison
from unweave.compare.comparison import KIND as COMPARISON
from unweave.compare.latents import compare_codes
from unweave.core.errors import InputError

_PERMUTATIONS = 9
_MOST_LATENTS = 6000
_MOST_ROWS = 100_000


@dataclass(frozen=True)
class Compared:
    """A comparison as a table: a row for each measure, what was observed first, its nulls after it."""

    title: str
    sentence: str
    headings: list[str]
    rows: list[list[str]]
    note: str


@dataclass(frozen=True)
class Pair:
    """What two dictionaries share."""

    sentence: str
    headings: list[str]
    rows: list[list[str]]


def comparisons(opened: OpenRun) -> list[Compared]:
    """The comparisons of instances that lie in a run.

    Raises:
        StoreError: one is damaged.
    """
    found = []
    for role in opened.contents.roles(COMPARISON):
        read = read_comparison(opened.contents.folders[role])
        rows = [
            [
                measure.replace("_", " "),
                *(_number(read.mean(measure, name)) for name in read.conditions),
                f"{float(read.of(measure, 'p').max()):.3g}",
            ]
            for measure in read.measures
        ]
        pairs = "one pair" if len(read.pairs) == 1 else f"means over {len(read.pairs)} pairs, with the largest p"
        found.append(
            Compared(
                title=role,
                sentence=read.sentence,
                headings=["", *(name.replace("_", " ") for name in read.conditions), "p"],
                rows=rows,
                note=f"{pairs}; {read.n:,} rows; p from {read.permutations} permutations",
            )
        )
    return found


def pairs(opened: OpenRun) -> list[str]:
    """Roles of the atlases whose latents can be matched: those of the same rows as the first."""
    manifests = opened.contents.manifests
    roles = [role for role in opened.atlases if role in opened.contents.roles(ATLAS)]
    rows = [manifests[role].inputs.get("activations") for role in roles]
    return [role for role, own in zip(roles, rows, strict=True) if own == rows[0]]


def side_by_side(opened: OpenRun, first: str, second: str) -> Pair:
    """Match the live latents of two dictionaries one to one.

    Partners are chosen by the correlation of their codes on half of the rows, and it is measured on the other half; the
    null deals out one dictionary's rows at random.

    Raises:
        InputError: it is twice the same dictionary, or they are too large to be matched while one waits.
    """
    if first == second:
        raise InputError("choose two different dictionaries")
    one, other = opened.atlas(first), opened.atlas(second)
    if max(one.atlas.d_sae, other.atlas.d_sae) > _MOST_LATENTS or one.atlas.codes.n > _MOST_ROWS:
        raise InputError(
            f"Matching more than {_MOST_LATENTS:,} latents or {_MOST_ROWS:,} rows takes longer than a page should; "
            "use compare_codes in a notebook."
        )
    key = ("matched", first, second)
    found = opened.once(
        key,
        lambda: compare_codes({first: one.atlas.codes, second: other.atlas.codes}, permutations=_PERMUTATIONS),
    )
    shares = [(level, found.share(level), found.share(level, null=True)) for level in (0.3, 0.5, 0.7, 0.9)]
    rows = [["mean r", _number(float(found.mean.mean())), _number(float(found.null_mean.mean()))]]
    rows += [[f"share with r ≥ {level}", f"{100 * s:.1f} %", f"{100 * null:.1f} %"] for level, s, null in shares]
    sentence = (
        f"{100 * shares[2][1]:.0f} % of the live latents of {first} and {second} have a partner with r ≥ 0.7 on rows "
        f"that did not choose it; {100 * shares[2][2]:.1f} % where one dictionary's rows are shuffled."
    )
    return Pair(sentence, ["", f"{first} beside {second}", f"shuffled rows, mean of {_PERMUTATIONS}"], rows)


def _number(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.3f}"
