"""What a scored study says, as numbers: conditions, comparisons, agreement, raters, the seal."""

from dataclasses import dataclass, field

from unweave.stats.bootstrap import Interval
from unweave.stats.mixed import MixedDifference
from unweave.stats.two_samples import MinF, RankTest, TTest


@dataclass(frozen=True, kw_only=True)
class RatedLatent:
    """One latent with what was said of it.

    Attributes:
        item: the grid's name.
        condition: where the latent comes from.
        latent: its index there.
        rate: share of the rows on which it fires.
        ratings: the first rating of each rater who gave one.
    """

    item: str
    condition: str
    latent: int
    rate: float
    ratings: dict[str, int]

    @property
    def mean(self) -> float:
        """Over raters."""
        return sum(self.ratings.values()) / len(self.ratings)


@dataclass(frozen=True, kw_only=True)
class ConditionScore:
    """One condition's ratings. Mean, deviation and quartiles are of the latents' means over raters.

    Attributes:
        condition: its name.
        latents: how many were rated.
        unrated: how many were not rated by anybody.
        ratings: first ratings, of all raters.
        histogram: how many of those were 1, 2, ... 7.
        mean: of latents.
        std: of latents, with n − 1; None for one latent.
        minimum: of latents; likewise `lower_quartile`, `median`, `upper_quartile` (linear between values), `maximum`.
        interval: bootstrap interval of the mean over latents; None for one latent.
    """

    condition: str
    latents: int
    unrated: int
    ratings: int
    histogram: tuple[int, ...]
    mean: float
    std: float | None
    minimum: float
    lower_quartile: float
    median: float
    upper_quartile: float
    maximum: float
    interval: Interval | None


@dataclass(frozen=True, kw_only=True)
class Power:
    """What a comparison could have seen, given its number of latents and their spread; not what it saw.

    Attributes:
        alpha: 0.05 over the number of comparisons, as the strictest step of Holm's correction asks.
        smallest_d: difference in standard deviations of latents that is found with 80 % power.
        smallest: the same in points of the scale; None where latents do not vary.
        of_d: power to find 0.2, 0.5 and 0.8 standard deviations.
    """

    alpha: float
    smallest_d: float
    smallest: float | None
    of_d: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The first condition against another; the unit is the latent, by its mean over raters.

    Attributes:
        first: the one condition.
        second: the other.
        difference: mean of the first less mean of the second, in points.
        low: lower end of Welch's 95 % interval of the difference; None without a test.
        high: upper end.
        welch: the test that counts; None where latents do not vary, or a condition has one latent.
        student: with equal variances, as studies of this kind publish it.
        rank: Mann and Whitney's.
        mixed: with crossed random effects of rater and latent; None where `no_mixed` says why.
        no_mixed: why there is no mixed model.
        both: Clark's min F′ of latents (Welch's) and raters: whether other raters would see it too; None for one rater.
        p: of Welch's test, of the rank test where there is none.
        p_holm: the same, corrected over all comparisons of the study.
        cohens_d: difference in standard deviations; None where it is infinite (no spread, different means).
        d_interval: its bootstrap interval over latents; None for too few latents.
        cliffs_delta: how much more often a latent of the first is rated higher than one of the second.
        delta_interval: its bootstrap interval over latents.
        by_rater: each rater's own difference of means.
        power: None for fewer than two latents in a condition.
    """

    first: str
    second: str
    difference: float
    low: float | None
    high: float | None
    welch: TTest | None
    student: TTest | None
    rank: RankTest
    mixed: MixedDifference | None
    no_mixed: str
    both: MinF | None
    p: float
    p_holm: float
    cohens_d: float | None
    d_interval: Interval | None
    cliffs_delta: float
    delta_interval: Interval | None
    by_rater: dict[str, float]
    power: Power | None


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Krippendorff's α of the raters, over latents that at least two of them rated.

    Attributes:
        raters: how many.
        latents: with two ratings at least.
        ordinal: α of ordinal ratings, the one that counts; likewise `nominal` and `interval_scale`.
        interval: bootstrap interval of the ordinal α, over latents.
        none: why there is no α.
    """

    raters: int
    latents: int
    ordinal: float | None = None
    nominal: float | None = None
    interval_scale: float | None = None
    interval: Interval | None = None
    none: str = ""


@dataclass(frozen=True, kw_only=True)
class RaterScore:
    """One rater: how they used the scale, whether they agree with themselves, how fast they were.

    Attributes:
        rater: who.
        ratings: first ratings.
        mean: of those.
        std: of those, with n − 1; None for one rating.
        repeats: grids shown a second time and rated again.
        same: share of repeats with the same rating; None without repeats, as all below.
        same_by_chance: share of pairs of different grids that this rater gave the same rating.
        apart: mean absolute difference of the two ratings.
        apart_by_chance: the same of two different grids of this rater's, drawn at random.
        reliability: 1 − mean squared difference of repeats over that of two grids at random; None without spread.
        kappa: quadratically weighted kappa of both ratings; None for fewer than 10 repeats.
        median_seconds: time for a rating; None where no time is known.
        fast: share of ratings in under a second.
        flags: what makes this rater's answers doubtful, in words.
    """

    rater: str
    ratings: int
    mean: float
    std: float | None
    repeats: int
    same: float | None = None
    same_by_chance: float | None = None
    apart: float | None = None
    apart_by_chance: float | None = None
    reliability: float | None = None
    kappa: float | None = None
    median_seconds: float | None = None
    fast: float = 0.0
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Seal:
    """How the key was opened.

    Attributes:
        present: ratings that were in, repeats included.
        planned: ratings that the plan asks for.
        early: whether the key was opened now before enough were in.
        early_before: how many ratings were in at each earlier early opening.
    """

    present: int
    planned: int
    early: bool
    early_before: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Score:
    """A scored study.

    Attributes:
        conditions: in the plan's order; the first is compared with the others.
        comparisons: each with all its tests.
        agreement: of the raters with each other.
        raters: each with themselves.
        latents: every rated latent.
        ratings: first ratings.
        repeats: second ratings of the same grid by the same rater, which count for agreement only.
        missing: first ratings that raters of the study did not give.
        without_flagged: by second condition, difference and p without raters that are flagged; empty where none is.
        question: what was asked.
        seal: None where the key was given, not opened.
        warnings: what the plan warns of.
    """

    conditions: tuple[ConditionScore, ...]
    comparisons: tuple[Comparison, ...]
    agreement: Agreement
    raters: tuple[RaterScore, ...]
    latents: tuple[RatedLatent, ...] = field(repr=False)
    ratings: int
    repeats: int
    missing: int
    without_flagged: dict[str, tuple[float, float]]
    question: str = ""
    seal: Seal | None = None
    warnings: tuple[str, ...] = ()
