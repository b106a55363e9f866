"""What a reconstruction loses when one latent is set to zero, in closed form: none is ever taken out one by one."""

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from unweave.core.codes import Codes

_CHUNK = 1 << 22  # numbers held at once, so that they stay in the cache
_SPARSE_GAIN = 64  # gathering an entry's two rows costs about as much as so many entries of a dense product


def error_rises(
    codes: Float[Tensor, "n d_sae"], residual: Float[Tensor, "n d_in"], directions: Float[Tensor, "d_sae d_in"]
) -> Float[Tensor, "n d_sae"]:
    """How much each row's squared error rises when a latent is set to zero, for every row and latent.

    With r = x − x̂ and a latent's direction w, taking f out of the codes leaves r + f w, so the rise of ‖r‖² is
    2 f (r·w) + f² ‖w‖²: one product for all latents. It is exact for dictionaries whose decoder is linear.

    Args:
        codes: f.
        residual: r, what the codes miss of their rows.
        directions: w, what one unit of each latent adds to a row.

    Returns:
        The rises, in the rows' squared unit, summed over their entries; zero where a latent is not active.
    """
    lengths = directions.square().sum(1)
    return codes * (2 * (residual @ directions.T) + codes * lengths)


def entry_error_rises(
    codes: Codes, residual: Float[Tensor, "n d_in"], directions: Float[Tensor, "d_sae d_in"]
) -> Float[np.ndarray, " nnz"]:
    """The same of sparse codes, for each active entry: at any width nothing of size [n, d_sae] is held.

    Args:
        codes: f.
        residual: r, what the codes miss of their rows.
        directions: w, what one unit of each latent adds to a row.
    """
    row, latent = torch.from_numpy(codes.row()).long(), torch.from_numpy(codes.latent).long()
    value = torch.from_numpy(codes.value)
    dense = codes.nnz * _SPARSE_GAIN > codes.n * codes.d_sae
    dots = _dots_of_rows(codes, row, latent, residual, directions) if dense else None
    if dots is None:
        dots = torch.empty(codes.nnz, dtype=residual.dtype)
        for at in torch.arange(codes.nnz).split(max(1, _CHUNK // residual.shape[1])):
            dots[at] = (residual[row[at]] * directions[latent[at]]).sum(1)
    return (value * (2 * dots + value * directions.square().sum(1)[latent])).numpy()


def _dots_of_rows(
    codes: Codes, row: Tensor, latent: Tensor, residual: Tensor, directions: Tensor
) -> Float[Tensor, " nnz"]:
    """r·w of active entries, from dense products of a few rows at a time."""
    dots = torch.empty(codes.nnz, dtype=residual.dtype)
    step = max(1, _CHUNK // codes.d_sae)
    for first in range(0, codes.n, step):
        last = min(first + step, codes.n)
        here = slice(int(codes.offsets[first]), int(codes.offsets[last]))
        dots[here] = (residual[first:last] @ directions.T)[row[here] - first, latent[here]]
    return dots


def mean_rises(
    codes: Codes, rises: Float[np.ndarray, " nnz"], label: Int64[np.ndarray, " n"], classes: int
) -> Float[np.ndarray, "classes d_sae"]:
    """Means of the active entries' rises over all rows of each class (0 for a class without rows), in float64."""
    key = label[codes.row()] * np.int64(codes.d_sae) + codes.latent
    sums = np.bincount(key, weights=rises, minlength=classes * codes.d_sae).reshape(classes, codes.d_sae)
    return np.asarray(sums / np.maximum(np.bincount(label, minlength=classes), 1)[:, None])


def divergence(activity: Float[Tensor, "*shape"], rho: float, *, epsilon: float = 1e-7) -> Float[Tensor, "*shape"]:
    """KL(ρ ‖ a) = ρ log(ρ/a) + (1−ρ) log((1−ρ)/(1−a)) of two Bernoulli variables, a kept `epsilon` from 0 and 1."""
    mean = activity.double().clamp(epsilon, 1 - epsilon)
    return rho * torch.log(rho / mean) + (1 - rho) * torch.log((1 - rho) / (1 - mean))


def divergence_rises(codes: Float[Tensor, "n d_sae"], rho: float, *, epsilon: float = 1e-7) -> Float[Tensor, "n d_sae"]:
    """How much Σ_k KL(ρ ‖ f_k) of a single row rises when one of its latents is set to zero."""
    silent = divergence(torch.zeros((), device=codes.device), rho, epsilon=epsilon)
    return silent - divergence(codes, rho, epsilon=epsilon)


def divergence_offset(codes: Float[Tensor, "n d_sae"], rho: float, *, epsilon: float = 1e-7) -> float:
    """How far the mean over rows of Σ_k KL(ρ ‖ f_k) lies above the Σ_k KL(ρ ‖ mean of f_k) of all rows together.

    KL is convex, so it is never negative. Whoever subtracts a batch's loss from the losses of its single rows adds this
    number, weighted, to every latent's importance.
    """
    alone = divergence(codes, rho, epsilon=epsilon).sum(1).mean()
    together = divergence(codes.double().mean(0), rho, epsilon=epsilon).sum()
    return float(alone - together)


def effective_number(importance: Float[np.ndarray, "*c m"]) -> Float[np.ndarray, "*c"]:
    """Over how many latents importance is spread: the inverse Simpson index (Σ p)² / Σ p².

    m where all are equally important, 1 where one latent is alone; NaN where all are zero. Simpson (1949),
    "Measurement of diversity".
    """
    squares = np.square(importance).sum(-1)
    total = np.square(importance.sum(-1))
    return np.asarray(np.divide(total, squares, out=np.full_like(squares, np.nan), where=squares > 0))
