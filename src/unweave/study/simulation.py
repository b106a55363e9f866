"""Raters whose preferences are known: do the tests that `score` uses keep their promise, and what would they see?"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy
from jaxtyping import Float, Int64

from unweave.core.errors import InputError
from unweave.core.seeds import numpy_generator
from unweave.stats.mixed import mixed_difference
from unweave.stats.multiple import holm
from unweave.stats.two_samples import Summary, mann_whitney, min_f, t_test
from unweave.study.ratings import HIGHEST, LOWEST, Rating
from unweave.study.seal import KeyEntry

_MIDDLE = (LOWEST + HIGHEST) / 2
_ALPHA = 0.05
_SECONDS = 4.0
_CURVE = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5)  # points


@dataclass(frozen=True, kw_only=True)
class Population:
    """How simulated people rate, in points of the scale from 1 to 7.

    A latent's clarity is 4 + N(0, latent_sd), and `effect` more in the first condition. A rater sees it with
    N(0, noise), adds what they give every latent, N(0, rater_sd), and what they prefer a condition by, N(0, taste).
    They spread the scale about its middle by exp(N(0, bias)), so that its thresholds lie elsewhere for each, and press
    the nearest key from 1 to 7.
    """

    effect: float = 0.5
    "how much clearer latents of the first condition are, in points"
    latent_sd: float = 1.2
    "standard deviation of latents within a condition, in points"
    rater_sd: float = 0.5
    "standard deviation of what each rater adds to every rating, in points"
    noise: float = 0.8
    "standard deviation of one rater's ratings of one latent, in points"
    bias: float = 0.15
    "how differently raters spread the scale: standard deviation of the logarithm of their stretch"
    taste: float = 0.0
    "standard deviation of how much each rater prefers each condition for itself, in points"

    def __post_init__(self) -> None:
        for name in ("latent_sd", "rater_sd", "noise", "bias", "taste"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} is a standard deviation, so at least 0; got {getattr(self, name)}")

    def draw(
        self,
        studies: int,
        raters: int,
        conditions: int,
        latents: int,
        generator: np.random.Generator,
        *,
        times: int = 1,
    ) -> Int64[np.ndarray, "times studies raters conditions latents"]:
        """Ratings of whole studies; `times` gives the same rater and latent anew, with other noise."""
        clarity = _MIDDLE + generator.normal(0, self.latent_sd, (studies, 1, conditions, latents))
        clarity[:, :, 0] += self.effect
        lift = generator.normal(0, self.rater_sd, (studies, raters, 1, 1))
        taste = generator.normal(0, self.taste, (studies, raters, conditions, 1))
        stretch = np.exp(generator.normal(0, self.bias, (studies, raters, 1, 1)))
        seen = clarity + lift + taste + generator.normal(0, self.noise, (times, studies, raters, conditions, latents))
        pressed = np.rint(_MIDDLE + (seen - _MIDDLE) * stretch)
        return np.clip(pressed, LOWEST, HIGHEST).astype(np.int64)


def simulate_ratings(
    population: Population,
    key: Mapping[str, KeyEntry],
    *,
    raters: Sequence[str],
    conditions: Sequence[str] | None = None,
    repeats: int = 0,
    seed: int = 0,
) -> list[Rating]:
    """Ratings of a study by people whose preferences are known, to try the whole path from plan to result.

    Args:
        population: how they rate; `effect` is what the first condition has.
        key: what each item is; every condition has the same number of items.
        raters: their names.
        conditions: their order; by default as they come in the key.
        repeats: items that each rates a second time at the end.
        seed: of everything drawn.

    Raises:
        InputError: conditions have different numbers of items, or there are more repeats than items.
    """
    groups: dict[str, list[str]] = {name: [] for name in conditions or ()}
    for item, entry in key.items():
        groups.setdefault(entry.condition, []).append(item)
    sizes = {len(items) for items in groups.values()}
    if len(sizes) != 1 or repeats > len(key):
        raise InputError(f"simulated ratings need as many items of each condition, and at most {len(key)} repeats")
    drawn = numpy_generator(seed, "simulated ratings")
    twice = population.draw(1, len(raters), len(groups), sizes.pop(), drawn, times=2)[:, 0]
    values = {
        item: twice[:, :, c, place] for c, items in enumerate(groups.values()) for place, item in enumerate(items)
    }
    items = list(key)
    found = []
    for number, rater in enumerate(raters):
        order = [items[place] for place in drawn.permutation(len(items))]
        shown = [(item, False) for item in order] + [(item, True) for item in order[:repeats]]
        for place, (item, again) in enumerate(shown):
            value = int(values[item][int(again), number])
            at = _SECONDS * (place + 1)
            found.append(Rating(rater=rater, item=item, value=value, repeat=again, rated_at=at, seconds=_SECONDS))
    return found


def simulate_key(conditions: Sequence[str], latents: int) -> dict[str, KeyEntry]:
    """A key of so many latents for each condition, in order."""
    made = [(name, latent) for name in conditions for latent in range(latents)]
    return {
        f"g{place:03}": KeyEntry(item=f"g{place:03}", condition=name, latent=latent, rate=0.01)
        for place, (name, latent) in enumerate(made)
    }


@dataclass(frozen=True, kw_only=True)
class Rate:
    """How often one test called a difference at p ≤ 0.05.

    Attributes:
        test: which.
        right: whether it is one that `score` reports as a test; others are there to show why not.
        studies: how many were simulated.
        false_positives: share of studies without a difference where it called one.
        low: lower end of the exact 95 % interval of that share.
        high: upper end.
        power: share of studies with the difference where it called one.
    """

    test: str
    right: bool
    studies: int
    false_positives: float
    low: float
    high: float
    power: float

    @property
    def honest(self) -> bool:
        """Whether false positives are as many as an exact test would have in 95 of 100 such simulations, or fewer."""
        return bool(round(self.false_positives * self.studies) <= scipy.stats.binom.ppf(0.975, self.studies, _ALPHA))


@dataclass(frozen=True, kw_only=True, eq=False)
class Simulation:
    """What the tests do on studies of which the truth is known.

    Attributes:
        population: how people rate.
        latents: of each condition.
        raters: in each study.
        conditions: in each study.
        rates: of each test.
        curve_effects: differences for the curves of power, in points.
        curves: power of Welch's test at each, by number of latents for each condition.
        std: standard deviation of latents' means over raters within a condition, mean over studies.
    """

    population: Population
    latents: int
    raters: int
    conditions: int
    rates: tuple[Rate, ...]
    curve_effects: tuple[float, ...]
    curves: dict[int, tuple[float, ...]]
    std: float


def simulate(
    population: Population,
    *,
    latents: int = 16,
    raters: int = 3,
    conditions: int = 2,
    studies: int = 1000,
    mixed_studies: int = 200,
    seed: int = 0,
) -> Simulation:
    """Simulate studies with and without a difference, and count how often each test calls one.

    Args:
        population: how people rate.
        latents: of each condition.
        raters: in each study.
        conditions: in each study; with more than two, the family of comparisons is tested too.
        studies: how many, with the difference and as many without.
        mixed_studies: how many of those the mixed model is fitted to, which takes longest.
        seed: of everything drawn.

    Raises:
        InputError: a number is too small to test anything.
    """
    if latents < 2 or raters < 1 or conditions < 2 or studies < 1 or not 0 <= mixed_studies <= studies:
        raise InputError(
            "a simulated study has two latents of each of two conditions and a rater at least, and no more studies for "
            f"the mixed model than all; got {latents}, {conditions}, {raters}, {studies}, {mixed_studies}"
        )
    none = replace(population, effect=0.0)
    null, real = (
        of.draw(studies, raters, conditions, latents, numpy_generator(seed, "studies", name))[0]
        for of, name in ((none, "null"), (population, "real"))
    )
    calls = [_calls(values, mixed_studies) for values in (null, real)]
    rates = [_rate(test, right, calls[0][test, right], calls[1][test, right]) for test, right in calls[0]]
    sizes = sorted({max(2, latents // 2), latents, 2 * latents})
    drawn = numpy_generator(seed, "curves")
    curves = {size: tuple(_power_of(population, raters, size, studies, drawn)) for size in sizes}
    return Simulation(
        population=population,
        latents=latents,
        raters=raters,
        conditions=conditions,
        rates=tuple(rates),
        curve_effects=_CURVE,
        curves=curves,
        std=float(np.sqrt(null.mean(1).var(-1, ddof=1).mean())),
    )


def _calls(values: np.ndarray, mixed_studies: int) -> dict[tuple[str, bool], np.ndarray]:
    """By test, and whether it is a right one: in which studies it calls a difference."""
    means = values.mean(1)
    x, y = means[:, 0], means[:, 1]
    called = {
        ("Welch’s t, latents", True): _p_of_t(x, y, equal_var=False) <= _ALPHA,
        ("Student’s t, latents", True): _p_of_t(x, y, equal_var=True) <= _ALPHA,
        ("Mann–Whitney, latents", True): np.array([mann_whitney(a, b).p <= _ALPHA for a, b in zip(x, y, strict=True)]),
    }
    if values.shape[1] > 1 and mixed_studies:
        fits = [_mixed_ps(study[:, :2]) for study in values[:mixed_studies]]
        called["mixed model, t", True] = np.array([p <= _ALPHA for p, _ in fits])
        called["mixed model, normal", False] = np.array([p <= _ALPHA for _, p in fits])
    if values.shape[1] > 1:
        called["min F′, raters too", True] = _min_f(values, x, y)
        every = np.moveaxis(values, 1, -1).reshape(len(values), values.shape[2], -1)
        called["Student’s t, ratings", False] = _p_of_t(every[:, 0], every[:, 1], equal_var=True) <= _ALPHA
    if values.shape[2] > 2:
        family = np.stack([_p_of_t(x, means[:, c], equal_var=False) for c in range(1, values.shape[2])], 1)
        called["any comparison, Holm", True] = np.array([(holm(p) <= _ALPHA).any() for p in family])
        called["any, uncorrected", False] = np.asarray((family <= _ALPHA).any(1))
    return called


def _min_f(values: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """In which studies Clark's min F′ calls a difference."""
    own = values[:, :, 0].mean(-1) - values[:, :, 1].mean(-1)
    out = np.zeros(len(values), bool)
    for study, differences in enumerate(own):
        test = t_test(Summary.of(x[study]), Summary.of(y[study]))
        found = None if test is None else min_f(test, differences)
        out[study] = found is not None and found.p <= _ALPHA
    return out


def _p_of_t(x: np.ndarray, y: np.ndarray, *, equal_var: bool) -> Float[np.ndarray, " studies"]:
    """P-value of every study's t-test; 1 where nothing varies."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of studies where nothing varies
        p = scipy.stats.ttest_ind(x, y, axis=1, equal_var=equal_var).pvalue
    return np.where(np.isnan(p), 1.0, p)


def _mixed_ps(values: np.ndarray) -> tuple[float, float]:
    """P-values by Student's t and by the normal distribution; 1 where there is no model."""
    latents = values.shape[2]
    who, condition, place = (axis.ravel() for axis in np.indices(values.shape))
    try:
        found = mixed_difference(values.ravel(), condition == 0, who, condition * latents + place)
    except InputError:
        return 1.0, 1.0
    return found.p, found.p_normal


def _rate(test: str, right: bool, null: np.ndarray, real: np.ndarray) -> Rate:
    hits = int(null.sum())
    ends = scipy.stats.binomtest(hits, len(null)).proportion_ci(0.95, method="exact")
    return Rate(
        test=test,
        right=right,
        studies=len(null),
        false_positives=hits / len(null),
        low=float(ends.low),
        high=float(ends.high),
        power=float(real.mean()),
    )


def _power_of(
    population: Population, raters: int, latents: int, studies: int, generator: np.random.Generator
) -> list[float]:
    """Power of Welch's test at each difference of the curve."""
    out = []
    for effect in _CURVE:
        values = replace(population, effect=effect).draw(studies, raters, 2, latents, generator)[0]
        means = values.mean(1)
        out.append(float((_p_of_t(means[:, 0], means[:, 1], equal_var=False) <= _ALPHA).mean()))
    return out
