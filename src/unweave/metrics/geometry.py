"""Which directions lie near each other."""

import torch
from jaxtyping import Float, Float64
from torch import Tensor


def cosine_similarities(vectors: Float[Tensor, "m d"]) -> Float64[Tensor, "m m"]:
    """Cosine of each two rows; 0 with a row of length 0."""
    unit = torch.nn.functional.normalize(vectors.detach().double().cpu(), dim=1)
    return unit @ unit.T


def entry_correlation(a: Float64[Tensor, "m m"], b: Float64[Tensor, "m m"]) -> float:
    """Pearson's correlation of all entries of two matrices, diagonal and both halves: each pair counts twice.

    The diagonals of distance matrices are zero in both, which alone makes them correlate: the upper triangle is what
    to compare, and this number only what others have published.
    """
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])
