"""Raters: do they agree with each other and with themselves, and did they look?"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from sklearn.metrics import cohen_kappa_score

from unweave.stats.agreement import alpha_interval, krippendorff_alpha
from unweave.study.ratings import HIGHEST, LOWEST, Rating
from unweave.study.result import Agreement, RatedLatent, RaterScore

_FAST = 1.0  # seconds
_MOSTLY = 0.5
_RELIABLE = 0.3  # of four repeats: one honest rater in twenty, of reliability 0.7, falls below
_FEWEST_REPEATS = 3
_FOR_KAPPA = 10
_FEWEST_FOR_SAME_KEY = 5


def agreement(latents: Sequence[RatedLatent], raters: Sequence[str], generator: np.random.Generator) -> Agreement:
    """Krippendorff's α between raters, first ratings only."""
    table = np.array([[latent.ratings.get(rater, math.nan) for latent in latents] for rater in raters], np.float64)
    together = int(((~np.isnan(table)).sum(0) >= 2).sum()) if len(raters) else 0
    if len(raters) < 2:
        return Agreement(raters=len(raters), latents=0, none="there is one rater only")
    if together < 2:
        few = "no latent" if together == 0 else "one latent only"
        return Agreement(raters=len(raters), latents=together, none=f"{few} was rated by two raters")
    ordinal = krippendorff_alpha(table, "ordinal")
    if math.isnan(ordinal):
        return Agreement(raters=len(raters), latents=together, none="all ratings are the same")
    return Agreement(
        raters=len(raters),
        latents=together,
        ordinal=ordinal,
        nominal=krippendorff_alpha(table, "nominal"),
        interval_scale=krippendorff_alpha(table, "interval"),
        interval=alpha_interval(table, "ordinal", generator=generator),
    )


def rater_score(rater: str, first: Mapping[str, Rating], repeats: Sequence[Rating]) -> RaterScore:
    """One rater's use of the scale, agreement with themselves on hidden repeats, and pace.

    Args:
        rater: who.
        first: their first rating of each item.
        repeats: their second ratings.
    """
    values = np.array([rating.value for rating in first.values()], np.float64)
    seconds = np.array([rating.seconds for rating in (*first.values(), *repeats)], np.float64)
    seconds = seconds[np.isfinite(seconds)]
    twice = np.array([(first[one.item].value, one.value) for one in repeats if one.item in first]).reshape(-1, 2)
    found = RaterScore(
        rater=rater,
        ratings=len(values),
        mean=float(values.mean()),
        std=float(values.std(ddof=1)) if len(values) > 1 else None,
        repeats=len(twice),
        median_seconds=float(np.median(seconds)) if len(seconds) else None,
        fast=float((seconds < _FAST).mean()) if len(seconds) else 0.0,
    )
    return _flagged(_with_themselves(found, values, twice), values)


def _with_themselves(found: RaterScore, values: np.ndarray, twice: np.ndarray) -> RaterScore:
    if not len(twice):
        return found
    apart = np.abs(twice[:, 0] - twice[:, 1])
    chance = np.abs(values[:, None] - values[None])[~np.eye(len(values), dtype=bool)]
    squared = float((chance**2).mean()) if len(chance) else 0.0
    kappa = None
    if len(twice) >= _FOR_KAPPA and np.ptp(twice) > 0:
        scale = list(range(LOWEST, HIGHEST + 1))
        kappa = float(cohen_kappa_score(twice[:, 0], twice[:, 1], weights="quadratic", labels=scale))
    return replace(
        found,
        same=float((apart == 0).mean()),
        same_by_chance=float((chance == 0).mean()) if len(chance) else None,
        apart=float(apart.mean()),
        apart_by_chance=float(chance.mean()) if len(chance) else None,
        reliability=1 - float((apart**2).mean()) / squared if squared else None,
        kappa=kappa,
    )


def _flagged(found: RaterScore, values: np.ndarray) -> RaterScore:
    flags = []
    if found.ratings >= _FEWEST_FOR_SAME_KEY and np.ptp(values) == 0:
        flags.append(f"pressed {values[0]:.0f} for every one of {found.ratings} grids")
    if found.fast > _MOSTLY:
        flags.append(f"gave {found.fast:.0%} of the ratings in under a second".replace("%", " %"))
    if found.repeats >= _FEWEST_REPEATS and found.reliability is not None and found.reliability < _RELIABLE:
        flags.append(
            f"rated {found.repeats} grids a second time {found.apart:.1f} points apart on average, where two grids at "
            f"random are {found.apart_by_chance:.1f} apart"
        )
    return replace(found, flags=tuple(flags))
