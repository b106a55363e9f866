"""Which latents of one dictionary are latents of another: by their codes on the same rows, or by their directions."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64
from scipy.sparse import csr_matrix

from unweave.core.codes import Codes
from unweave.core.errors import InputError
from unweave.metrics.similarity import matched_pairs


@dataclass(frozen=True, eq=False)
class Matched:
    """Latents of two dictionaries, one to one.

    Attributes:
        first: latent of the first dictionary.
        second: the latent of the second that it was matched with.
        score: how well they agree.
        sizes: latents of each dictionary that could have been matched.
    """

    first: Int64[np.ndarray, " m"]
    second: Int64[np.ndarray, " m"]
    score: Float64[np.ndarray, " m"]
    sizes: tuple[int, int]

    def share(self, least: Float[np.ndarray, " t"]) -> Float64[np.ndarray, " t"]:
        """Share of both dictionaries' latents whose partner scores at least so much; without a partner none does."""
        reached = (self.score[None] >= least[:, None]).sum(1)
        return np.asarray(2 * reached / max(sum(self.sizes), 1), np.float64)

    @property
    def mean(self) -> float:
        """Mean score over the latents of both, 0 for those without a partner."""
        return float(2 * self.score.sum() / max(sum(self.sizes), 1))


class CodePair:
    """Codes of the same rows by two dictionaries: partners are chosen on some rows and measured on others.

    Latents that fire on fewer than `live_share` of all rows have no partner and are not counted.

    Raises:
        InputError: the codes are not of the same rows, or a part has fewer than two.
    """

    def __init__(
        self,
        first: Codes,
        second: Codes,
        *,
        choose: Int64[np.ndarray, " c"],
        measure: Int64[np.ndarray, " e"],
        live_share: float = 1e-3,
    ) -> None:
        if first.n != second.n:
            raise InputError(f"codes of the same rows are compared, got {first.n:,} and {second.n:,} of them")
        if min(len(choose), len(measure)) < 2:
            raise InputError(f"choosing and measuring need two rows each, got {len(choose)} and {len(measure)}")
        self._live = tuple(live_latents(codes, live_share) for codes in (first, second))
        a, b = (_matrix(codes)[:, live] for codes, live in zip((first, second), self._live, strict=True))
        self._a, self._b = (a[choose], a[measure]), (b[choose], b[measure])
        self._scales = [(_moments(x), _moments(y)) for x, y in zip(self._a, self._b, strict=True)]

    def matched(self, generator: np.random.Generator | None = None) -> Matched:
        """Partners by the largest sum of correlations, and their correlation on the other rows.

        With a generator, the second dictionary's rows are shuffled first, within each of the two parts: a null.
        """
        b = self._b
        if generator is not None:
            b = (b[0][generator.permutation(b[0].shape[0])], b[1][generator.permutation(b[1].shape[0])])
        chosen = _correlations(self._a[0], b[0], *self._scales[0])
        pairs = matched_pairs(chosen)
        score = _correlations(self._a[1], b[1], *self._scales[1])[pairs]
        first, second = (live[of] for live, of in zip(self._live, pairs, strict=True))
        return Matched(first, second, score, (len(self._live[0]), len(self._live[1])))


def live_latents(codes: Codes, live_share: float) -> Int64[np.ndarray, " live"]:
    """Latents that fire on at least so large a share of the rows."""
    count = np.bincount(codes.latent, minlength=codes.d_sae)
    return np.flatnonzero((count >= live_share * codes.n) & (count > 0))


def matched_directions(
    first: Float[np.ndarray, "a d"], second: Float[np.ndarray, "b d"], *, either_sign: bool = False
) -> Matched:
    """Partners by the largest sum of cosines between directions; `either_sign` takes their absolute values.

    The best of many cosines is large by itself: compare with as many random directions of the same width.
    """
    cosine = _unit(first) @ _unit(second).T
    cosine = np.abs(cosine) if either_sign else cosine
    pairs = matched_pairs(cosine)
    return Matched(*pairs, np.asarray(cosine[pairs], np.float64), (len(first), len(second)))


def _unit(directions: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(directions.astype(np.float64), axis=1, keepdims=True)
    return np.asarray(directions / np.where(length > 0, length, 1.0))


def _matrix(codes: Codes) -> csr_matrix:
    values = codes.value.astype(np.float64)
    return csr_matrix((values, codes.latent, codes.offsets), shape=(codes.n, codes.d_sae))


def _moments(rows: csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Mean of each column, and root of its sum of squares about it."""
    n = rows.shape[0]
    mean = np.asarray(rows.sum(0)).ravel() / n
    square = np.asarray(rows.multiply(rows).sum(0)).ravel() - n * mean**2
    return mean, np.sqrt(np.maximum(square, 0.0))


def _correlations(
    x: csr_matrix, y: csr_matrix, of_x: tuple[np.ndarray, np.ndarray], of_y: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Pearson correlation of every column of x with every one of y; 0 where one does not vary."""
    together = (x.T @ y).toarray() - x.shape[0] * np.outer(of_x[0], of_y[0])
    scale = np.outer(of_x[1], of_y[1])
    varies: Bool[np.ndarray, "a b"] = scale > 0
    return np.asarray(np.divide(together, scale, out=np.zeros_like(together), where=varies))
