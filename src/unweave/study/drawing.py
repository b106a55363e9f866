"""Which latents are rated: drawn by a rule that is fixed beforehand, and matched between conditions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from jaxtyping import Bool, Float, Int64, UInt8

from unweave.core.errors import InputError
from unweave.core.seeds import numpy_generator
from unweave.study.plan import Match
from unweave.study.seal import KeyEntry

FAR = 2.0


@dataclass(frozen=True, eq=False, kw_only=True)
class Candidates:
    """The latents of one condition.

    Attributes:
        condition: its name.
        source: fingerprint of where they come from.
        latent: index of each.
        live: whether it fires often enough to count as a latent.
        rate: share of the rows on which it fires.
        shown: how many distinct firing examples of it have pictures.
        pictures: its strongest examples [k, c, h, w], strongest first.
    """

    condition: str
    source: str
    latent: Int64[np.ndarray, " n"]
    live: Bool[np.ndarray, " n"]
    rate: Float[np.ndarray, " n"]
    shown: Int64[np.ndarray, " n"]
    pictures: Callable[[int], UInt8[np.ndarray, "k c h w"]]


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """The latents of a study, the n-th of every condition matched to each other, and how well they match."""

    drawn: dict[str, list[tuple[int, float]]]
    "latent and rate, by condition"
    matches: list[Match]
    rule: list[str]
    warnings: list[str]

    def entries(self, seed: int) -> list[KeyEntry]:
        """The key: items named after their places in a seeded shuffle."""
        flat = [(condition, *pair) for condition, pairs in self.drawn.items() for pair in pairs]
        order = numpy_generator(seed, "items").permutation(len(flat))
        digits = len(str(len(flat)))
        chosen = (flat[place] for place in order)
        return [
            KeyEntry(item=f"item-{number:0{digits}d}", condition=condition, latent=latent, rate=rate)
            for number, (condition, latent, rate) in enumerate(chosen, 1)
        ]


def draw(conditions: Sequence[Candidates], *, latents: int, images: int, skip: int, seed: int) -> Drawing:
    """Draw as many latents of each condition, firing as often as each other.

    Args:
        conditions: what is compared; the first sets how often the others' latents should fire.
        latents: of each condition.
        images: that a latent must have to fill its grid.
        skip: latents with a lower index are left out.
        seed: decides what the rule leaves to chance.

    Raises:
        InputError: fewer than two conditions, one named twice, or one with too few latents.
    """
    names = [one.condition for one in conditions]
    if len(names) < 2 or len(set(names)) < len(names):
        raise InputError(f"a study compares two or more different conditions, got {', '.join(names) or 'none'}")
    eligible = [_eligible(one, latents=latents, images=images, skip=skip) for one in conditions]
    first, support = _in_common(conditions, eligible, latents)
    generator = numpy_generator(seed, "drawing")
    by_rate = first[np.lexsort((conditions[0].latent[first], conditions[0].rate[first]))]
    chosen = [np.array([int(generator.choice(part)) for part in np.array_split(by_rate, latents)])]
    matches = []
    for one, places in zip(conditions[1:], eligible[1:], strict=True):
        order = generator.permutation(places)  # chance, not the index, decides between equal rates
        wanted, offered = np.log(conditions[0].rate[chosen[0]]), np.log(one.rate[order])
        distance = np.abs(wanted[:, None] - offered[None])
        rows, columns = scipy.optimize.linear_sum_assignment(distance)
        chosen.append(order[columns])
        ratios = np.exp(distance[rows, columns])
        matches.append(
            Match(
                condition=one.condition,
                eligible=len(places),
                median_ratio=round(float(np.median(ratios)), 4),
                largest_ratio=round(float(ratios.max()), 4),
            )
        )
    drawn = {
        one.condition: [(int(one.latent[place]), float(one.rate[place])) for place in places]
        for one, places in zip(conditions, chosen, strict=True)
    }
    rule = _rule(conditions[0].condition, latents, images, skip, len(eligible[0]), len(first), support=support)
    return Drawing(drawn=drawn, matches=matches, rule=rule, warnings=_warnings(names[0], matches))


def _eligible(one: Candidates, *, latents: int, images: int, skip: int) -> Int64[np.ndarray, " m"]:
    """Places of the latents that may be drawn."""
    seen = one.latent < skip
    unfilled = one.shown < images
    places = np.flatnonzero(one.live & (one.rate > 0) & ~seen & ~unfilled)
    if len(places) >= latents:
        return places
    live = one.live & (one.rate > 0)
    raise InputError(
        f"the condition {one.condition!r} has {len(places)} latents to draw from, and --latents asks for {latents}: of "
        f"its {len(live)} latents {int((~live).sum())} fire too rarely, {int((live & seen).sum())} more are among the "
        f"first {skip} (--skip) and {int((live & ~seen & unfilled).sum())} more have fewer than {images} firing "
        "examples with pictures (--images). Lower one of the three"
    )


def _in_common(
    conditions: Sequence[Candidates], eligible: Sequence[Int64[np.ndarray, " _"]], latents: int
) -> tuple[Int64[np.ndarray, " k"], bool]:
    """Latents of the first condition whose rate all conditions reach; all of them where too few are left."""
    rates = [one.rate[places] for one, places in zip(conditions, eligible, strict=True)]
    low, high = max(float(rate.min()) for rate in rates), min(float(rate.max()) for rate in rates)
    inside = eligible[0][(rates[0] >= low) & (rates[0] <= high)]
    return (inside, True) if len(inside) >= latents else (eligible[0], False)


def _rule(first: str, latents: int, images: int, skip: int, eligible: int, left: int, *, support: bool) -> list[str]:
    within = (
        f"Of {eligible} such latents of {first}, the {left} whose firing frequency lies within the range of every "
        "condition were kept"
        if support
        else f"All {eligible} such latents of {first} were kept: fewer than {latents} have a firing frequency within "
        "the range of every condition"
    )
    return [
        f"A latent may be drawn if it is live (dense ones too), its index is {skip} or more, and at least {images} "
        "distinct examples with pictures make it fire.",
        f"{within}; sorted by frequency and cut into {latents} strata of equal size, each gave one latent at random.",
        "Every other condition gave as many latents: those that match these one to one with the smallest sum of "
        "absolute differences of log frequency.",
        f"A grid shows the {images} examples that make the latent fire most strongly, strongest first.",
    ]


def _warnings(first: str, matches: Sequence[Match]) -> list[str]:
    return [
        f"{match.condition} fires {match.largest_ratio:.3g} times as often as {first}, or as rarely, in the worst pair "
        f"(in the median pair {match.median_ratio:.3g} times): a difference in their ratings may come from that."
        for match in matches
        if match.largest_ratio > FAR
    ]
