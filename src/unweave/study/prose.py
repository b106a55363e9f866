"""A score in plain words: what was seen, how sure one can be, what could have been seen, and what is doubtful."""

import math
from collections.abc import Sequence

from unweave.study.result import Comparison, Score

_ALPHA = 0.05
_GOOD, _FAIR = 0.8, 0.667  # Krippendorff's customary bounds


def paragraph(score: Score) -> str:
    """The result in words for a paper, a few short paragraphs: every sentence follows from the numbers."""
    parts = [
        f"{_who(score)} {_headline(score)}",
        *(_difference(one, many=len(score.comparisons) > 1) for one in score.comparisons),
        f"{_power(score)} {_unit(score)}",
        f"{_agreement(score)} {_with_themselves(score)}",
        " ".join(_doubts(score)),
    ]
    return "\n\n".join(part.strip() for part in parts if part.strip())


def _who(score: Score) -> str:
    of_each = {one.latents for one in score.conditions}
    names = _listed([one.condition for one in score.conditions])
    each = (
        f"{of_each.pop()} from each of {names}"
        if len(of_each) == 1 and len(score.conditions) > 1
        else _listed([f"{one.latents} from {one.condition}" for one in score.conditions])
    )
    again = f" and {score.repeats} of the same grid again" if score.repeats else ""
    question = f" (“{score.question}”)" if score.question else ""
    return (
        f"{_count(len(score.raters), 'person', 'people')} rated the images of {_count(len(score.latents), 'latent')}, "
        f"{each}, from 1 to 7{question}, without being told where a latent came from: "
        f"{_count(score.ratings, 'rating')}{again}."
    )


def _headline(score: Score) -> str:
    """Which conditions differ, by the corrected p of the test that counts."""
    if not score.comparisons:
        return "Only one condition was rated, so there is nothing to compare."
    said = []
    for first in dict.fromkeys(one.first for one in score.comparisons):
        of = [one for one in score.comparisons if one.first == first]
        above = [one.second for one in of if one.p_holm <= _ALPHA and one.difference > 0]
        below = [one.second for one in of if one.p_holm <= _ALPHA and one.difference < 0]
        no = [one.second for one in of if one.p_holm > _ALPHA]
        if above:
            said.append(f"Latents of {first} were rated higher than those of {_listed(above)}")
        if below:
            said.append(
                f"{'latents' if above else 'Latents'} of {first} were rated lower than those of {_listed(below)}"
            )
        if no:
            start = "no" if above or below else "No"
            said.append(f"{start} difference between {first} and {_listed(no, last='or')} was shown")
    return "; ".join(said) + "."


def _difference(one: Comparison, *, many: bool) -> str:
    ends = "" if one.low is None or one.high is None else f", 95 % interval {_ends(one.low, one.high)}"
    seen = f"{one.first} against {one.second}: {number(one.difference)} points{ends}"
    ranks = f"rank test {_p(one.rank.p)}"
    if one.mixed is not None:
        ranks += f"; mixed model {_p(one.mixed.p)}" + ("" if one.mixed.converged else ", whose fit did not converge")
    if one.welch is None:
        few = "a condition has one latent only" if one.power is None else "latents of a condition do not vary"
        return f"{seen}; there is no t-test, since {few}; {ranks}. {_effect(one)}"
    tests = f"Welch’s t = {number(one.welch.t)}, df {one.welch.df:.1f}, {_p(one.welch.p)}"
    if many:
        tests += f", corrected {_p(one.p_holm)}"
    if one.p_holm > _ALPHA >= one.welch.p:
        tests += " (one of several comparisons comes out like this by chance too often to count)"
    return f"{seen}; {tests}; {ranks}. {_effect(one)} {_raters_apart(one)}".strip()


def _effect(one: Comparison) -> str:
    d = ""
    if one.cohens_d is not None:
        ends = "" if one.d_interval is None else f" ({_ends(one.d_interval.low, one.d_interval.high)})"
        d = f"In standard deviations of latents that is d = {number(one.cohens_d)}{ends}; "
    share = 50 * (1 + one.cliffs_delta)
    ends = "" if one.delta_interval is None else f" ({_ends(one.delta_interval.low, one.delta_interval.high)})"
    said = (
        f"{d}of two latents drawn at random, the one of {one.first} is rated higher in {share:.0f} % of cases, ties "
        f"counted half (Cliff’s delta {number(one.cliffs_delta)}{ends})."
    )
    return said[0].upper() + said[1:]


def _raters_apart(one: Comparison) -> str:
    if len(one.by_rater) < 2 or abs(one.difference) < 0.005:
        return ""
    same = sum(value * one.difference > 0 for value in one.by_rater.values())
    low, high = min(one.by_rater.values()), max(one.by_rater.values())
    spread = f"by rater {number(low)} to {number(high)} points"
    others = "" if one.both is None else f"; for other raters too: min F′ = {number(one.both.f)}, {_p(one.both.p)}"
    return f"{same} of {len(one.by_rater)} raters put them in this order ({spread}{others})."


def _power(score: Score) -> str:
    found = [one.power for one in score.comparisons if one.power is not None]
    smallest = [power.smallest for power in found if power.smallest is not None]
    if not smallest:
        return ""
    low, high = f"{min(smallest):.2f}", f"{max(smallest):.2f}"
    points = low if low == high else f"{low} to {high}"
    deviations = max(power.smallest_d for power in found)
    said = (
        f"With its number of latents and their spread the study finds a true difference of {points} points "
        f"(d = {deviations:.2f}) with 80 % power"
    )
    if any(one.p_holm > _ALPHA for one in score.comparisons):
        said += "; where none was shown, a smaller one may still be there"
    return f"{said}."


def _unit(score: Score) -> str:
    if len(score.raters) == 1:
        said = "There was one rater: the tests speak of this person and of other latents drawn in the same way."
    else:
        said = (
            "The tests are of latents, each by its mean over raters, since ratings of one latent are not independent; "
            "they speak of these raters and of other latents drawn in the same way. Only min F′ speaks of other raters "
            "as well."
        )
    if len(score.comparisons) > 1:
        said += (
            f" Corrected p-values hold the chance of any false claim among {len(score.comparisons)} comparisons at 5 % "
            "(Holm)."
        )
    return said


def _agreement(score: Score) -> str:
    found = score.agreement
    if found.ordinal is None:
        return f"Agreement between raters cannot be said: {found.none}."
    ends = "" if found.interval is None else f", 95 % interval {_ends(found.interval.low, found.interval.high)}"
    if found.ordinal >= _GOOD:
        means = "they see the same"
    elif found.interval is not None and found.interval.low <= 0:
        means = "not shown to be better than chance, so one person’s rating says nothing of another’s"
    elif found.ordinal >= _FAIR:
        means = "enough for tentative conclusions by the customary bounds"
    else:
        means = "under 0.667, so one person’s rating says little of another’s, and only means over people count"
    return (
        f"Raters agreed with each other to Krippendorff’s alpha = {found.ordinal:.2f} (ordinal{ends}; 1 is perfect, 0 "
        f"chance): {means}."
    )


def _with_themselves(score: Score) -> str:
    seen = [one for one in score.raters if one.repeats and one.same is not None and one.apart is not None]
    if not seen:
        return "No grid was shown to a rater twice, so nobody’s agreement with themselves is known."
    repeats = sum(one.repeats for one in seen)
    same = sum(one.repeats * (one.same or 0.0) for one in seen) / repeats
    apart = sum(one.repeats * (one.apart or 0.0) for one in seen) / repeats
    known = [one for one in seen if one.same_by_chance is not None and one.apart_by_chance is not None]
    if not known:
        return f"Of {_count(repeats, 'hidden repeat')} {100 * same:.0f} % got the same rating again."
    same_chance = sum(one.same_by_chance or 0.0 for one in known) / len(known)
    apart_chance = sum(one.apart_by_chance or 0.0 for one in known) / len(known)
    return (
        f"Of {_count(repeats, 'hidden repeat')} {100 * same:.0f} % got the same rating again, where two different "
        f"grids got the same in {100 * same_chance:.0f} %; on average they were {apart:.1f} points apart, "
        f"different grids {apart_chance:.1f}."
    )


def _doubts(score: Score) -> list[str]:
    out = [f"{one.rater[:1].upper()}{one.rater[1:]} {flag}." for one in score.raters for flag in one.flags]
    if score.without_flagged:
        kept = [f"{name} {number(d)} points ({_p(p)}, uncorrected)" for name, (d, p) in score.without_flagged.items()]
        out.append(f"Without raters so named the differences are: {_listed(kept)}.")
    if score.missing > 0:
        out.append(
            f"Of the plan, {_count(score.missing, 'rating')} {'is' if score.missing == 1 else 'are'} missing; means of "
            "such latents are over fewer raters, and only the mixed model takes their strictness into account."
        )
    if score.seal is not None:
        if score.seal.early:
            out.append(
                f"The key was opened early, with {score.seal.present} of {score.seal.planned} ratings in: this is no "
                "final result, and ratings given from now on are not blind to it."
            )
        if score.seal.early_before:
            times = _listed([f"{present}" for present in score.seal.early_before])
            out.append(
                f"The key had been opened before all ratings were in, at {times} of {score.seal.planned}: the study "
                "may have been stopped, or later ratings given, with the result in view."
            )
    return out + [warning if warning.endswith(".") else f"{warning}." for warning in score.warnings]


def p_value(p: float) -> str:
    """A p-value as it is printed."""
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}" if p < 1e-3 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def number(value: float | None) -> str:
    """A number with two places and a real minus; a dash where there is none."""
    return "—" if value is None or math.isnan(value) else f"{round(value, 2) + 0.0:.2f}".replace("-", "−")


def _p(p: float) -> str:
    return f"p {p_value(p)}" if p < 1e-4 else f"p = {p_value(p)}"


def _ends(low: float, high: float) -> str:
    return f"{number(low)} to {number(high)}"


def _count(n: int, one: str, many: str = "") -> str:
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def _listed(names: Sequence[str], *, last: str = "and") -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {last} {names[-1]}"
