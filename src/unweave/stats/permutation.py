"""Permutation nulls."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int64

Statistic = Callable[[Float[np.ndarray, "*m classes"], Int64[np.ndarray, " classes"]], Float[np.ndarray, "*m"]]


def label_permutation_p(
    counts: Float[np.ndarray, "d_sae classes"],
    class_totals: Int64[np.ndarray, " classes"],
    statistic: Statistic,
    *,
    permutations: int,
    generator: np.random.Generator,
) -> Float[np.ndarray, " d_sae"]:
    """p-value of each latent against random labels: p = (b + 1) / (m + 1).

    b counts the permutations whose statistic reaches the observed one (Phipson and Smyth, 2010). Permuting the labels
    of all examples makes a latent's counts by class a draw from the multivariate hypergeometric distribution, which
    depends on nothing but its number of firing examples, so it is drawn from there: latents that fire equally often
    share one null, and the cost does not grow with the number of examples.

    Args:
        counts: firing examples of each latent by class.
        class_totals: all examples by class.
        statistic: what is compared, from counts by class and class totals; larger is more dependent.
        permutations: m.
        generator: source of the draws.
    """
    observed = statistic(counts, class_totals)
    firing = counts.sum(1).astype(np.int64)
    p = np.ones(len(counts))
    for count in np.unique(firing[firing > 0]):
        drawn = generator.multivariate_hypergeometric(class_totals, count, size=permutations)
        null = np.sort(statistic(drawn.astype(np.float64), class_totals))
        same = firing == count
        reached = permutations - np.searchsorted(null, observed[same] - 1e-12, side="left")
        p[same] = (reached + 1) / (permutations + 1)
    return p
