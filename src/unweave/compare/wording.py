"""What a comparison's numbers allow to say, in one sentence that is made of them."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

WORDS = {
    "raw_cosine": "raw cosine",
    "raw_correlation": "raw correlation",
    "sorted_cosine": "sorted cosine",
    "sorted_correlation": "sorted correlation",
    "linear_cka": "linear CKA",
    "rsa": "RSA",
    "procrustes": "Procrustes",
    "matched_r": "matched units' r",
    "ridge_r2": "ridge R²",
    "mutual_knn": "mutual neighbours",
}
_NULLS = {
    "untrained": "untrained",
    "other_image": "other examples",
    "noise": "noise",
    "shuffled": "shuffled",
}
_SIGNIFICANT = 0.05
Pairs = Float[np.ndarray, " pairs"]


def sentence(values: Mapping[str, Mapping[str, Pairs]], p: Mapping[str, Pairs], *, pairs: int) -> str:
    """The statement that the numbers allow.

    A measure counts as evidence where, in every pair, it lies above every null and its permutation p is below 0.05. In
    brackets stands the highest null.

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
        verb = "lies" if len(stand) == 1 else "lie"
        said.append(f"{_list([_beside(name, values[name]) for name in stand])} {verb} above every null{where}")
    if fall:
        verb, says = ("does", "says") if len(fall) == 1 else ("do", "say")
        names = _list([_beside(name, values[name]) for name in fall])
        said.append(f"{names} {verb} not, and so {says} nothing of what is shared")
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
    return above and bool((p < _SIGNIFICANT).all())


def _beside(name: str, values: Mapping[str, Pairs]) -> str:
    """A measure with its mean over pairs, and the null that comes closest."""
    means = {null: float(numbers.mean()) for null, numbers in values.items() if null != "observed"}
    highest = max(means, key=lambda null: means[null])
    return f"{WORDS[name]} {_number(float(values['observed'].mean()))} ({_NULLS[highest]} {_number(means[highest])})"


def _number(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}"  # no −0.00


def _list(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
