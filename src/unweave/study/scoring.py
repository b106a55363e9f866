"""From ratings and a key to a result. The unit is the latent, never the rating.

Several people rate the same latent, so their ratings are not independent: whoever counts each of them claims to know
more than was seen. Every test, interval and effect here is of the latents' means over raters.
"""

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from unweave.core.errors import InputError
from unweave.core.seeds import numpy_generator
from unweave.stats.bootstrap import bootstrap_interval
from unweave.stats.mixed import MixedDifference, mixed_difference
from unweave.stats.multiple import holm
from unweave.stats.power import detectable_difference, t_power
from unweave.stats.two_samples import (
    Summary,
    difference_interval,
    dominance,
    mann_whitney,
    min_f,
    standardised_difference,
    t_test,
    two_sample_interval,
)
from unweave.study.folder import Study
from unweave.study.raters import agreement, rater_score
from unweave.study.ratings import HIGHEST, LOWEST, Rating
from unweave.study.result import Comparison, ConditionScore, Power, RatedLatent, Score, Seal
from unweave.study.seal import KeyEntry

_ALPHA = 0.05
_DS = (0.2, 0.5, 0.8)


def score(
    ratings: Sequence[Rating],
    key: Mapping[str, KeyEntry],
    *,
    conditions: Sequence[str] | None = None,
    all_pairs: bool = False,
    seed: int = 0,
) -> Score:
    """Score ratings whose key is known.

    Of each rater and item the first rating counts; what came later is a repeat, and tells how far the rater agrees with
    themselves. p-values are corrected by Holm's method over all comparisons made.

    Args:
        ratings: in any order.
        key: what each item is.
        conditions: their order; the first is compared with every other. By default as they come in the key.
        all_pairs: compare each two conditions.
        seed: of the bootstrap's draws.

    Raises:
        InputError: there is no rating, one is of an item that the key does not know or off the scale, or the key has
            other conditions than those named.
    """
    order = _order(key, conditions)
    firsts, repeats = _first_and_again(ratings, key)
    raters = sorted(firsts)
    latents = _latents(firsts, key, order)
    by_condition = {name: [one for one in latents if one.condition == name] for name in order}
    rated = [name for name in order if by_condition[name]]
    pairs = [(a, b) for a, b in itertools.combinations(rated, 2) if all_pairs or a == order[0]]
    comparisons = [_compare(by_condition[a], by_condition[b], raters, len(pairs), seed) for a, b in pairs]
    adjusted = holm(np.array([one.p for one in comparisons], np.float64))
    people = tuple(rater_score(rater, firsts[rater], repeats.get(rater, [])) for rater in raters)
    count = sum(len(of) for of in firsts.values())
    return Score(
        conditions=tuple(_condition(name, by_condition[name], key, seed) for name in order),
        comparisons=tuple(replace(one, p_holm=float(p)) for one, p in zip(comparisons, adjusted, strict=True)),
        agreement=agreement(latents, raters, numpy_generator(seed, "agreement")),
        raters=people,
        latents=tuple(latents),
        ratings=count,
        repeats=len(ratings) - count,
        missing=len(raters) * len(key) - count,
        without_flagged=_without({one.rater for one in people if one.flags}, raters, by_condition, pairs),
    )


def score_study(study: Study, *, early: bool = False, all_pairs: bool = False, seed: int = 0) -> Score:
    """Open a study's key, which is recorded for good, and score its ratings.

    Args:
        study: the study.
        early: open the key though ratings are missing; the result says so, now and in every later score.
        all_pairs: compare each two conditions, not only the first with every other.
        seed: of the bootstrap's draws.

    Raises:
        InputError: too few ratings are in and `early` is not set, or there is none at all.
        StoreError: the key is not the one that the plan committed to.
    """
    if not study.ratings():
        raise InputError(f"{study.folder} has no ratings yet: unweave study serve {study.folder}")
    before = [one for one in study.unsealings() if one.early]
    key = study.unseal(early=early)
    opening = study.unsealings()[-1]
    plan, ratings = study.plan, study.ratings()
    found = score(ratings, key, conditions=plan.conditions, all_pairs=all_pairs, seed=seed)
    return replace(
        found,
        missing=len(plan.raters) * len(plan.items) - found.ratings,
        question=plan.question,
        seal=Seal(
            present=opening.present,
            planned=opening.planned,
            early=opening.early,
            early_before=tuple(one.present for one in before),
        ),
        warnings=tuple(plan.warnings),
    )


def _order(key: Mapping[str, KeyEntry], conditions: Sequence[str] | None) -> list[str]:
    known = list(dict.fromkeys(entry.condition for entry in key.values()))
    order = known if conditions is None else list(conditions)
    if sorted(order) != sorted(known):
        raise InputError(f"the key has the conditions {', '.join(known)}, not {', '.join(order)}")
    return order


def _first_and_again(
    ratings: Sequence[Rating], key: Mapping[str, KeyEntry]
) -> tuple[dict[str, dict[str, Rating]], dict[str, list[Rating]]]:
    """By rater: the first rating of each item, and the later ones."""
    if not ratings:
        raise InputError("there are no ratings to score")
    firsts: dict[str, dict[str, Rating]] = {}
    again: dict[str, list[Rating]] = {}
    for rating in sorted(ratings, key=lambda one: (one.repeat, one.rated_at)):
        if rating.item not in key:
            raise InputError(f"rater {rating.rater} rated the item {rating.item!r}, which the key does not have")
        if not LOWEST <= rating.value <= HIGHEST:
            what = f"rated {rating.item!r} {rating.value}"
            raise InputError(f"rater {rating.rater} {what}; the scale goes from {LOWEST} to {HIGHEST}")
        mine = firsts.setdefault(rating.rater, {})
        if rating.item in mine:
            again.setdefault(rating.rater, []).append(rating)
        else:
            mine[rating.item] = rating
    return firsts, again


def _latents(
    firsts: Mapping[str, Mapping[str, Rating]], key: Mapping[str, KeyEntry], order: Sequence[str]
) -> list[RatedLatent]:
    by_item: dict[str, dict[str, int]] = {}
    for rater in sorted(firsts):
        for item, rating in firsts[rater].items():
            by_item.setdefault(item, {})[rater] = rating.value
    entries = sorted(
        (key[item] for item in by_item), key=lambda entry: (order.index(entry.condition), entry.latent, entry.item)
    )
    return [
        RatedLatent(
            item=entry.item,
            condition=entry.condition,
            latent=entry.latent,
            rate=entry.rate,
            ratings=by_item[entry.item],
        )
        for entry in entries
    ]


def _means(latents: Sequence[RatedLatent]) -> np.ndarray:
    return np.array([latent.mean for latent in latents], np.float64)


def _condition(name: str, latents: Sequence[RatedLatent], key: Mapping[str, KeyEntry], seed: int) -> ConditionScore:
    values = _means(latents)
    every = Counter(value for latent in latents for value in latent.ratings.values())
    drawn = numpy_generator(seed, "mean", name)
    quartiles = np.quantile(values, [0, 0.25, 0.5, 0.75, 1]).tolist() if len(values) else [math.nan] * 5
    return ConditionScore(
        condition=name,
        latents=len(values),
        unrated=sum(entry.condition == name for entry in key.values()) - len(values),
        ratings=every.total(),
        histogram=tuple(every[value] for value in range(LOWEST, HIGHEST + 1)),
        mean=float(values.mean()) if len(values) else math.nan,
        std=float(values.std(ddof=1)) if len(values) > 1 else None,
        minimum=quartiles[0],
        lower_quartile=quartiles[1],
        median=quartiles[2],
        upper_quartile=quartiles[3],
        maximum=quartiles[4],
        interval=bootstrap_interval(values, generator=drawn) if len(values) > 1 else None,
    )


def _compare(
    first: Sequence[RatedLatent], second: Sequence[RatedLatent], raters: Sequence[str], comparisons: int, seed: int
) -> Comparison:
    x, y = _means(first), _means(second)
    names = (first[0].condition, second[0].condition)
    summaries = Summary.of(x), Summary.of(y)
    welch, rank = t_test(*summaries), mann_whitney(x, y)
    ends = difference_interval(*summaries) or (None, None)
    mixed, no_mixed = _mixed(first, second)
    d = float(standardised_difference(x, y)) if len(x) + len(y) > 2 else math.inf
    p = rank.p if welch is None else welch.p
    by_rater = _by_rater(first, second, raters)
    return Comparison(
        first=names[0],
        second=names[1],
        difference=float(x.mean() - y.mean()),
        low=ends[0],
        high=ends[1],
        welch=welch,
        student=t_test(*summaries, equal_variances=True),
        rank=rank,
        mixed=mixed,
        no_mixed=no_mixed,
        both=None if welch is None else min_f(welch, np.array(list(by_rater.values()), np.float64)),
        p=p,
        p_holm=p,
        cohens_d=d if math.isfinite(d) else None,
        d_interval=two_sample_interval(x, y, standardised_difference, generator=numpy_generator(seed, "d", *names)),
        cliffs_delta=float(dominance(x, y)),
        delta_interval=two_sample_interval(x, y, dominance, generator=numpy_generator(seed, "delta", *names)),
        by_rater=by_rater,
        power=_power(summaries, comparisons),
    )


def _mixed(first: Sequence[RatedLatent], second: Sequence[RatedLatent]) -> tuple[MixedDifference | None, str]:
    """The mixed model, or why there is none."""
    latents = [*first, *second]
    rows = [(rater, place, value) for place, one in enumerate(latents) for rater, value in one.ratings.items()]
    people = sorted({rater for rater, _, _ in rows})
    if len(people) < 2:
        return None, "there is one rater only"
    items = np.array([place for _, place, _ in rows], np.int64)
    values = np.array([value for _, _, value in rows], np.float64)
    who = np.array([people.index(rater) for rater, _, _ in rows], np.int64)
    try:
        found = mixed_difference(values, items < len(first), who, items)
    except InputError as reason:
        return None, str(reason)
    return found, "" if found.converged else "the fit did not converge; its numbers are where the search stopped"


def _by_rater(first: Sequence[RatedLatent], second: Sequence[RatedLatent], raters: Sequence[str]) -> dict[str, float]:
    out = {}
    for rater in raters:
        own = [[one.ratings[rater] for one in part if rater in one.ratings] for part in (first, second)]
        if all(own):
            out[rater] = float(np.mean(own[0]) - np.mean(own[1]))
    return out


def _power(summaries: tuple[Summary, Summary], comparisons: int) -> Power | None:
    (n, m), alpha = (one.n for one in summaries), _ALPHA / comparisons
    if min(n, m) < 2:
        return None
    spread = math.sqrt(sum((one.n - 1) * one.std**2 for one in summaries) / (n + m - 2))
    smallest = detectable_difference(n, m, alpha=alpha)
    return Power(
        alpha=alpha,
        smallest_d=smallest,
        smallest=smallest * spread if spread else None,
        of_d={f"{d:g}": t_power(d, n, m, alpha=alpha) for d in _DS},
    )


def _without(
    flagged: set[str],
    raters: Sequence[str],
    by_condition: Mapping[str, Sequence[RatedLatent]],
    pairs: Sequence[tuple[str, str]],
) -> dict[str, tuple[float, float]]:
    """Difference and p (Welch's, uncorrected) of each comparison without raters whose answers are doubtful."""
    if not flagged or len(flagged) == len(raters):
        return {}
    out = {}
    for a, b in pairs:
        kept = []
        for name in (a, b):
            left = [{r: v for r, v in one.ratings.items() if r not in flagged} for one in by_condition[name]]
            kept.append(np.array([sum(of.values()) / len(of) for of in left if of], np.float64))
        if all(len(values) > 1 for values in kept):
            test = t_test(Summary.of(kept[0]), Summary.of(kept[1]))
            p = mann_whitney(*kept).p if test is None else test.p
            out[f"{a} against {b}"] = (float(kept[0].mean() - kept[1].mean()), p)
    return out
