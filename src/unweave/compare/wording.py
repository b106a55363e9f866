"""What a comparison's numbers allow to say, in one sentence that is made of them."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from unweave.figures.comparison import WORDS

_NULLS = {
    "untrained": "untrained",
    "other_image": "other examples",
    "noise": "noise",
    "shuffled": "shuffled",
}
_SIGNIFICANT = 0.05
_MOST = 3
Pairs = Float[np.ndarray, " pairs"]


def sentence(values: Mapping[str, Mapping[str, Pairs]], p: Mapping[str, Pairs], *, pairs: int) -> str:
    """The statement that the numbers allow.

    A measure counts as evidence where, in every pair, it lies above every null and its permutation p is at most 0.05.
    The clearest are named, each with its highest null.

    Args:
        values: by measure and condition, `observed` among them, one number for each pair.
        p: by measure, against shuffled rows.
        pairs: number of pairs.
    """
    stand = [name for name in values if _above_all(values[name], p[name])]
    fall = [name for name in values if name not in stand]
    where = "" if pairs == 1 else f" in each of {pairs} pairs"
    said = []
    if stand:
        clearest = sorted(stand, key=lambda name: _highest(values[name])[1] - _mean(values[name]))
        verb = "lies" if len(stand) == 1 else "lie"
        said.append(f"{_beside(clearest, values)} {verb} above every null{where}")
    if fall:
        largest = sorted(fall, key=lambda name: -_mean(values[name]))
        verb, says = ("does", "says") if len(fall) == 1 else ("do", "say")
        said.append(f"{_beside(largest, values)} {verb} not, and so {says} nothing of what is shared")
    untrained = "untrained" in next(iter(values.values()))
    return f"{_conclusion(bool(stand), untrained)}: {'; '.join(said)}."


def _conclusion(anything: bool, untrained: bool) -> str:
    if not anything:
        return "Nothing shows that the instances share more than any two sets of rows of this shape"
    if untrained:
        return "The instances share what training made, beyond what their architecture gives"
    return (
        "The instances share structure over these examples (how much of it an architecture gives untrained was not "
        "measured)"
    )


def _above_all(values: Mapping[str, Pairs], p: Pairs) -> bool:
    nulls = [numbers for name, numbers in values.items() if name != "observed"]
    above = all(bool((values["observed"] > numbers).all()) for numbers in nulls)
    return above and bool((p <= _SIGNIFICANT).all())


def _beside(names: Sequence[str], values: Mapping[str, Mapping[str, Pairs]]) -> str:
    """The first measures with their mean over pairs and the null that comes closest, and how many more there are."""
    parts = []
    for name in names[:_MOST]:
        null, highest = _highest(values[name])
        parts.append(f"{WORDS[name]} {_number(_mean(values[name]))} ({_NULLS[null]} {_number(highest)})")
    if len(names) > _MOST:
        parts.append(f"{len(names) - _MOST} more")
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _mean(values: Mapping[str, Pairs]) -> float:
    return float(values["observed"].mean())


def _highest(values: Mapping[str, Pairs]) -> tuple[str, float]:
    """The null that comes closest, and its mean over pairs."""
    means = {null: float(numbers.mean()) for null, numbers in values.items() if null != "observed"}
    return max(means.items(), key=lambda item: item[1])


def _number(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}"  # no −0.00
