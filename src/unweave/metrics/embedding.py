"""Has an embedding collapsed, and what does it tell apart? Numbers of rows that stand for images."""

import numpy as np
from jaxtyping import Float, Float64, Int64
from sklearn.linear_model import LogisticRegression

from unweave.core.errors import InputError
from unweave.metrics.similarity_rows import row_similarities, unit_rows

_BLOCK = 2048
_VOTES = 20
_VOTE_WIDTH = 0.1


def spectrum(rows: Float[np.ndarray, "n d"]) -> Float64[np.ndarray, " d"]:
    """Eigenvalues of the rows' covariance as shares of their sum, largest first; zeros where rows are all the same."""
    centred = rows.astype(np.float64) - rows.mean(0, dtype=np.float64)
    values = np.clip(np.linalg.eigvalsh(centred.T @ centred)[::-1], 0, None)
    return np.asarray(values / max(float(values.sum()), 1e-300))


def effective_rank(shares: Float64[np.ndarray, " d"]) -> float:
    """exp(−Σ p log p) over shares of variance p: how many directions are in use (Roy & Vetterli, 2007).

    d where all are used alike, 1 where one is; 0 where there is no variance.
    """
    p = shares[shares > 0]
    return float(np.exp(-(p * np.log(p)).sum())) if len(p) else 0.0


def cosines(rows: Float[np.ndarray, "n d"], *, most: int = 1000) -> Float64[np.ndarray, " pairs"]:
    """Cosines of each two of the first `most` rows."""
    unit = unit_rows(rows[:most])
    first, second = np.triu_indices(len(unit), 1)
    return np.asarray((unit @ unit.T)[first, second], np.float64)


def uniformity(rows: Float[np.ndarray, "n d"], *, most: int = 1000) -> float:
    """Log of the mean over pairs of exp(−2 ‖u − v‖²) of rows at length 1; 0 where all are one, −4 at best.

    Wang & Isola (2020), "Understanding contrastive representation learning through alignment and uniformity on the
    hypersphere", https://arxiv.org/abs/2005.10242.
    """
    squares = 2 - 2 * cosines(rows, most=most)
    return float(np.log(np.exp(-2 * squares).mean()))


def alignment(first: Float[np.ndarray, "n d"], second: Float[np.ndarray, "n d"]) -> float:
    """Mean ‖u − v‖² of rows at length 1 that belong together (Wang & Isola, 2020): 0 at best, about 2 by chance."""
    return float((2 - 2 * row_similarities(unit_rows(first), unit_rows(second))).mean())


def matched_share(first: Float[np.ndarray, "n d"], second: Float[np.ndarray, "n d"]) -> float:
    """Share of rows whose nearest among all of `second`, by cosine, is the one that belongs to them; by chance 1/n."""
    a, b = unit_rows(first), unit_rows(second)
    right = 0
    for start in range(0, len(a), _BLOCK):
        nearest = (a[start : start + _BLOCK] @ b.T).argmax(1)
        right += int((nearest == np.arange(start, start + len(nearest))).sum())
    return right / len(a)


def separability(
    first: Float[np.ndarray, "n d"], second: Float[np.ndarray, "n d"], generator: np.random.Generator
) -> float:
    """Share of rows that a logistic regression deals to the right one of two samples; by chance 1/2.

    Row i of both belongs to the same subject. It is fitted on one random half of the subjects and judged on the other,
    and the other way round; rows are at length 1, scaled by √d.

    Raises:
        InputError: there are fewer than four subjects.
    """
    if len(first) < 4:
        raise InputError(f"telling samples apart needs at least 4 subjects, got {len(first)}")
    order = generator.permutation(len(first))
    halves = [order[: len(order) // 2], order[len(order) // 2 :]]
    width = first.shape[1] ** 0.5
    a, b = width * unit_rows(first), width * unit_rows(second)
    right = 0
    for fitted, judged in (halves, halves[::-1]):
        rows, which = np.concatenate([a[fitted], b[fitted]]), np.repeat([0, 1], len(fitted))
        probe = LogisticRegression(C=0.1, max_iter=1000).fit(rows, which)
        shown, truth = np.concatenate([a[judged], b[judged]]), np.repeat([0, 1], len(judged))
        right += int((probe.predict(shown) == truth).sum())
    return right / (2 * len(first))


def neighbour_accuracy(rows: Float[np.ndarray, "n d"], labels: Int64[np.ndarray, " n"]) -> float:
    """Share of rows that get their class from the other rows: the 20 nearest by cosine s vote with weight e^(s/0.1).

    By chance it is the share of the commonest class. After Wu et al. (2018), https://arxiv.org/abs/1805.01978.
    """
    unit = unit_rows(rows)
    n, classes, votes = len(unit), int(labels.max()) + 1, min(_VOTES, len(unit) - 1)
    right = 0
    for start in range(0, n, _BLOCK):
        scores = unit[start : start + _BLOCK] @ unit.T
        own = np.arange(len(scores))
        scores[own, start + own] = -np.inf
        nearest = np.argpartition(-scores, votes - 1, axis=1)[:, :votes]
        weights = np.exp((np.take_along_axis(scores, nearest, 1) - 1) / _VOTE_WIDTH)
        key = own[:, None] * classes + labels[nearest]
        table = np.bincount(key.ravel(), weights=weights.ravel(), minlength=len(own) * classes)
        right += int((table.reshape(-1, classes).argmax(1) == labels[start : start + len(own)]).sum())
    return right / n
