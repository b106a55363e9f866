"""Whether a dictionary found what is known to be there: latents matched with true sources or directions, one to one."""

from dataclasses import dataclass

import numpy as np
import scipy
from jaxtyping import Bool, Float, Int64

FOUND_AT = 0.9


@dataclass(frozen=True, eq=False)
class Matching:
    """True things and latents, matched one to one so that the sum of similarities is largest.

    Attributes:
        latent: latent of each true thing; −1 where there are more of them than latents.
        score: their similarity; 0 where there is no latent.
        unmatched: latents that nothing true is matched with, in order.
    """

    latent: Int64[np.ndarray, " n_true"]
    score: Float[np.ndarray, " n_true"]
    unmatched: Int64[np.ndarray, " left"]

    @property
    def mean(self) -> float:
        """Mean similarity over all true things; what no latent is left for counts as 0."""
        return float(self.score.mean())

    def recall(self, at: float = FOUND_AT) -> float:
        """Share of true things whose latent reaches this similarity."""
        return float((self.score >= at).mean())


def match(similarity: Float[np.ndarray, "n_true d_sae"]) -> Matching:
    """Match true things with latents by the Hungarian method (Kuhn, 1955), one latent each at most."""
    n_true, d_sae = similarity.shape
    true, found = scipy.optimize.linear_sum_assignment(similarity, maximize=True)
    latent, score = np.full(n_true, -1, np.int64), np.zeros(n_true)
    latent[true], score[true] = found, similarity[true, found]
    return Matching(latent, score, np.setdiff1d(np.arange(d_sae, dtype=np.int64), found))


def cosines(
    true: Float[np.ndarray, "n_true d_in"], found: Float[np.ndarray, "d_sae d_in"], *, signed: bool = True
) -> Float[np.ndarray, "n_true d_sae"]:
    """Cosine of every true direction with every latent's; 0 where one has no length.

    Args:
        true: the directions that rows were made of.
        found: what one unit of each latent adds to a row.
        signed: a latent that points the other way has not found the direction; off: the size of the cosine counts,
            as it should where codes may be negative.
    """
    result = np.asarray(_unit(true) @ _unit(found).T)
    return result if signed else np.abs(result)


def correlations(
    sources: Float[np.ndarray, "n n_true"], codes: Float[np.ndarray, "n d_sae"]
) -> Float[np.ndarray, "n_true d_sae"]:
    """Size |r| of Pearson's correlation of every source with every latent's codes; 0 where one does not vary."""
    return np.asarray(np.abs(_unit(_centred(sources).T) @ _unit(_centred(codes).T).T))


def precision(
    similarity: Float[np.ndarray, "n_true d_sae"], live: Bool[np.ndarray, " d_sae"], *, at: float = FOUND_AT
) -> float:
    """Share of live latents that reach this similarity with some true thing; NaN where no latent is live.

    Several latents may have found the same thing: a dictionary that says one thing twice is no less right for it.
    """
    return float((similarity[:, live].max(0) >= at).mean()) if live.any() else float("nan")


def _centred(values: Float[np.ndarray, "n m"]) -> Float[np.ndarray, "n m"]:
    """Columns about their mean; what varies by no more than its rounding becomes zero."""
    exact = values.astype(np.float64)
    centred = exact - exact.mean(0)
    centred[:, np.abs(centred).max(0) <= 1e-6 * np.abs(exact).max(0)] = 0
    return np.asarray(centred)


def _unit(rows: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "m d"]:
    """Rows at length 1, in float64; those of length 0 stay."""
    exact = rows.astype(np.float64)
    length = np.linalg.norm(exact, axis=1, keepdims=True)
    return np.asarray(exact / np.where(length > 0, length, 1.0))
